"""What each part contributes to the difference of two groups that differ in several parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spectral_exp.core.errors import SettingError, UserError, nearest
from spectral_exp.core.wording import format_count, noun
from spectral_exp.results import statistics
from spectral_exp.results.compared import Comparison, GroupSummary
from spectral_exp.results.corrections import SIGNIFICANCE, is_separated
from spectral_exp.results.grid import Cell, Grid, differing_parts_of, find_grid
from spectral_exp.results.statistics import Contrast, Interval
from spectral_exp.results.times import busy_machine

MAX_PARTS = 6
"""The largest number of parts; a grid of six has 64 cells."""


@dataclass(frozen=True)
class Effect:
    """The change of the metric when one part changes from the baseline's value to the candidate's.

    Attributes:
        part: its name.
        given: for a simple effect, the parts that have the candidate's value already; None for the
            main effect, which is the mean over all choices of the other parts.
        n: number of seeds; if not paired, of runs in the smaller group.
        paired: whether the differences are taken by seed.
        mean: of the effect; None without values.
        interval: None below three values and without spread.
        p_value, p_holm: before and after Holm's correction over all effects; None without interval.
        level, detectable: as for `Difference`.
        separated: whether p_holm < 0.05, the interval excludes 0, and no busy machine may explain
            it.
        reason: why there is no interval or no verdict, or "".
    """

    part: str
    given: Cell | None
    n: int
    paired: bool
    mean: float | None
    interval: Interval | None
    p_value: float | None
    reason: str
    p_holm: float | None = None
    level: float | None = None
    detectable: float | None = None
    separated: bool = False

    def verdict(self, lower_is_better: bool | None) -> str:
        """Return the outcome of the test in a few words."""
        if self.separated and self.mean is not None:
            if lower_is_better is None:
                return "differs"
            return "better" if (self.mean < 0) == lower_is_better else "worse"
        return "not separated" if self.interval else self.reason or "no interval"


@dataclass(frozen=True)
class Attribution:
    """The effects of single parts on the way from a baseline to a candidate.

    Attributes:
        metric, at, lower_is_better: as for `Comparison`.
        baseline, candidate: labels.
        grid: the parts and the groups between the two.
        total: the candidate minus the baseline, not corrected.
        effects: the main effect of each part, then the simple effects of each.
    """

    metric: str
    at: str
    lower_is_better: bool | None
    baseline: str
    candidate: str
    grid: Grid
    total: Effect
    effects: Sequence[Effect]

    @property
    def notes(self) -> list[str]:
        """Sentences on the whole: the total, interactions, missing cells, sizes, the correction."""
        notes = [self._about_total()]
        if missing := self.grid.missing:
            notes.append(
                f"{format_count(len(missing), 'group')} of the grid of {2 ** len(self.grid.parts)} "
                f"{noun(len(missing), 'has', 'have')} no finished run, so there are no main "
                "effects: " + "; ".join(map(self.grid.describe, missing))
            )
        if sizes := self.unequal_sizes:
            notes.append(
                f"the groups have {sizes[0]:,} to {sizes[1]:,} parameters: effects include "
                "those of the size"
            )
        n_tests = sum(one.p_value is not None for one in self.effects)
        if n_tests > 1:
            notes.append(f"p-values are corrected for {n_tests} effects (Holm)")
        return notes

    @property
    def unequal_sizes(self) -> tuple[int, int] | None:
        """The lowest and highest number of parameters, or None if they differ by at most 1 %."""
        sizes = [
            size
            for summary in self.grid.cells.values()
            for run in summary.runs
            if (size := run.n_parameters) is not None
        ]
        if not sizes or max(sizes) <= 1.01 * min(sizes):
            return None
        return min(sizes), max(sizes)

    def _about_total(self) -> str:
        if self.total.mean is None:
            return "all parts together: no values"
        n = f"n = {self.total.n}{'' if self.total.paired else ', not paired by seed'}"
        bounds = self.total.interval
        interval = f" [{bounds.low:+.5g}, {bounds.high:+.5g}]" if bounds else ""
        words = f"all parts together change {self.metric} by {self.total.mean:+.5g}{interval}, {n}"
        main = [one.mean for one in self.effects if one.given is None and one.mean is not None]
        if len(main) < len(self.grid.parts):
            return words
        return f"{words}; the main effects add up to {math.fsum(main):+.5g}" + (
            ", the rest is due to interactions" if len(main) > 2 else ""
        )


def attribute(comparison: Comparison, candidate: str | None = None) -> Attribution:
    """Return what each part contributes between the baseline of a comparison and another group.

    Simple effects compare two groups that differ in one part only; on every path from the baseline
    to the candidate they add up to the whole difference. A main effect is the mean of the simple
    effects of a part over all choices of the other parts, taken for each seed.

    Args:
        comparison: of groups that differ in their settings, not in their seed.
        candidate: the label of a group; None for the group that differs in most parts.

    Raises:
        UserError: there is no such group, or it differs from the baseline in fewer than two parts
            or in more than `MAX_PARTS`.
    """
    base = next((s for s in comparison.summaries if s.group.label == comparison.baseline), None)
    if base is None:
        raise UserError("there is nothing to attribute: only one group was found")
    last = _candidate(comparison, base, candidate)
    grid = find_grid(base, last, comparison.summaries)
    if not 2 <= len(grid.parts) <= MAX_PARTS:
        raise UserError(
            f"{last.group.label} differs from {base.group.label} in "
            f"{', '.join(grid.names) or 'nothing that affects training'}; a difference is "
            f"attributed among 2 to {MAX_PARTS} parts"
        )
    tested = [
        *(_main_effect(grid, name) for name in grid.names),
        *(
            _simple_effect(comparison, name, given, grid.cells[given], grid.cells[given | {name}])
            for name in grid.names
            for given in grid.subsets(without=name)
            if given in grid.cells and given | {name} in grid.cells
        ),
    ]
    total, _ = _simple_effect(comparison, "", frozenset(), base, last)
    return Attribution(
        comparison.metric,
        comparison.at,
        comparison.lower_is_better,
        base.group.label,
        last.group.label,
        grid,
        total,
        _correct(tested),
    )


def _candidate(comparison: Comparison, base: GroupSummary, label: str | None) -> GroupSummary:
    others = {s.group.label: s for s in comparison.summaries if s is not base}
    if label is not None:
        if label not in others:
            allowed = f"the label of another group than the baseline: {', '.join(others)}"
            raise SettingError("attribute", label, f"{allowed}{nearest(label, list(others))}")
        return others[label]
    counts = {
        name: len(differing_parts_of(base.group.runs[0], summary.group.runs[0]))
        for name, summary in others.items()
    }
    most = [name for name, count in counts.items() if count == max(counts.values())]
    if len(most) != 1:
        raise UserError(
            f"{', '.join(sorted(most))} differ from {base.group.label} in equally many parts; name "
            "the one whose difference is to be attributed, as --attribute GROUP"
        )
    return others[most[0]]


def _by_seed(summary: GroupSummary) -> dict[int, float]:
    pairs = zip(summary.seeds, summary.values, strict=True)
    return {seed: value for seed, value in pairs if seed is not None}


def _simple_effect(
    comparison: Comparison, part: str, given: Cell, a: GroupSummary, b: GroupSummary
) -> tuple[Effect, Contrast]:
    one, other = _by_seed(a), _by_seed(b)
    seeds = [seed for seed in one if seed in other]
    paired = len(seeds) >= statistics.MIN_RUNS
    if paired:
        contrast = statistics.paired_contrast(
            [one[seed] for seed in seeds], [other[seed] for seed in seeds]
        )
    else:
        contrast = statistics.unpaired_contrast(a.values, b.values)
    n = len(seeds) if paired else min(len(a.values), len(b.values))
    busy = busy_machine(comparison.metric, [(a.runs, a.values), (b.runs, b.values)], comparison.at)
    return _effect(part, given, n, paired, contrast, "busy machine" if busy else ""), contrast


def _main_effect(grid: Grid, part: str) -> tuple[Effect, Contrast]:
    """Return the mean of the simple effects of a part, which needs the whole grid."""
    if grid.missing:
        contrast = Contrast(None, None, None, "groups are missing")
        return _effect(part, None, 0, paired=True, contrast=contrast), contrast
    values = {cell: _by_seed(summary) for cell, summary in grid.cells.items()}
    seeds = sorted(set.intersection(*(set(one) for one in values.values())))
    without = grid.subsets(without=part)
    before, after = (
        [math.fsum(values[cell][seed] for cell in side) / len(side) for seed in seeds]
        for side in (without, [cell | {part} for cell in without])
    )
    contrast = statistics.paired_contrast(before, after)
    if not seeds:
        contrast = replace(contrast, reason="no seed is in all groups")
    return _effect(part, None, len(seeds), paired=True, contrast=contrast), contrast


def _effect(
    part: str, given: Cell | None, n: int, paired: bool, contrast: Contrast, doubt: str = ""
) -> Effect:
    return Effect(
        part,
        given,
        n,
        paired,
        contrast.mean,
        contrast.interval,
        contrast.p_value,
        doubt or contrast.reason,
    )


def _correct(tested: Sequence[tuple[Effect, Contrast]]) -> list[Effect]:
    """Apply Holm's correction over all effects."""
    known = [i for i, (effect, _) in enumerate(tested) if effect.p_value is not None]
    p_values = [effect.p_value for effect, _ in tested if effect.p_value is not None]
    corrected: Mapping[int, float] = dict(zip(known, statistics.holm(p_values), strict=True))
    levels: Mapping[int, float] = dict(
        zip(known, statistics.holm_levels(p_values, SIGNIFICANCE), strict=True)
    )
    busy = {effect.part for effect, _ in tested if effect.reason == "busy machine"}
    found = []
    for i, (effect, contrast) in enumerate(tested):
        p, level = corrected.get(i), levels.get(i)
        in_doubt = effect.reason == "busy machine" or (effect.given is None and effect.part in busy)
        separated = not in_doubt and is_separated(p, effect.interval)
        detectable = None if level is None else contrast.detectable(level)
        found.append(
            replace(effect, p_holm=p, level=level, detectable=detectable, separated=separated)
        )
    return found
