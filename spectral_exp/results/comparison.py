"""Groups of runs side by side: statistics of each, differences between them, and what makes a comparison unfair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spectral_exp.errors import SettingError, UserError, nearest
from spectral_exp.results import checks, statistics
from spectral_exp.results.group import Group
from spectral_exp.results.pairs import (
    LEARNING_RATE,
    ablation_pairs,
    differing_parts,
    other_differences,
    pairs_by_seed,
    training_settings,
)
from spectral_exp.results.run import DERIVED, Run, check_at, lower_is_better
from spectral_exp.results.settings import PARTS
from spectral_exp.results.statistics import Interval
from spectral_exp.timestamps import seconds_since_epoch

__all__ = [
    "Comparison",
    "Difference",
    "GroupSummary",
    "Interval",
    "compare",
    "factor_effects",
    "pareto_front",
]

SIGNIFICANCE = 0.05

_FEW = 6  # runs, below which it is said what the tests assume
_MAX_SHOWN = 5


@dataclass(frozen=True)
class GroupSummary:
    """One metric of one group.

    Attributes:
        group: the group.
        values: of the runs that count, in the group's order, with `seeds`; finite.
        seeds: their seeds.
        left_out: run id and reason of each run that does not count (unfinished, non-finite, no such metric).
        mean, median, iqm: of `values`; None without any. `iqm` is the interquartile mean.
        interval: of the mean, by stratified bootstrap (`statistics.mean_interval`); None below three runs and without
            any spread.
        notes: flags of single runs and of the group (below the source's entropy, dirty code, other data, n < 3), a
            sentence each.
        runs, strata: the runs behind `values`, and the stratum of each.
    """

    group: Group
    values: Sequence[float]
    seeds: Sequence[int | None]
    left_out: Sequence[tuple[str, str]]
    mean: float | None
    median: float | None
    iqm: float | None
    interval: Interval | None
    notes: Sequence[str]
    runs: Sequence[Run] = ()
    strata: Sequence[int] = ()

    @cached_property  # the baseline's is held against that of every other group
    def settings(self) -> dict[str, str]:
        """Every setting that decides about training, with all its values in `runs` as words."""
        return training_settings(self.runs)


@dataclass(frozen=True)
class Difference:
    """Group `b` minus group `a`.

    Attributes:
        a, b: the two groups' summaries.
        kind: `baseline` (b against the baseline a) or `ablation` (they differ in one part of the grid).
        part: for an ablation the part that differs (embedding, attention, mlp, optimizer, loss), else None.
        paired: whether the values were paired by seed; else the two groups are taken as independent.
        n: pairs; where not paired the smaller number of runs.
        mean: of the differences; None without any. Where not paired, the difference of the means.
        interval: of `mean`; None below three, and where all differences are equal, which tells of no spread.
        probability_of_improvement: that a run of b is better than one of a (0 to 1); None below three, where a pair or
            two would read as certainty.
        p_value: before correction, by the paired t-test or Welch's; None where `interval` is.
        p_holm: after Holm's correction over all differences shown together; None where `interval` is.
        separated: p_holm < 0.05 and the interval excludes 0.
        matches: by quantity (`checks.QUANTITIES`, and `settings` for all settings beside the parts): True, False, or
            None where unknown.
        warnings: a sentence for each that does not match and matters for the metric, with both values; runs without a
            partner; why there is no interval.
        lower_is_better: the metric's direction.
    """

    a: GroupSummary
    b: GroupSummary
    kind: str
    part: str | None
    paired: bool
    n: int
    mean: float | None
    interval: Interval | None
    probability_of_improvement: float | None
    p_value: float | None
    p_holm: float | None
    separated: bool
    matches: dict[str, bool | None]
    warnings: Sequence[str]
    lower_is_better: bool = True

    @property
    def better(self) -> bool:
        """Whether `b` is separated from `a` in the metric's favourable direction."""
        return self.separated and self.mean is not None and (self.mean < 0) == self.lower_is_better


@dataclass(frozen=True)
class Comparison:
    """All that is said about one metric.

    Attributes:
        metric: its name.
        at: which value of each run: final, best or step:N.
        lower_is_better: the metric's direction.
        summaries: of the groups, in the order in which they are shown.
        baseline: label of the baseline, or None.
        differences: to the baseline first, then the ablations; Holm's correction is over all of them.
        notes: what concerns the whole: selections, n < 3, tuning, the number of tests.
    """

    metric: str
    at: str
    lower_is_better: bool
    summaries: Sequence[GroupSummary]
    baseline: str | None
    differences: Sequence[Difference]
    notes: Sequence[str]


def compare(
    groups: Sequence[Group], metric: str = "val_bpb", *, at: str = "final", baseline: str | None = None
) -> Comparison:
    """Compare groups in one metric.

    A run counts when it has finished (for `step:N`: has reached step N) and its value is finite. Of runs that repeat a
    configuration with the same seed only the newest counts, since they are no independent evidence.

    Args:
        groups: from `ResultsAggregator.groups`.
        metric: a metric's name.
        at: which value of each run, as for `Run.value`.
        baseline: label of the group that the others are held against; None chooses `classic`, else the first.

    Raises:
        UserError: there are no groups; no run has the metric; `at` is none of the three; the baseline is not among the
            groups.
    """
    if not groups:
        raise UserError("there is nothing to compare: no run was found, or none meets the conditions")
    check_at(at)
    reference = _baseline(groups, baseline)
    if all(run.value(metric, at) is None for group in groups for run in group.runs):
        raise UserError(_no_metric(metric, groups))
    odd = checks.odd_ones_out([run for group in groups for run in group.runs])
    summaries = [_summary(group, metric, at, odd) for group in groups]
    base = next(summary for summary in summaries if summary.group.label == reference)
    differences = [_difference(base, other, None, metric, at) for other in summaries if other is not base]
    differences += [_difference(a, b, part, metric, at) for a, b, part in _ablations(summaries, base)]
    differences = _corrected(differences)
    return Comparison(
        metric=metric,
        at=at,
        lower_is_better=lower_is_better(metric),
        summaries=summaries,
        baseline=reference if len(summaries) > 1 else None,
        differences=differences,
        notes=_notes(at, summaries, differences),
    )


def factor_effects(comparison: Comparison) -> dict[str, list[Difference]]:
    """The ablations by the part that differs, in the order of the grid; parts without any are left out."""
    found: dict[str, list[Difference]] = {part: [] for part in PARTS}
    for difference in comparison.differences:
        if difference.part is not None:
            found[difference.part].append(difference)
    return {part: differences for part, differences in found.items() if differences}


def pareto_front(comparison: Comparison, cost_metric: str = "train_s") -> list[GroupSummary]:
    """The groups that no other one equals or beats in both mean metric and mean cost, ascending by cost.

    The cost is taken over the runs that count for the metric; groups without either are left out.
    """
    sign = 1.0 if comparison.lower_is_better else -1.0
    points = []
    for summary in comparison.summaries:
        costs = [cost for run in summary.runs if (cost := run.value(cost_metric)) is not None and math.isfinite(cost)]
        if summary.mean is not None and costs:
            points.append((math.fsum(costs) / len(costs), sign * summary.mean, summary))
    points.sort(key=lambda point: point[:2])
    return [
        summary
        for cost, loss, summary in points
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v, _ in points)
    ]


