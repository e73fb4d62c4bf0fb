"""Series out of what a training loop keeps: lists, arrays or tensors of numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_exp.monitoring.plots import Drawing
from spectral_exp.plots.series import FloatArray, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


def training_drawing(step: int, loss_history: Any, metrics: Mapping[str, Any]) -> Drawing | None:
    """The training dynamics up to `step`; None when there is nothing to show.

    A metric `loss` stands in for a loss history.
    """
    series = metric_series(metrics, step)
    metric = series.pop("loss", None)
    losses = np.empty(0) if loss_history is None else numbers(loss_history)
    if not losses.size and metric is None and not series:
        return None
    return partial(_draw_training, step, losses, metric, series)


def _draw_training(step: int, losses: FloatArray, metric: Series | None, series: Mapping[str, Series]) -> Figure:
    from spectral_exp.monitoring.plots.training import training_figure

    return training_figure(step, loss_series(losses, step) or metric, series)


def loss_series(history: Any, step: int) -> Series | None:
    """The loss per step, its last value at `step`; None when there is none."""
    values = np.empty(0) if history is None else numbers(history)
    first = max(step - values.size, 0) + 1
    return Series(np.arange(first, first + values.size, dtype=np.float64), values) if values.size else None


def metric_series(metrics: Mapping[str, Any], step: int) -> dict[str, Series]:
    """Every metric that has numbers."""
    found: dict[str, Series] = {}
    for name, value in metrics.items():
        is_pair = is_steps_and_values(value)
        try:
            values = numbers(value[1] if is_pair else value)
        except (TypeError, ValueError):
            _log.debug("metric %s is not plotted: it does not hold numbers", name)
            continue
        if values.size:
            steps = numbers(value[0]) if is_pair else _even_steps(values.size, step or values.size)
            found[str(name)] = _ordered(steps, values)
    return found


def _even_steps(n: int, last: int) -> FloatArray:
    return np.arange(1, n + 1) * (last / n)


def is_steps_and_values(value: object) -> bool:
    """True for a pair of sequences, False for a sequence of two numbers."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_many, value))


def _is_many(value: object) -> bool:
    dims = getattr(value, "ndim", None)
    return dims > 0 if isinstance(dims, int) else hasattr(value, "__len__") and not isinstance(value, str)


def numbers(values: Any) -> FloatArray:
    """A copy of `values` as float64: a view would keep an `array.array` from growing for as long as it lives."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, Sequence) and len(values) and hasattr(values[0], "detach"):
        values = [float(value.detach()) for value in values]
    return np.array(values, dtype=np.float64).reshape(-1)


def _ordered(steps: FloatArray, values: FloatArray) -> Series:
    """The series by ascending step."""
    if steps.shape == values.shape and steps.size > 1 and np.any(np.diff(steps) < 0):
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    return Series(steps, values)
