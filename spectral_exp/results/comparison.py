"""Groups of runs side by side: statistics of each, differences between them, and what makes a comparison unfair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spectral_exp.results.group import Group


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class GroupSummary:
    """One metric of one group.

    Attributes:
        group: the group.
        values: of the runs that count, in the group's order, with `seeds`; finite.
        seeds: their seeds.
        left_out: run id and reason of each run that does not count (unfinished, non-finite, no such metric).
        mean, median, iqm: of `values`; None without any. `iqm` is the interquartile mean.
        interval: of the mean, by stratified bootstrap; None below three runs.
        notes: flags of single runs and of the group (below the source's entropy, dirty code, other data, n < 3), a
            sentence each.
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


@dataclass(frozen=True)
class Difference:
    """Group `b` minus group `a`.

    Attributes:
        a, b: the two groups' summaries.
        kind: `baseline` (b against the baseline a) or `ablation` (they differ in one part of the grid).
        part: for an ablation the part that differs (embedding, attention, mlp, optimizer, loss), else None.
        paired: whether the values were paired by seed; else the two groups are taken as independent.
        n: pairs; where not paired the smaller number of runs.
        mean: of the differences; None without any.
        interval: of `mean`; None below three.
        probability_of_improvement: that a run of b is better than one of a (0 to 1); None without values.
        p_value: before correction; None below three.
        p_holm: after Holm's correction over all differences shown together; None below three.
        separated: p_holm < 0.05 and the interval excludes 0.
        matches: by quantity (parameters, tokens, steps, wall-clock, data, tokenizer, hardware, code): True, False, or
            None where unknown.
        warnings: a sentence for each that does not match, with both values.
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

    @property
    def better(self) -> bool:
        """Whether `b` is separated from `a` in the metric's favourable direction."""
        raise NotImplementedError


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
        notes: what concerns the whole: selections, n < 3, tuning.
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

    Args:
        groups: from `ResultsAggregator.groups`.
        metric: a metric's name.
        at: which value of each run, as for `Run.value`.
        baseline: label of the group that the others are held against; None chooses `classic`, else the first.

    Raises:
        UserError: no run has the metric; the baseline is not among the groups.
    """
    raise NotImplementedError
