"""Series from a training loop's histories: lists, arrays or tensors of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.run import DrawFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LeaveOut: TypeAlias = Callable[[str, Exception], None]
"""A callback that gets the name of a quantity that cannot be drawn, and the error."""

_LARGEST, _LEAST = 1e150, 1e-150
"""Sizes beyond which the arithmetic of axes overflows or vanishes."""


def training_drawing(
    step: int,
    loss_history: Any,
    metrics: Any,
    leave_out: LeaveOut,
    units: Mapping[str, str] = MappingProxyType({}),
) -> DrawFigure | None:
    """Return the plot of training dynamics up to `step`, or None if there are no values.

    A metric `loss` replaces a missing loss history. `leave_out` gets quantities that cannot be
    drawn. `units` are those of metrics, by name.
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
    return partial(_draw_training, step, losses, metric, series, dict(units))


def _draw_training(
    step: int,
    losses: FloatArray,
    metric: Series | None,
    series: Mapping[str, Series],
    units: Mapping[str, str],
) -> Figure:
    from spectral_exp.plots.run.training import training_figure

    loss = loss_series(losses, step) or metric
    shown = {name: clip_extremes(each) for name, each in series.items()}
    return training_figure(step, None if loss is None else clip_extremes(loss), shown, units)


def clip_extremes(series: Series) -> Series:
    """Return the series with infinities and zeros for values that axes cannot hold."""
    values = series.values.copy()
    values[np.abs(values) > _LARGEST] *= np.inf
    values[np.abs(values) < _LEAST] = 0.0
    return Series(series.steps, values)


def loss_series(history: Any, step: int) -> Series | None:
    """Return the loss per step, the last value at `step`, or None if there are no values."""
    values = np.empty(0) if history is None else numbers(history)
    first = max(step - values.size, 0) + 1
    return (
        Series(np.arange(first, first + values.size, dtype=np.float64), values)
        if values.size
        else None
    )


def metric_series(metrics: Any, step: int, leave_out: LeaveOut) -> dict[str, Series]:
    """Return the metrics that are series of numbers; `leave_out` gets the others."""
    found: dict[str, Series] = {}
    if not isinstance(metrics, Mapping):
        leave_out("metrics", TypeError(f"a mapping was expected, not {type(metrics).__name__}"))
        return found
    for name, value in metrics.items():
        try:
            series = _series(value, step)
        except Exception as error:  # foreign types may raise anything
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
    return _sort_steps(steps[known], values[known])


def _even_steps(n: int, last: int) -> FloatArray:
    return np.arange(1, n + 1) * (last / max(n, 1))


def is_steps_and_values(value: object) -> bool:
    """Return True for a pair of sequences, False for a sequence of two numbers."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_sequence, value))


def _is_sequence(value: object) -> bool:
    dims = getattr(value, "ndim", None)
    if isinstance(dims, int):
        return dims > 0
    return hasattr(value, "__len__") and not isinstance(value, str)


def numbers(values: Any) -> FloatArray:
    """Return a copy of `values` as float64; a view would keep an `array.array` from growing.

    Raises:
        ValueError: `values` has several dimensions.
        TypeError: `values` is neither a real number nor a sequence of them.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, Sequence) and any(
        hasattr(value, "detach") for value in (*values[:1], *values[-1:])
    ):
        values = [float(value.detach() if hasattr(value, "detach") else value) for value in values]
    if values is None or isinstance(values, str | bytes | Mapping) or np.iscomplexobj(values):
        raise TypeError(f"{type(values).__name__} is not a sequence of real numbers")
    found = np.array(values, dtype=np.float64)
    if found.size != max(found.shape, default=1):
        raise ValueError(f"shape {found.shape} is not a sequence of numbers")
    return found.reshape(-1)


def _sort_steps(steps: FloatArray, values: FloatArray) -> Series:
    """Return a series with ascending steps."""
    if steps.size > 1 and np.any(np.diff(steps) < 0):
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    return Series(steps, values)