# --- one group -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counted:
    run: Run
    stratum: int
    value: float


def _summary(group: Group, metric: str, at: str, odd: Mapping[str, Sequence[str]]) -> GroupSummary:
    counted: list[_Counted] = []
    left_out: list[tuple[str, str]] = []
    broken = 0
    for run, stratum in zip(group.runs, group.strata, strict=True):
        value = run.value(metric, at)
        if not _reached(run, at):
            left_out.append((run.run_id, checks.unfinished(run)))
            broken += run.status in {"failed", "diverged"}
        elif value is None:
            left_out.append((run.run_id, f"no {metric}"))
        elif not math.isfinite(value):
            left_out.append((run.run_id, f"{metric} is {value}"))
            broken += 1
        else:
            counted.append(_Counted(run, stratum, value))
    counted, repeats = _without_repeats(counted)
    runs, strata, values = [c.run for c in counted], [c.stratum for c in counted], [c.value for c in counted]
    interval = statistics.mean_interval(values, strata)
    flags = {run.run_id: [*checks.run_flags(run, metric), *odd.get(run.run_id, ())] for run in runs}
    notes = [*_group_notes(metric, counted, interval), *_told_together(flags)]
    if broken:
        notes.insert(0, f"{broken} of {len(group.runs)} runs broke and are not among the values, which flatters them")
    if repeats:
        notes.append(f"repeated runs count once: {'; '.join(reason for _, reason in repeats)}")
    return GroupSummary(
        group=group,
        values=values,
        seeds=[run.seed for run in runs],
        left_out=[*left_out, *repeats],
        mean=float(statistics.mean(values)) if values else None,
        median=float(statistics.median(values)) if values else None,
        iqm=float(statistics.interquartile_mean(values)) if values else None,
        interval=interval,
        notes=notes,
        runs=runs,
        strata=strata,
    )


