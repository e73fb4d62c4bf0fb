"""The parts of a comparison: summaries of groups, differences between them, and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spectral_exp.results.finding import Finding
from spectral_exp.results.group import Group
from spectral_exp.results.pairs import training_settings
from spectral_exp.results.statistics import Interval
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.metric_names import DERIVED, Metric
from spectral_exp.runs.run import Run, metric_describer


def moment(metric: str, at: str) -> str:
    """Return which number of each run a metric means, in words."""
    budget = parse_at(at)
    up_to = f" up to {budget.words}" if budget else ""
    if parse_evaluation(metric) is not None:
        return "newest evaluation of each run"
    if metric == "tokens_per_s":
        return "median over each run"
    if metric == "n_parameters":
        return "of the model of each run"
    if metric in DERIVED:
        return f"total of each run{up_to}"
    if at == "best":
        return "best value of each run (chosen by what is shown, so it flatters)"
    return f"last value of each run{up_to}" if up_to else "final value of each run"


@dataclass(frozen=True)
class GroupSummary:
    """One metric of one group.

    Attributes:
        group: the group.
        values: of the runs that count, in the group's order, with `seeds`; finite.
        seeds: their seeds.
        left_out: run id and reason of each run that does not count.
        mean, median: of `values`; None without any.
        iqm: the interquartile mean; None below four values, where it is the mean.
        interval: of the mean, by `statistics.mean_interval`; None below three runs and if the
            values have no spread.
        notes: findings about single runs and about the group.
        runs, strata: the runs behind `values`, and the stratum of each.
    """

    group: Group
    values: Sequence[float]
    seeds: Sequence[int | None]
    left_out: Sequence[tuple[str, Finding]]
    mean: float | None
    median: float | None
    iqm: float | None
    interval: Interval | None
    notes: Sequence[Finding]
    runs: Sequence[Run] = ()
    strata: Sequence[int] = ()

    @cached_property  # the baseline's are compared with those of every other group
    def settings(self) -> dict[str, str]:
        """The settings that affect training, with all their values in `runs` as words."""
        return training_settings(self.runs)


@dataclass(frozen=True)
class Equivalence:
    """The outcome of two one-sided tests that a true difference is within a margin.

    Attributes:
        margin: the largest difference that counts as none, in the unit of the metric.
        p_value: before correction.
        p_holm: after Holm's correction over the tests of equivalence of the comparison.
        equivalent: whether p_holm < 0.05, and no busy machine puts the values in doubt.
    """

    margin: float
    p_value: float
    p_holm: float
    equivalent: bool


@dataclass(frozen=True)
class Difference:
    """Group `b` minus group `a`.

    Attributes:
        a, b: the two groups' summaries.
        kind: `baseline` (b against the baseline a) or `ablation` (they differ in one part of the
            grid).
        part: for an ablation the part that differs, else None.
        paired: whether the values were paired by seed; else the groups count as independent.
        n: number of pairs; if not paired, of runs in the smaller group.
        mean: of the differences; if not paired, the difference of the means; None without values.
        interval: of `mean`; None below three values and if all differences are equal.
        probability_of_improvement: that a run of b is better than one of a, from 0 to 1; None
            below three values.
        p_value: before correction, by the paired t-test or Welch's; None without an interval.
        p_holm: after Holm's correction over all differences of the comparison; None without an
            interval.
        separated: whether p_holm < 0.05, the interval excludes 0, and a difference in a time is
            larger than the slow-downs of the machine (`times.busy_machine`).
        matches: by quantity (`checks.QUANTITIES`, and `settings` for all settings beside the
            parts): True, False, or None if unknown.
        warnings: mismatches that matter for the metric, runs without a partner, and why there is
            no interval.
        lower_is_better: the metric's direction; None if it has none.
        pairs: if paired, `b` minus `a` of each pair.
        level: the level of the test that Holm's correction leaves, given the other tests; None
            without an interval.
        detectable: the true difference that four of five such comparisons would find at `level`
            (`Contrast.detectable`); None without an interval.
        equivalence: whether the difference is within a margin; None if that was not tested.
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
    warnings: Sequence[Finding]
    lower_is_better: bool | None = True
    pairs: Sequence[float] = ()
    level: float | None = None
    detectable: float | None = None
    equivalence: Equivalence | None = None

    @property
    def better(self) -> bool | None:
        """Whether `b` is separated from `a` and better; None if the metric has no direction."""
        if self.lower_is_better is None:
            return None
        return self.separated and self.mean is not None and (self.mean < 0) == self.lower_is_better

    @property
    def verdict(self) -> str:
        """The outcome of the tests in a few words."""
        words = {True: "better", False: "worse", None: "differs"}[self.better]
        if self.equivalence is not None and self.equivalence.equivalent:
            within = f"equivalent within {self.equivalence.margin:g}"
            return f"{words}, {within}" if self.separated else within
        if self.separated:
            return words
        if self.interval is None:
            return "no interval"
        return "not separated" if self.equivalence is None else "neither separated nor equivalent"


