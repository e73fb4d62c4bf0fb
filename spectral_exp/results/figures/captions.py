"""Words that captions share."""

from __future__ import annotations

from collections.abc import Sequence

from spectral_exp.results.compared import Comparison, GroupSummary, moment
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.metric_names import DERIVED, metric_info
from spectral_exp.runs.run import Run


def quantity(metric: str) -> str:
    """Return the metric's name within a sentence."""
    title = metric_info(metric).title
    return title[:1].lower() + title[1:]


def describe_metric(comparison: Comparison) -> str:
    """Return metric, moment and direction, as `Final validation bits / byte (lower is better)`."""
    name = quantity(comparison.metric)
    budget = parse_at(comparison.at)
    if comparison.metric in DERIVED:
        start = f"{name[:1].upper()}{name[1:]}, {moment(comparison.metric, comparison.at)}"
    else:
        start = (
            f"{name[:1].upper()}{name[1:]} at {budget.words}"
            if budget
            else f"{comparison.at.capitalize()} {name}"
        )
    return f"{start} ({comparison.direction_words})"


def run_counts(counts: Sequence[int]) -> str:
    """Return the number of runs per group: `n = 5 runs each`, or the range."""
    least, most = min(counts), max(counts)
    if least == most:
        return f"n = {least} run{'s' * (least != 1)}" + (" each" if len(counts) > 1 else "")
    return f"n = {least} to {most} runs"


def list_names(names: Sequence[str], at_most: int = 4) -> str:
    """Return names as in a sentence; of many only the first."""
    if len(names) > at_most:
        return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted_runs(summary: GroupSummary) -> list[Run]:
    """Return the runs whose values are in the summary, in their order."""
    left_out = {run_id for run_id, _ in summary.left_out}
    return [run for run in summary.group.runs if run.run_id not in left_out]