def _reached(run: Run, at: str) -> bool:
    """Whether the run got to where the value is taken."""
    stop = check_at(at)
    return run.finished or (stop is not None and run.last_step >= stop)


def _without_repeats(counted: Sequence[_Counted]) -> tuple[list[_Counted], list[tuple[str, str]]]:
    """Of the runs of one stratum with the same seed the newest, and run id and reason of each of the others."""
    newest: dict[tuple[int, int | None], _Counted] = {}
    for one in counted:
        key = (one.stratum, one.run.seed)
        if key not in newest or _age(one.run) > _age(newest[key].run):
            newest[key] = one
    kept: list[_Counted] = []
    repeats = []
    for one in counted:
        last = newest[one.stratum, one.run.seed]
        if one is last or one.run.seed is None:
            kept.append(one)
            continue
        values = "" if one.value == last.value else f" (the values differ: {one.value:.6g} and {last.value:.6g})"
        repeats.append((one.run.run_id, f"seed {one.run.seed} was run again as {last.run.run_id}{values}"))
    return kept, repeats


def _age(run: Run) -> tuple[float, str]:
    """Sorts runs by the time at which they were begun; those that do not record it come first."""
    begun_s = seconds_since_epoch(run.record.get("timestamp"))
    return -math.inf if math.isnan(begun_s) else begun_s, run.run_id


def _group_notes(metric: str, counted: Sequence[_Counted], interval: Interval | None) -> list[str]:
    values, strata = [c.value for c in counted], [c.stratum for c in counted]
    n, sizes = len(values), [strata.count(stratum) for stratum in sorted({*strata})]
    notes = []
    if n < statistics.MIN_RUNS:
        notes.append(f"no interval: {n} run{'' if n == 1 else 's'}, three are needed")
    elif interval is None:
        spread = "too few runs of each configuration" if n - len(sizes) < 2 else f"no spread in {metric} between runs"
        notes.append(f"no interval: {spread}")
    if len({*sizes}) > 1:
        notes.append(
            f"its configurations have different numbers of runs ({', '.join(map(str, sizes))}); the mean weighs every "
            "run the same"
        )
    first: dict[float, Run] = {}
    for one in counted if metric not in DERIVED else ():
        twin = first.setdefault(one.value, one.run)
        if twin.seed != one.run.seed:
            notes.append(
                f"{twin.run_id} and {one.run.run_id} have exactly the same {metric} although their seeds differ: the "
                "seed changed nothing, or one is a copy"
            )
    return notes


def _told_together(flags: Mapping[str, Sequence[str]]) -> list[str]:
    """Each sentence once, with the runs that it is about."""
    runs_of: dict[str, list[str]] = {}
    for run_id, sentences in flags.items():
        for sentence in sentences:
            runs_of.setdefault(sentence, []).append(run_id)
    notes = []
    for sentence, runs in runs_of.items():
        who = f"all {len(flags)} runs" if len(runs) == len(flags) > 1 else ", ".join(runs)
        notes.append(f"{who}: {sentence}")
    return notes


