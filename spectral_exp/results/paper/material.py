"""The material of a paper: runs, their comparison, the author's choices, and numbers of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.results.compared import Comparison, Difference, GroupSummary
from spectral_exp.results.document.model import (
    Code,
    Figure,
    Inline,
    Number,
    Source,
    Text,
    join_texts,
)
from spectral_exp.results.document.trace import Runs
from spectral_exp.results.group import Group
from spectral_exp.results.statistics import Interval
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.run import Run

DASH = "\u2013"
"""Stands for a missing value, and between the ends of a range."""

NOT_RECORDED = ("(not recorded)",)
"""Stands for a value that no run recorded."""

ARCHIVED = "archived"
"""The reason why an archived run is left out."""


@dataclass(frozen=True)
class Choices:
    """The author's choices, which `provenance.json` records to make the paper again.

    Attributes:
        metric, at, baseline: as for `compare`.
        where, group_by: as for `ResultsAggregator`.
        title: None makes one from the runs.
        authors: names.
        notes: the author's text, in Markdown.
        notes_file: its file relative to the paper, or None.
    """

    metric: str = "val_bpb"
    at: str = "final"
    baseline: str | None = None
    where: tuple[str, ...] = ()
    group_by: tuple[str, ...] | None = None
    title: str | None = None
    authors: tuple[str, ...] = ()
    notes: str = ""
    notes_file: str | None = None


@dataclass(frozen=True)
class Material:
    """Everything that a paper is written from.

    Attributes:
        choices: of the author.
        runs: all of them, in the order of the appendix.
        groups: the runs, grouped.
        comparison: of the groups, in the chosen metric.
        left_out: name and reason of each folder that looks like a run and is not usable, and of
            archived runs.
        figures: those of the comparison by their topic (`results.figures.Topic`).
        metric_decimals: decimals of the metric; None derives them from the intervals.
    """

    choices: Choices
    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    comparison: Comparison
    left_out: tuple[tuple[str, str], ...]
    figures: Mapping[str, Sequence[Figure]]
    metric_decimals: int | None = None

    @property
    def numbered_runs(self) -> Runs:
        """The runs under their short numbers."""
        return Runs(self.runs)

    @property
    def metric_words(self) -> str:
        """The metric in words."""
        return metric_info(self.comparison.metric).words or self.comparison.metric

    @property
    def tests(self) -> Number:
        """The number of tested pairs of configurations, which Holm's correction covers."""
        pairs = {
            frozenset((d.a.group.label, d.b.group.label))
            for d in self.comparison.differences
            if d.p_value is not None
        }
        return self.number_of(len(pairs), "tests")

    @property
    def decimals(self) -> int:
        """Decimals of the metric: two digits of the typical half-width of an interval."""
        if self.metric_decimals is not None:
            return self.metric_decimals
        widths = [s.interval.high - s.interval.low for s in self.comparison.summaries if s.interval]
        widths = sorted(width / 2 for width in widths if width > 0)
        if not widths:
            return 4
        return min(max(1 - math.floor(math.log10(widths[len(widths) // 2])), 2), 5)

    # --- the comparison -------------------------------------------------------------------

    def mean(self, summary: GroupSummary) -> Text:
        """The mean of a group, or a dash."""
        return self._statistic(summary, summary.mean, "mean over the runs")

    def median(self, summary: GroupSummary) -> Text:
        """The median of a group, or a dash."""
        return self._statistic(summary, summary.median, "median over the runs")

    def iqm(self, summary: GroupSummary) -> Text:
        """The interquartile mean of a group, or a dash."""
        return self._statistic(summary, summary.iqm, "interquartile mean over the runs")

    def interval(self, summary: GroupSummary) -> Text:
        """The interval of a group's mean in brackets, or a dash."""
        formula = "bound of the 95 % bootstrap interval of the mean"
        return self._bounds(
            summary.interval, self._source(self.ids(summary), formula), signed=False
        )

    def count(self, summary: GroupSummary) -> Text:
        """How many runs of a group count."""
        return (
            Number(
                str(len(summary.values)),
                len(summary.values),
                self._source(self.ids(summary), "number of runs"),
            ),
        )

    def ids(self, summary: GroupSummary) -> tuple[str, ...]:
        """The runs of a group that count."""
        return tuple(run.run_id for run in summary.runs)

    def difference(self, difference: Difference) -> Text:
        """The mean difference b - a with its sign, or a dash."""
        paired = (
            "mean of the differences paired by seed"
            if difference.paired
            else "difference of the means"
        )
        if difference.mean is None:
            return (DASH,)
        formula = f"{paired}, {difference.b.group.label} minus {difference.a.group.label}"
        source = self._source(self._both(difference), formula)
        return (Number(format_signed(difference.mean, self.decimals), difference.mean, source),)

    def difference_interval(self, difference: Difference) -> Text:
        """The interval of a difference in brackets, or a dash."""
        formula = (
            f"bound of the 95 % interval of {difference.b.group.label} minus"
            f" {difference.a.group.label}"
        )
        return self._bounds(
            difference.interval, self._source(self._both(difference), formula), signed=True
        )

    def pairs(self, difference: Difference) -> Text:
        """On how many pairs a difference rests."""
        formula = "number of pairs" if difference.paired else "number of runs of the smaller group"
        return (
            Number(str(difference.n), difference.n, self._source(self._both(difference), formula)),
        )

    def probability(self, difference: Difference) -> Text:
        """The probability of improvement, or a dash."""
        value = difference.probability_of_improvement
        return self._of_difference(
            difference, value, "probability of improvement", lambda p: f"{p:.2f}"
        )

    def p_value(self, difference: Difference) -> Text:
        """The p value before correction, or a dash."""
        return self._of_difference(
            difference, difference.p_value, "p value before correction", small
        )

    def p_holm(self, difference: Difference) -> Text:
        """The p value after Holm's correction, or a dash."""
        return self._of_difference(
            difference, difference.p_holm, "p value after Holm's correction", small
        )

    def number_of(self, n: int, what: str, runs: Iterable[Run] | None = None) -> Number:
        """A count of things among the runs."""
        return Number(
            str(n), n, Source(what, tuple(run.run_id for run in runs or self.runs), formula="count")
        )

    def _of_difference(
        self,
        difference: Difference,
        value: float | None,
        formula: str,
        show: Callable[[float], str],
    ) -> Text:
        if value is None:
            return (DASH,)
        return (Number(show(value), value, self._source(self._both(difference), formula)),)

    def _both(self, difference: Difference) -> tuple[str, ...]:
        return (*self.ids(difference.a), *self.ids(difference.b))

    def _source(self, ids: tuple[str, ...], formula: str) -> Source:
        return Source(self.comparison.metric, ids, self.comparison.at, formula)

    def _statistic(self, summary: GroupSummary, value: float | None, formula: str) -> Text:
        if value is None:
            return (DASH,)
        return (
            Number(f"{value:.{self.decimals}f}", value, self._source(self.ids(summary), formula)),
        )

    def _bounds(self, interval: Interval | None, source: Source, signed: bool) -> Text:
        if interval is None:
            return (DASH,)
        low, high = (
            Number(_format_fixed(x, self.decimals, signed), x, source)
            for x in (interval.low, interval.high)
        )
        return ("[", low, ",\u00a0", high, "]")

    # --- single runs ----------------------------------------------------------------------

    def setting(self, name: str, runs: Sequence[Run] | None = None) -> Text:
        """Return a setting's value, all values if runs differ, or `NOT_RECORDED`."""
        return shared_value(
            self.runs if runs is None else runs, name, lambda run: run.settings.get(name)
        )

    def fact(self, path: str, runs: Sequence[Run] | None = None) -> Text:
        """Return the value or values of an entry of `config.json`, by its dotted path."""
        return shared_value(
            self.runs if runs is None else runs, path, lambda run: dig(run.record, path)
        )

    def value(self, run: Run) -> Text:
        """The metric of one run, or a dash."""
        value = run.value(self.comparison.metric, self.comparison.at)
        if value is None:
            return (DASH,)
        source = Source(self.comparison.metric, (run.run_id,), self.comparison.at)
        return (Number(f"{value:.{self.decimals}f}", value, source),)

    def average(self, runs: Sequence[Run], metric: str, show: Callable[[float], str]) -> Text:
        """The mean of a metric over those runs that have it, or a dash."""
        found = [
            (run.run_id, v)
            for run in runs
            if (v := run.value(metric)) is not None and math.isfinite(v)
        ]
        if not found:
            return (DASH,)
        mean = math.fsum(value for _, value in found) / len(found)
        return (
            Number(
                show(mean),
                mean,
                Source(metric, tuple(i for i, _ in found), "final", "mean over the runs"),
            ),
        )

    def users(self, part: str, choice: str) -> list[Run]:
        """The runs that use a part of the grid."""
        return [run for run in self.runs if run.parts.get(part) == choice]

    def choices_of(self, part: str) -> list[str]:
        """Return the choices of the runs for a part, in the order of first use."""
        return list(dict.fromkeys(run.parts[part] for run in self.runs if part in run.parts))

    def labels(self, runs: Iterable[Run]) -> Text:
        """The groups that hold any of `runs`, by name; "all configurations" for all."""
        wanted = {run.run_id for run in runs}
        names = [g.label for g in self.groups if any(run.run_id in wanted for run in g.runs)]
        if len(names) == len(self.groups) > 1:
            return ("all configurations",)
        return join_texts([(Code(name),) for name in names])


def last_step(run: Run) -> Number:
    """The number of the run's last step."""
    source = Source("steps", (run.run_id,), formula="last step")
    return Number(plain_number(run.last_step), run.last_step, source)


def shared_value(
    runs: Sequence[Run], name: str, read: Callable[[Run], Any], decimals: int | None = None
) -> Text:
    """Return the value that runs share, all values if they differ, or `NOT_RECORDED`.

    Fractions are rounded to `decimals` before they are compared; None keeps them as they are.
    """
    found: dict[str, tuple[Any, list[str]]] = {}
    for run in runs:
        value = read(run)
        if value is not None:
            rounded = (
                round(value, decimals)
                if isinstance(value, float) and decimals is not None
                else value
            )
            found.setdefault(json.dumps(rounded, sort_keys=True, default=str), (value, []))[
                1
            ].append(run.run_id)
    if not found:
        return NOT_RECORDED
    try:
        ordered = sorted(found.values(), key=lambda item: item[0])
    except TypeError:  # values of several types keep the order of the runs
        ordered = list(found.values())
    return join_texts(
        [(_format_value(value, name, tuple(ids), decimals),) for value, ids in ordered], last=", "
    )


def _format_value(value: Any, name: str, ids: tuple[str, ...], decimals: int | None) -> Inline:
    source = Source(name, ids)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and decimals is not None:
        return Number(plain_number(round(value, decimals)), value, source)
    if isinstance(value, int | float):
        return Number(plain_number(value), value, source)
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return Number(
            ", ".join(plain_number(item) for item in value), json.dumps(list(value)), source
        )
    return Code(str(value))


def plain_number(value: float) -> str:
    """Return a number as people write it: 2000, 0.001, 1e-8, and thin spaces from 10 000 on."""
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    shown = f"{value:.6g}"
    if "e" in shown:
        mantissa, _, exponent = shown.partition("e")
        return f"{mantissa}e{int(exponent)}"
    return shown


def format_signed(value: float, decimals: int) -> str:
    """A difference with its sign, and a true minus."""
    return _format_fixed(value, decimals, True)


def small(p: float) -> str:
    """A p value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _format_fixed(value: float, decimals: int, signed: bool) -> str:
    return (f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}").replace("-", "\u2212")


def dig(tree: Mapping[str, Any], path: str) -> Any:
    """The entry of nested mappings under a dotted path, or None."""
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return node
