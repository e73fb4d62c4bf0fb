"""Comparisons made by hand, so that tables are tested without statistics."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from spectral_exp.results.comparison import Comparison, Difference, GroupSummary, Interval
from spectral_exp.results.finding import finding
from spectral_exp.results.group import Group


class MadeDifference(Difference):
    """A difference in a metric that is better when it is low."""

    @property
    def better(self) -> bool:
        return self.separated and self.mean is not None and self.mean < 0


def made_comparison(
    groups: Sequence[Group],
    metric: str = "val_bpb",
    *,
    at: str = "final",
    baseline: str | None = None,
    margin: float | None = None,
) -> Comparison:
    """A comparison with the values of all finished runs; values more than 0.1 apart count as
    separated."""
    summaries = [_summary(group, metric, at) for group in groups]
    first = next((s for s in summaries if s.group.label == baseline), summaries[0])
    return Comparison(
        metric=metric,
        at=at,
        lower_is_better=True,
        summaries=summaries,
        baseline=first.group.label if len(summaries) > 1 else None,
        differences=[_difference(first, other) for other in summaries if other is not first],
        notes=[finding("note", "a note with 100 % and <angles> & a_name")],
    )


def _summary(group: Group, metric: str, at: str) -> GroupSummary:
    values = {run.run_id: run.value(metric, at) for run in group.runs if run.finished}
    counted = [run for run in group.runs if values.get(run.run_id) is not None]
    numbers = [value for value in values.values() if value is not None]
    mean = statistics.fmean(numbers) if numbers else None
    return GroupSummary(
        group=group,
        values=numbers,
        seeds=[run.seed for run in counted],
        left_out=[
            (run.run_id, finding("unfinished", run.status))
            for run in group.runs
            if run not in counted
        ],
        mean=mean,
        median=statistics.median(numbers) if numbers else None,
        iqm=mean if len(numbers) >= 4 else None,
        interval=Interval(mean - 0.01, mean + 0.02)
        if mean is not None and len(numbers) >= 3
        else None,
        notes=[] if len(numbers) >= 3 else [finding("too few runs", "n < 3: no interval")],
    )


def _difference(a: GroupSummary, b: GroupSummary) -> Difference:
    known = a.mean is not None and b.mean is not None
    mean = b.mean - a.mean if a.mean is not None and b.mean is not None else None
    enough = known and min(len(a.values), len(b.values)) >= 3
    return MadeDifference(
        a=a,
        b=b,
        kind="baseline",
        part=None,
        paired=enough,
        n=min(len(a.values), len(b.values)),
        mean=mean,
        interval=Interval(mean - 0.05, mean + 0.05) if enough and mean is not None else None,
        probability_of_improvement=0.25 if known else None,
        p_value=0.0001 if enough else None,
        p_holm=0.0002 if enough else None,
        separated=enough and mean is not None and abs(mean) > 0.1,
        matches={"parameters": True, "steps": True, "wall-clock": False, "hardware": None},
        warnings=[finding("wall-clock", "wall-clock differs", "1.0 s against 2.0 s")],
    )