# --- two groups ------------------------------------------------------------------------------------------------------


def _ablations(
    summaries: Sequence[GroupSummary], base: GroupSummary
) -> Iterator[tuple[GroupSummary, GroupSummary, str]]:
    """Pairs that differ in one part alone, with that part; first the one that has it in common with the baseline."""
    for i, j, part in ablation_pairs([summary.group for summary in summaries]):
        a, b = summaries[i], summaries[j]
        usual = {run.parts.get(part) for run in base.group.runs}
        swapped = {run.parts.get(part) for run in b.group.runs} == usual
        yield (b, a, part) if swapped else (a, b, part)


def _difference(a: GroupSummary, b: GroupSummary, part: str | None, metric: str, at: str) -> Difference:
    """`b` minus `a`, not yet corrected for the number of differences."""
    lower = lower_is_better(metric)
    pairs = pairs_by_seed(*(replace(s.group, runs=s.runs, strata=s.strata) for s in (a, b)))
    paired = len(pairs) >= statistics.MIN_RUNS
    notes = []
    if paired:
        values_a, values_b = [_value_of(a, one) for one, _, _ in pairs], [_value_of(b, other) for _, other, _ in pairs]
        strata = [stratum for _, _, stratum in pairs]
        contrast = statistics.paired_contrast(values_a, values_b, strata)
        partners = {run.run_id for one, other, _ in pairs for run in (one, other)}
        alone = [run.run_id for run in (*a.runs, *b.runs) if run.run_id not in partners]
        if alone:
            notes.append(f"without a partner of the same seed and not in the difference: {', '.join(alone)}")
    else:
        contrast = statistics.unpaired_contrast(a.values, b.values, a.strata, b.strata)
        if min(len(a.values), len(b.values)) >= statistics.MIN_RUNS:
            notes.append("taken as independent samples: fewer than three seeds in common")
    if contrast.reason:
        notes.append(f"no interval and no test: {contrast.reason}")
    chance = None
    if paired and len({*strata}) > 1:
        chance = statistics.probability_of_improvement(values_a, values_b, strata, strata, lower_is_better=lower)
    elif min(len(a.values), len(b.values)) >= statistics.MIN_RUNS:
        chance = statistics.probability_of_improvement(a.values, b.values, lower_is_better=lower)
    matches, warnings = _fairness(a, b, part, metric, at)
    return Difference(
        a=a,
        b=b,
        kind="baseline" if part is None else "ablation",
        part=part,
        paired=paired,
        n=len(pairs) if paired else min(len(a.values), len(b.values)),
        mean=contrast.mean,
        interval=contrast.interval,
        probability_of_improvement=chance,
        p_value=contrast.p_value,
        p_holm=None,
        separated=False,
        matches=matches,
        warnings=[*warnings, *notes],
        lower_is_better=lower,
    )


def _value_of(summary: GroupSummary, run: Run) -> float:
    return next(value for one, value in zip(summary.runs, summary.values, strict=True) if one.run_id == run.run_id)


