"""The difference of two groups over the steps: from where on it is separated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.curves import describe_metric
from spectral_exp.dashboard.rows import finite
from spectral_exp.results.compared import Difference
from spectral_exp.results.comparison import compare
from spectral_exp.results.group import Group
from spectral_exp.results.number_texts import decimals, interval_text, number_text
from spectral_exp.runs.run import shared_metric_info

MAX_STEPS = 400

_NOTE = (
    "each step is a test of its own, as by compare --at step:N; they are not corrected for their "
    "number, so read where the difference stays separated, not where it first is"
)


def difference_over_steps(a: Group, b: Group, metric: str, n_steps: int) -> dict[str, Any]:
    """Return `b` minus `a` at steps at which the metric was logged, as `compare` computes it.

    Raises:
        UserError: neither group has the metric.
    """
    steps = _steps([a, b], metric, n_steps)
    found = [(step, one) for step in steps if (one := _at_step(a, b, metric, step)) is not None]
    if not found:
        raise UserError(f"{a.label} and {b.label} have no step at which both have {metric}")
    numbers = [one.mean for _, one in found if one.mean is not None]
    digits = decimals(numbers)
    return {
        "metric": describe_metric(metric, shared_metric_info(metric, [*a.runs, *b.runs])),
        "a": a.label,
        "b": b.label,
        "steps": [step for step, _ in found],
        "mean": [finite(one.mean) for _, one in found],
        "low": [one.interval.low if one.interval else None for _, one in found],
        "high": [one.interval.high if one.interval else None for _, one in found],
        "n": [one.n for _, one in found],
        "paired": [one.paired for _, one in found],
        "separated": [one.separated for _, one in found],
        "p_value": [one.p_value for _, one in found],
        "text": [number_text(one.mean, digits, signed=True) for _, one in found],
        "interval_text": [interval_text(one.interval, digits, signed=True) for _, one in found],
        "separated_from": _separated_from(found),
        "notes": [_NOTE],
        "source": {
            "metric": metric,
            "runs": [run.run_id for run in (*a.runs, *b.runs)],
            "at": "step:N",
            "formula": "mean of the differences by seed, if the seeds are the same",
        },
    }


def _steps(groups: Sequence[Group], metric: str, n_steps: int) -> list[int]:
    """Return the steps that runs of every group have logged, at most `n_steps` evenly chosen."""
    logged = [
        np.unique(np.concatenate([np.empty(0), *(run.series(metric).steps for run in group.runs)]))
        for group in groups
    ]
    if any(not len(steps) for steps in logged):
        return []
    steps = np.unique(np.concatenate(logged))
    # A step above the last one of a group has no difference.
    steps = steps[(steps >= 1) & (steps <= min(steps[-1] for steps in logged))]
    if len(steps) > n_steps:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, n_steps).round().astype(int))]
    return [int(step) for step in steps]


def _at_step(a: Group, b: Group, metric: str, step: int) -> Difference | None:
    try:
        comparison = compare([a, b], metric, at=f"step:{step}", baseline=a.label)
    except UserError:  # no run has a value yet
        return None
    one = next(one for one in comparison.differences if one.kind == "baseline")
    return one if one.mean is not None else None


def _separated_from(found: Sequence[tuple[int, Difference]]) -> int | None:
    """Return the first step from which on the groups stay separated in the same direction."""
    first = None
    last = found[-1][1]
    for step, one in reversed(found):
        is_same_side = one.mean is not None and last.mean is not None and one.mean * last.mean > 0
        if not (one.separated and is_same_side):
            break
        first = step
    return first
