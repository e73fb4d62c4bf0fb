"""The difference of two groups over the steps: from where on it is separated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.core.series import FloatArray
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

_CHOICE = (
    "{:,} of {:,} logged steps are tested: evenly spaced ones, and between them those of the "
    "lowest and the highest difference"
)


def difference_over_steps(a: Group, b: Group, metric: str, n_steps: int) -> dict[str, Any]:
    """Return `b` minus `a` at steps at which the metric was logged, as `compare` computes it.

    Of more than `n_steps` logged steps, those of the lowest and highest differences are among the
    chosen ones, so that no spike is lost.

    Raises:
        UserError: neither group has the metric.
    """
    steps, n_logged = _steps(a, b, metric, n_steps)
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
        "notes": [_NOTE, *([_CHOICE.format(len(steps), n_logged)] if n_logged > n_steps else ())],
        "source": {
            "metric": metric,
            "runs": [run.run_id for run in (*a.runs, *b.runs)],
            "at": "step:N",
            "formula": "mean of the differences by seed, if the seeds are the same",
        },
    }


def _steps(a: Group, b: Group, metric: str, n_steps: int) -> tuple[list[int], int]:
    """Return at most `n_steps` steps at which a difference is known, and the number of all."""
    logged = [
        np.unique(np.concatenate([np.empty(0), *(run.series(metric).steps for run in group.runs)]))
        for group in (a, b)
    ]
    if any(not len(steps) for steps in logged):
        return [], 0
    steps = np.unique(np.concatenate(logged))
    # A step above the last one of a group has no difference.
    steps = steps[(steps >= 1) & (steps <= min(steps[-1] for steps in logged))]
    n_logged = len(steps)
    if n_logged > n_steps:
        with np.errstate(all="ignore"):  # values near the largest float
            differences = _means(b, metric, steps) - _means(a, metric, steps)
        steps = steps[choose_places(differences, n_steps)]
    return [int(step) for step in steps], n_logged


def _means(group: Group, metric: str, steps: FloatArray) -> FloatArray:
    """Return the mean of the last values of the runs up to each step; NaN if no run has one."""
    total, count = np.zeros(len(steps)), np.zeros(len(steps))
    for run in group.runs:
        series = run.series(metric)
        places = np.searchsorted(series.steps, steps, side="right") - 1
        values = np.append(series.values, np.nan)[places]  # place -1: before the first value
        known = np.isfinite(values)
        total[known] += values[known]
        count += known
    mean: FloatArray = total / np.where(count > 0, count, np.nan)
    return mean


def choose_places(values: FloatArray, n: int) -> list[int]:
    """Return at most `n` places of more values, ascending: evenly spaced ones and extremes.

    Between two evenly spaced places lie those of the lowest and the highest finite value.
    """
    last = len(values) - 1
    bounds = np.unique(np.linspace(0, last, max((n - 1) // 3, 1) + 1).round().astype(int))
    is_finite = np.isfinite(values)
    lowest, highest = np.where(is_finite, values, np.inf), np.where(is_finite, values, -np.inf)
    chosen = {0, last}
    for first, end in pairwise(bounds.tolist()):
        chosen |= {first, first + int(lowest[first:end].argmin())}
        chosen.add(first + int(highest[first:end].argmax()))
    # A portion without a variation needs no more than its first place.
    chosen |= {*np.linspace(0, last, max(n - len(chosen), 0)).round().astype(int).tolist()}
    return sorted(chosen)[-max(n, 1) :]


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