def _fairness(
    a: GroupSummary, b: GroupSummary, part: str | None, metric: str, at: str
) -> tuple[dict[str, bool | None], list[str]]:
    """What matches and a sentence for what does not, the gravest first."""
    matches: dict[str, bool | None] = dict.fromkeys((*checks.QUANTITIES, "settings"))
    if not a.runs or not b.runs:
        return matches, []
    matched, warnings = checks.match_groups(a.runs, b.runs, metric, at)
    if metric in checks.VALIDATION_METRICS:
        doubts = (f"{s.group.label}: {doubt}" for s in (a, b) for run in s.runs if (doubt := checks.too_good(run)))
        warnings = [*dict.fromkeys(doubts), *warnings]
    settings = other_differences(a.settings, b.settings, differing_parts(a.runs, b.runs))
    if settings:
        more = len(settings) - _MAX_SHOWN
        shown = "; ".join(settings[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        warnings.append(f"settings differ beside the parts: {shown}")
    if part is not None:
        warnings += _adapted(a.runs[0], b.runs[0], part)
    return matches | matched | {"settings": not settings}, warnings


def _adapted(a: Run, b: Run, part: str) -> list[str]:
    """What else has another size in an ablation: what came with the part, and what was widened to match."""
    sizes_a, sizes_b = ((run.record.get("model") or {}).get("parameters_by_component") or {} for run in (a, b))
    return [
        f"the size of the {name} differs too: {sizes_a[name]:,} against {sizes_b[name]:,} parameters"
        for name in ("embedding", "attention", "mlp", "head")
        if name != part and name in sizes_a and name in sizes_b and sizes_a[name] != sizes_b[name]
    ]


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With Holm's correction over all pairs of groups; a pair that is shown twice is one test."""
    tests = {_pair(d): d.p_value for d in differences if d.p_value is not None}
    corrected = dict(zip(tests, statistics.holm(list(tests.values())), strict=True))
    found = []
    for difference in differences:
        p = corrected.get(_pair(difference))
        interval = difference.interval
        separated = p is not None and p < SIGNIFICANCE and interval is not None and interval.excludes_zero
        found.append(replace(difference, p_holm=p, separated=separated))
    return found


def _pair(difference: Difference) -> frozenset[str]:
    return frozenset((difference.a.group.label, difference.b.group.label))


# --- the whole -------------------------------------------------------------------------------------------------------


def _baseline(groups: Sequence[Group], label: str | None) -> str:
    labels = [group.label for group in groups]
    if label is None:
        named = [group.label for group in groups if {run.name for run in group.runs} == {"classic"}]
        return "classic" if "classic" in labels else named[0] if named else labels[0]
    if label not in labels:
        raise SettingError("baseline", label, f"the label of a group: {', '.join(labels)}{nearest(label, labels)}")
    return label


def _no_metric(metric: str, groups: Sequence[Group]) -> str:
    found = {name for group in groups for run in group.runs for name in run.results.get("final_metrics") or {}}
    names = sorted({*found, *DERIVED} - {"step"})
    return (
        f"no run has the metric {metric}{nearest(metric, names)}; known are {', '.join(names)}, and all that is logged"
    )


def _notes(at: str, summaries: Sequence[GroupSummary], differences: Sequence[Difference]) -> list[str]:
    notes = []
    if at == "best":
        notes.append("values are the best of each run, chosen on the validation text itself: they flatter every run")
    few = [f"{s.group.label} ({len(s.values)})" for s in summaries if len(s.values) < statistics.MIN_RUNS]
    if few:
        notes.append(f"no interval and no test with fewer than three runs: {', '.join(few)}")
    tested = {_pair(d): d.n for d in differences if d.p_value is not None}
    if len(tested) > 1:
        notes.append(f"p-values are corrected for {len(tested)} comparisons (Holm)")
    if tested and min(tested.values()) < _FEW:
        notes.append(f"with fewer than {_FEW} runs in a group the t-tests rest on roughly normal differences")
    return [*notes, *_tuning(summaries)]


def _tuning(summaries: Sequence[GroupSummary]) -> list[str]:
    """Whether every combination of parts was tried at equally many learning rates."""
    rates: dict[str, set[float]] = {}
    names: dict[str, str] = {}
    for run in (run for summary in summaries for run in summary.group.runs):
        rate = run.settings.get(LEARNING_RATE)
        if isinstance(rate, int | float):
            key = repr(sorted(run.parts.items())) if run.parts else run.name
            names.setdefault(key, run.name)
            rates.setdefault(key, set()).add(float(rate))
    if len(rates) < 2:
        return []
    tried = {len(found) for found in rates.values()}
    if tried == {1}:
        values = sorted({rate for found in rates.values() for rate in found})
        return [f"compared at one learning rate each ({', '.join(f'{v:g}' for v in values)}): none was tuned"]
    if len(tried) == 1:
        return []
    counts = ", ".join(f"{names[key]} {len(found)}" for key, found in rates.items())
    return [f"learning rates tried differ in number, which favours those with more: {counts}"]
