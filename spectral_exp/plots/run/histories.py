"""Series out of what a training loop keeps: lists, arrays or tensors of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.run import Drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LeaveOut: TypeAlias = Callable[[str, Exception], None]
"""Takes the name of something that cannot be drawn, and why."""

_LARGEST, _LEAST = 1e150, 1e-150
"""Sizes beyond which the arithmetic of axes leaves the range of floats: infinite, and zero, to the eye."""


def training_drawing(step: int, loss_history: Any, metrics: Any, leave_out: LeaveOut) -> Drawing | None:
    """The training dynamics up to `step`; None when there is nothing to show.

    A metric `loss` stands in for a loss history. What cannot be drawn is left out.
    """
    series = metric_series(metrics, step, leave_out)
    metric = series.pop("loss", None)
    try:
        losses = np.empty(0) if loss_history is None else numbers(loss_history)
    except Exception as error:
        leave_out("loss_history", error)
        losses = np.empty(0)
    if not losses.size and metric is None and not series:
        return None
    return partial(_draw_training, step, losses, metric, series)


def _draw_training(step: int, losses: FloatArray, metric: Series | None, series: Mapping[str, Series]) -> Figure:
    from spectral_exp.plots.run.training import training_figure

    loss = loss_series(losses, step) or metric
    shown = {name: drawable(each) for name, each in series.items()}
    return training_figure(step, None if loss is None else drawable(loss), shown)


def drawable(series: Series) -> Series:
    """The series with values of which axes can be made: infinite and zero where they are so to the eye."""
    values = series.values.copy()
    values[np.abs(values) > _LARGEST] *= np.inf
    values[np.abs(values) < _LEAST] = 0.0
    return Series(series.steps, values)


def loss_series(history: Any, step: int) -> Series | None:
    """The loss per step, its last value at `step`; None when there is none."""
    values = np.empty(0) if history is None else numbers(history)
    first = max(step - values.size, 0) + 1
    return Series(np.arange(first, first + values.size, dtype=np.float64), values) if values.size else None


def metric_series(metrics: Any, step: int, leave_out: LeaveOut) -> dict[str, Series]:
    """Every metric that has numbers. A metric that cannot be read as numbers over steps is left out."""
    found: dict[str, Series] = {}
    if not isinstance(metrics, Mapping):
        leave_out("metrics", TypeError(f"a mapping was expected, not {type(metrics).__name__}"))
        return found
    for name, value in metrics.items():
        try:
            series = _series(value, step)
        except Exception as error:  # whatever a foreign type does when it is taken for numbers
            leave_out(f"metric {name}", error)
        else:
            if len(series):
                found[str(name)] = series
    return found


def _series(value: Any, step: int) -> Series:
    is_pair = is_steps_and_values(value)
    values = numbers(value[1] if is_pair else value)
    steps = numbers(value[0]) if is_pair else _even_steps(values.size, step or values.size)
    if steps.shape != values.shape:
        raise ValueError(f"{steps.size} steps for {values.size} values")
    known = np.abs(steps) < _LARGEST  # NaN is not
    return _ordered(steps[known], values[known])


def _even_steps(n: int, last: int) -> FloatArray:
    return np.arange(1, n + 1) * (last / max(n, 1))


def is_steps_and_values(value: object) -> bool:
    """True for a pair of sequences, False for a sequence of two numbers."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_many, value))


def _is_many(value: object) -> bool:
    dims = getattr(value, "ndim", None)
    return dims > 0 if isinstance(dims, int) else hasattr(value, "__len__") and not isinstance(value, str)


def numbers(values: Any) -> FloatArray:
    """A copy of `values` as float64: a view would keep an `array.array` from growing for as long as it lives.

    Raises:
        ValueError or TypeError: `values` is not one number, or a sequence of numbers.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, Sequence) and any(hasattr(value, "detach") for value in (*values[:1], *values[-1:])):
        values = [float(value.detach() if hasattr(value, "detach") else value) for value in values]
    if values is None or isinstance(values, str | bytes | Mapping) or np.iscomplexobj(values):
        raise TypeError(f"{type(values).__name__} is not a sequence of real numbers")
    found = np.array(values, dtype=np.float64)
    if found.size != max(found.shape, default=1):
        raise ValueError(f"shape {found.shape} is not a sequence of numbers")
    return found.reshape(-1)


def _ordered(steps: FloatArray, values: FloatArray) -> Series:
    """The series by ascending step."""
    if steps.size > 1 and np.any(np.diff(steps) < 0):
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    return Series(steps, values)
