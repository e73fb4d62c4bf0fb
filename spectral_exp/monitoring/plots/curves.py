"""What a curve over steps looks like and how metrics are named, for training and comparison figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from spectral_exp.monitoring.plots.series import (
    Envelope,
    FloatArray,
    Series,
    envelope,
    isolated,
    smooth,
    smoothing_window,
    view_limits,
)
from spectral_exp.monitoring.plots.theme import ALERT, MUTED, log_axis, number_axis, short_number


@dataclass(frozen=True)
class MetricStyle:
    """Heading and axis text of a metric; `log`: always, never, or (None) where it spans more than a factor of 30."""

    title: str
    unit: str
    log: bool | None = None


METRICS = {
    "loss": MetricStyle("Loss", "loss (nats / token)", False),
    "val_loss": MetricStyle("Validation loss", "loss (nats / token)", False),
    "learning_rate": MetricStyle("Learning rate", "step size", False),
    "perplexity": MetricStyle("Perplexity", "perplexity (tokens)"),
    "grad_norm": MetricStyle("Gradient norm", "L2 norm", True),
    "tokens_per_s": MetricStyle("Throughput", "tokens / s", False),
    "val_bpb": MetricStyle("Validation bits / byte", "bits / byte", False),
    "wave_ratio": MetricStyle("Wave share", "share r (0 to 1)", False),
    "resonance": MetricStyle("Mean resonance", "gate (0 to 1)", False),
    "coherence": MetricStyle("Coherence penalty", "QFE term (unscaled)", False),
}
"""The runner's own metrics, in the order in which their panels appear."""

_UNIT_SUFFIXES = {
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_mb": "MB",
    "_gb": "GB",
    "_bpb": "bits / byte",
    "_loss": "nats / token",
}


def metric_style(name: str) -> MetricStyle:
    """The style of metric `name`; for one not known, its own name and the unit its suffix tells."""
    if name in METRICS:
        return METRICS[name]
    unit = next((unit for suffix, unit in _UNIT_SUFFIXES.items() if name.endswith(suffix)), "value")
    words = name.replace("_", " ").strip()
    return MetricStyle(words[:1].upper() + words[1:] or "Unnamed", unit)


_FEW = 40
"""Up to so many points each is drawn as a dot as well."""


def draw_curve(axes: Axes, series: Series, color: str, name: str) -> Envelope:
    """One series as it is: a line, lone and few points as dots, the range of reduced bins as a band."""
    bins = envelope(series)
    _band(axes, bins, color)
    axes.plot(bins.steps, bins.mean, "o-" if len(series) <= _FEW else "-", color=color, markersize=4.5, label=name)
    _lone_dots(axes, bins, color)
    return bins


def draw_smoothed(axes: Axes, series: Series, color: str, name: str) -> Envelope:
    """One noisy series: faint as it is, a centred running mean over it. Short series are drawn as they are."""
    bins = envelope(series)
    window = smoothing_window(len(bins.steps))
    if window == 1:
        return draw_curve(axes, series, color, name)
    _band(axes, bins, color)
    if bins.points_per_bin == 1:
        axes.plot(bins.steps, bins.mean, color=color, alpha=0.45, linewidth=1.0, label="_raw")
        _lone_dots(axes, bins, color)
    span = f"smoothed over {window * bins.points_per_bin:,.0f} steps"
    axes.plot(bins.steps, smooth(bins.mean, window), color=color, linewidth=2.4, label=f"{name}, {span}")
    return bins


def _band(axes: Axes, bins: Envelope, color: str) -> None:
    if bins.points_per_bin > 1:
        axes.fill_between(bins.steps, bins.low, bins.high, color=color, alpha=0.3, linewidth=0)


def _lone_dots(axes: Axes, bins: Envelope, color: str) -> None:
    lone = isolated(bins.mean)
    if lone.any():
        axes.plot(bins.steps[lone], bins.mean[lone], "o", color=color, markersize=4.5, label="_lone")


def frame_values(axes: Axes, curves: Sequence[Envelope], log: bool | None) -> str:
    """Set scale and limits of the vertical axis to show `curves` well; triangles mark what lies outside.

    Returns:
        What the triangles mean, for the panel's step axis; empty without any.
    """
    limits = [bounds for bins in curves if (bounds := view_limits(bins)) is not None]
    if not limits:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite value yet", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return ""
    values = np.concatenate([part[np.isfinite(part)] for bins in curves for part in (bins.low, bins.high)])
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
    above = _edge_marks(axes, [bins.steps[bins.high > high] for bins in curves], 0.975, "^")
    below = _edge_marks(axes, [bins.steps[bins.low < low] for bins in curves], 0.025, "v")
    above_note = f"   ▲ above {short_number(high)}" if above else ""
    return above_note + (f"   ▼ below {short_number(low)}" if below else "")


def mark_non_finite(axes: Axes, series: Sequence[Series]) -> str:
    """Crosses along the top edge where a value is NaN or infinite; returns what they mean, with their number."""
    count = _edge_marks(axes, [s.steps[~s.finite] for s in series], 0.945, "x")
    return f"   ✕ NaN or infinite: {count:,}" if count else ""


def _edge_marks(axes: Axes, groups: Sequence[FloatArray], height: float, marker: str) -> int:
    """Markers at steps (axis units) and `height` (0 to 1 of the panel); those nearer than the eye sees are merged."""
    steps = np.concatenate(groups)
    where = np.unique(steps)
    if where.size == 0:
        return 0
    grain = (where[-1] - where[0]) / 250 or 1.0
    where = where[np.unique(np.floor((where - where[0]) / grain), return_index=True)[1]]
    axes.plot(
        where,
        np.full(where.size, height),
        linestyle="",
        marker=marker,
        color=ALERT,
        markersize=7,
        markeredgewidth=1.8 if marker == "x" else 0,
        transform=axes.get_xaxis_transform(),
        label="_marks",
    )
    return int(steps.size)


def step_range(series: Sequence[Series]) -> tuple[float, float]:
    """Limits of a step axis that holds all `series`, with a little room; also when there is only one step."""
    first = min(float(s.steps[0]) for s in series)
    last = max(float(s.steps[-1]) for s in series)
    room = 0.02 * (last - first) or 1.0
    return first - room, last + room


def frame_steps(axes: Axes, limits: tuple[float, float], n_ticks: int, notes: str = "") -> None:
    """Set limits and name of the horizontal axis, `notes` behind the name."""
    axes.set_xlim(*limits)
    number_axis(axes, "x", n_ticks, integer=True)
    axes.set_xlabel("step" + notes)
