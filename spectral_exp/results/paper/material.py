"""The material of a paper: runs, their comparison, the author's choices, and numbers of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.results.attribution import Attribution
from spectral_exp.results.compared import Comparison, Difference, GroupSummary
from spectral_exp.results.document.model import (
    Code,
    Figure,
    Inline,
    Number,
    Source,
    Text,
    code_list,
    join_texts,
)
from spectral_exp.results.document.trace import Runs
from spectral_exp.results.finding import SAME
from spectral_exp.results.group import Group
from spectral_exp.results.statistics import Interval
from spectral_exp.runs.metric_names import METRICS
from spectral_exp.runs.run import Run

DASH = "\u2013"
"""Stands for a missing value, and between the ends of a range."""

NOT_RECORDED = ("(not recorded)",)
"""Stands for a value that no run recorded."""

_MAX_OWN_METRICS = 24

ARCHIVED = "archived"
"""The reason why an archived run is left out."""


@dataclass(frozen=True)
class Choices:
    """The author's choices, which `provenance.json` records to make the paper again.

    Attributes:
        metric, at, baseline, margin: as for `compare`; an empty metric is chosen by `usual_metric`.
        attribute: the group whose difference to the baseline is attributed to single parts; None
            for that which differs in most, if the grid between the two is whole.
        evaluations: names of the evaluations that are compared too (see `runs.evaluations`).
        where, group_by: as for `ResultsAggregator`.
        title: None makes one from the runs.
        authors: names.
        notes: the author's text, in Markdown.
        notes_file: its file relative to the paper, or None.
    """

    metric: str = ""
    at: str = "final"
    baseline: str | None = None
    margin: float | None = None
    attribute: str | None = None
    evaluations: tuple[str, ...] = ()
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
        evaluations: comparisons of the groups in scores of other texts and lengths.
        attribution: what single parts contribute to a difference, or None.
        metric_decimals: decimals of the metric; None derives them from the intervals.
    """

    choices: Choices
    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    comparison: Comparison
    left_out: tuple[tuple[str, str], ...]
    figures: Mapping[str, Sequence[Figure]]
    evaluations: tuple[Comparison, ...] = ()
    attribution: Attribution | None = None
    metric_decimals: int | None = None

    @property
    def numbered_runs(self) -> Runs:
        """The runs under their short numbers."""
        return Runs(self.runs)

    @property
    def language_model_runs(self) -> list[Run]:
        """The runs of this package's training command."""
        return [run for run in self.runs if run.is_language_model]

    @property
    def other_runs(self) -> list[Run]:
        """The runs of training loops of the author's own."""
        return [run for run in self.runs if not run.is_language_model]

    @property
    def metric_words(self) -> str:
        """The metric in words."""
        return self.comparison.metric_info.words or self.comparison.metric

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
        return self.bounds(summary.interval, self.ids(summary), formula, self._format_fixed)

    def extremes(self, summary: GroupSummary) -> Text:
        """The lowest and the highest value of a group, or a dash."""
        if not summary.values:
            return (DASH,)
        low = self._statistic(summary, min(summary.values), "lowest of the runs")
        return (*low, ", ", *self._statistic(summary, max(summary.values), "highest of the runs"))

    def count(self, summary: GroupSummary) -> Text:
        """How many runs of a group count."""
        return self.number(len(summary.values), self.ids(summary), "number of runs", str)

    def ids(self, summary: GroupSummary) -> tuple[str, ...]:
        """The runs of a group that count."""
        return tuple(run.run_id for run in summary.runs)

    def difference(self, difference: Difference) -> Text:
        """The mean difference b - a with its sign, or a dash."""
        mean = (
            "mean of the differences paired by seed"
            if difference.paired
            else "difference of the means"
        )
        formula = f"{mean}, {_pair_words(difference)}"
        return self.number(difference.mean, self._both(difference), formula, self.signed)

    def difference_interval(self, difference: Difference) -> Text:
        """The interval of a difference in brackets, or a dash."""
        formula = f"bound of the 95 % interval of {_pair_words(difference)}"
        return self.bounds(difference.interval, self._both(difference), formula, self.signed)

    def pairs(self, difference: Difference) -> Text:
        """On how many pairs a difference rests."""
        formula = "number of pairs" if difference.paired else "number of runs of the smaller group"
        return self.number(difference.n, self._both(difference), formula, str)

    def probability(self, difference: Difference) -> Text:
        """The probability of improvement, or a dash."""
        value, ids = difference.probability_of_improvement, self._both(difference)
        return self.number(value, ids, "probability of improvement", lambda p: f"{p:.2f}")

    def p_value(self, difference: Difference) -> Text:
        """The p value before correction, or a dash."""
        ids = self._both(difference)
        return self.number(difference.p_value, ids, "p value before correction", format_p)

    def p_holm(self, difference: Difference) -> Text:
        """The p value after Holm's correction, or a dash."""
        ids = self._both(difference)
        return self.number(difference.p_holm, ids, "p value after Holm's correction", format_p)

    def number_of(self, n: int, what: str, runs: Iterable[Run] | None = None) -> Number:
        """A count of things among the runs."""
        ids = tuple(run.run_id for run in runs or self.runs)
        return Number(str(n), n, Source(what, ids, formula="count"))

    def _both(self, difference: Difference) -> tuple[str, ...]:
        return (*self.ids(difference.a), *self.ids(difference.b))

    def _statistic(self, summary: GroupSummary, value: float | None, formula: str) -> Text:
        return self.number(value, self.ids(summary), formula, self.plain)

    def bounds(
        self,
        interval: Interval | None,
        ids: tuple[str, ...],
        formula: str,
        show: Callable[[float], str],
    ) -> Text:
        """The bounds of an interval of the compared metric in brackets, or a dash for None."""
        if interval is None:
            return (DASH,)
        low, high = (self.number(x, ids, formula, show) for x in (interval.low, interval.high))
        return ("[", *low, ",\u00a0", *high, "]")

    def number(
        self,
        value: float | None,
        ids: tuple[str, ...],
        formula: str,
        show: Callable[[float], str],
    ) -> Text:
        """Return a number of the compared metric, or a dash for None."""
        if value is None:
            return (DASH,)
        source = Source(self.comparison.metric, ids, self.comparison.at, formula)
        return (Number(show(value), value, source),)

    def plain(self, value: float) -> str:
        """Return a value of the metric."""
        return f"{value:.{self.decimals}f}"

    def _format_fixed(self, value: float) -> str:
        return self.plain(value).replace("-", "\u2212")

    def signed(self, value: float) -> str:
        """Return a difference in the metric with its sign."""
        return f"{value:+.{self.decimals}f}".replace("-", "\u2212")

    # --- single runs ----------------------------------------------------------------------

    def setting(self, name: str, runs: Sequence[Run] | None = None) -> Text:
        """Return a setting's value, all values if runs differ, or `NOT_RECORDED`."""
        chosen = self.runs if runs is None else runs
        return shared_value(chosen, name, lambda run: run.all_settings.get(name))

    def fact(self, path: str, runs: Sequence[Run] | None = None) -> Text:
        """Return the value or values of an entry of `config.json`, by its dotted path."""
        chosen = self.runs if runs is None else runs
        return shared_value(chosen, path, lambda run: dig(run.record, path))

    def value(self, run: Run) -> Text:
        """The metric of one run, or a dash."""
        value = run.value(self.comparison.metric, self.comparison.at)
        return self.number(value, (run.run_id,), SAME, self.plain)

    def average(self, runs: Sequence[Run], metric: str, show: Callable[[float], str]) -> Text:
        """The mean of a metric over those runs that have it, or a dash."""
        values = {run.run_id: run.value(metric) for run in runs}
        found = {i: v for i, v in values.items() if v is not None and math.isfinite(v)}
        if not found:
            return (DASH,)
        mean = math.fsum(found.values()) / len(found)
        source = Source(metric, tuple(found), "final", "mean over the runs")
        return (Number(show(mean), mean, source),)

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
        return code_list(names)


def shown_metrics(run: Run) -> list[str]:
    """Return the metrics that a report shows: known ones, and all of an own training loop."""
    known = [name for name in METRICS if name in run.metrics]
    own = [
        name
        for name in run.metrics
        if name not in METRICS and run.metric_info(name).kind != "machine"
    ]
    return known if run.is_language_model else [*known, *own[:_MAX_OWN_METRICS]]


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


def format_p(p: float) -> str:
    """Return a p value with three decimals, or that it is smaller than these show."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _pair_words(difference: Difference) -> str:
    return f"{difference.b.group.label} minus {difference.a.group.label}"


def dig(tree: Mapping[str, Any], path: str) -> Any:
    """The entry of nested mappings under a dotted path, or None."""
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return node