@dataclass(frozen=True)
class Comparison:
    """The comparison of groups in one metric.

    Attributes:
        metric: its name.
        at: which value of each run, as for `Run.value`.
        lower_is_better: the metric's direction; None if it has none.
        summaries: of the groups, in the order in which they are shown.
        baseline: label of the baseline, or None.
        differences: to the baseline first, then the ablations; all are in Holm's correction.
        notes: findings about the whole: baseline, selection, few runs, tuning, number of tests.
    """

    metric: str
    at: str
    lower_is_better: bool | None
    summaries: Sequence[GroupSummary]
    baseline: str | None
    differences: Sequence[Difference]
    notes: Sequence[Finding]

    @cached_property
    def metric_info(self) -> Metric:
        """Title, unit and direction of the metric, as the runs agree in them."""
        return self.info_of(self.metric)

    def info_of(self, metric: str) -> Metric:
        """Return title, unit and direction of any metric, as the runs agree in them."""
        return self._describe(metric)

    @cached_property
    def _describe(self) -> Callable[[str], Metric]:
        return metric_describer(run for summary in self.summaries for run in summary.group.runs)

    @property
    def direction_words(self) -> str:
        """The better values, in words."""
        if self.lower_is_better is None:
            return "neither low nor high is better"
        return f"{'lower' if self.lower_is_better else 'higher'} is better"

    def sort_key(self, summary: GroupSummary) -> tuple[bool, float, str]:
        """Sort groups by their means, the best first; without a direction by their labels.

        Groups without a value come last.
        """
        if self.lower_is_better is None:
            return not summary.values, 0.0, summary.group.label
        sign = 1.0 if self.lower_is_better else -1.0
        return not summary.values, sign * (summary.mean or 0.0), ""

    def best_first(self, *, reverse: bool = False) -> list[str]:
        """Return the labels of the groups in the order of their means, the best or worst first.

        Groups without a value come last; without a direction, the order is that of the labels.
        """
        if self.lower_is_better is None:
            return sorted((summary.group.label for summary in self.summaries), reverse=reverse)
        sign = 1.0 if self.lower_is_better != reverse else -1.0
        ordered = sorted(
            self.summaries,
            key=lambda s: (s.mean is None, sign * (s.mean or 0.0), s.group.natural_order),
        )
        return [summary.group.label for summary in ordered]

    def reorder(self, labels: Sequence[str]) -> Comparison:
        """Return the comparison with its groups in the order of `labels`; no number changes."""
        place = {label: i for i, label in enumerate(labels)}
        return replace(
            self,
            summaries=sorted(self.summaries, key=lambda summary: place[summary.group.label]),
            differences=sorted(
                self.differences,
                key=lambda d: (
                    d.kind != "baseline",
                    place[d.b.group.label] if d.part is None else 0,
                ),
            ),
        )
