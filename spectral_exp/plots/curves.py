"""Curves over steps: frames, marks for values that cannot be drawn, and curves over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.seeds import SeedCurve
from spectral_exp.plots.series import Envelope, find_lone_points, view_limits
from spectral_exp.plots.series_styles import SeriesStyle
from spectral_exp.plots.text import log_axis, number_axis, short_number
from spectral_exp.plots.theme import Theme

_FEW = 12
"""The largest number of points that are drawn as dots too."""


def draw_seeds(
    axes: Axes,
    curve: SeedCurve,
    style: SeriesStyle,
    theme: Theme,
    *,
    weight: float = 1.0,
    marks: int = 0,
) -> None:
    """Draw mean line and band of a group, and thin lines for runs that outlast the others.

    Args:
        weight: line width in units of the theme's; below 1 the line is paler too.
        marks: about how many markers the line gets, so that it is distinct without colour.
    """
    few = curve.x.size <= _FEW
    axes.plot(
        curve.x,
        curve.mean,
        color=style.color,
        linestyle=style.line,
        linewidth=weight * theme.line_width,
        alpha=min(1.0, 0.1 + weight),
        marker=style.marker if marks or few else "",
        markevery=1 if few else max(1, curve.x.size // max(marks, 1)),
        markersize=theme.marker_size,
    )
    if curve.n_runs > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=style.color, alpha=0.2, linewidth=0)
    lone = find_lone_points(curve.mean)
    if lone.any() and not few:
        axes.plot(
            curve.x[lone],
            curve.mean[lone],
            style.marker,
            color=style.color,
            markersize=theme.marker_size,
        )
    for part in curve.rest:
        axes.plot(
            part.steps, part.values, color=style.color, linewidth=0.45 * theme.line_width, alpha=0.8
        )
    if curve.rest and curve.x.size:
        axes.plot(
            curve.x[-1], curve.mean[-1], "|", color=style.color, markersize=2.2 * theme.marker_size
        )


def frame_values(axes: Axes, curves: Sequence[Envelope], log: bool | None, theme: Theme) -> str:
    """Fit scale and limits of the vertical axis to `curves`; triangles mark values outside.

    Returns:
        The legend of the triangles for the step axis, or "".
    """
    limits = [bounds for bins in curves if (bounds := view_limits(bins)) is not None]
    if not limits:
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            "no finite value yet",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color=theme.muted,
        )
        return ""
    values = np.concatenate(
        [part[np.isfinite(part)] for bins in curves for part in (bins.low, bins.high)]
    )
    positive = values[values > 0]
    wide = positive.size == values.size and values.max() > 30 * values.min()
    if positive.size and (log or (log is None and wide)):
        low, high = float(positive.min()), float(positive.max())
        axes.set_ylim(low / 1.2, high * 1.2)
        log_axis(axes)
    else:
        low, high = min(bounds[0] for bounds in limits), max(bounds[1] for bounds in limits)
        room = 0.07 * (high - low) or 0.07 * abs(high) or 0.07
        axes.set_ylim(low - room, high + room)
        number_axis(axes, "y")
    above = _edge_marks(axes, [bins.steps[bins.high > high] for bins in curves], 0.975, "^", theme)
    below = _edge_marks(axes, [bins.steps[bins.low < low] for bins in curves], 0.025, "v", theme)
    above_note = f"   ▲ above {short_number(high)}" if above else ""
    return above_note + (f"   ▼ below {short_number(low)}" if below else "")


def mark_non_finite(axes: Axes, series: Sequence[Series], theme: Theme) -> str:
    """Mark NaN and infinite values with crosses at the top edge; return their legend."""
    count = _edge_marks(axes, [s.steps[~s.finite] for s in series], 0.945, "x", theme)
    return f"   ✕ NaN or infinite: {count:,}" if count else ""


def _edge_marks(
    axes: Axes, groups: Sequence[FloatArray], height: float, marker: str, theme: Theme
) -> int:
    """Draw markers at steps and `height` (0 to 1 of the panel), merging close ones; count them."""
    steps = np.concatenate(groups)
    where = np.unique(steps)
    if where.size == 0:
        return 0
    grain = (where[-1] - where[0]) / 100 or 1.0
    where = where[np.unique(np.floor((where - where[0]) / grain), return_index=True)[1]]
    axes.plot(
        where,
        np.full(where.size, height),
        linestyle="",
        marker=marker,
        color=theme.alert,
        markersize=1.55 * theme.marker_size,
        markeredgewidth=0.9 * theme.line_width if marker == "x" else 0,
        transform=axes.get_xaxis_transform(),
        label="_marks",
    )
    return int(steps.size)


def step_range(series: Sequence[Series]) -> tuple[float, float]:
    """Return limits of a step axis that holds all `series` with some room."""
    first = min(float(s.steps[0]) for s in series)
    last = max(float(s.steps[-1]) for s in series)
    room = 0.02 * (last - first) or 1.0
    return first - room, last + room


def frame_steps(axes: Axes, limits: tuple[float, float], n_ticks: int, notes: str = "") -> None:
    """Set limits and name of the horizontal axis, `notes` behind the name."""
    axes.set_xlim(*limits)
    number_axis(axes, "x", n_ticks, integer=True)
    axes.set_xlabel("step" + notes)
