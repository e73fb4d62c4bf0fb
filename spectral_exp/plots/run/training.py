"""Figure of training dynamics: the loss above, one panel for each tracked metric below."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from math import ceil
from textwrap import wrap
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectral_exp.core.series import Series
from spectral_exp.plots.curves import frame_steps, frame_values, mark_non_finite, step_range
from spectral_exp.plots.series import Envelope, envelope, find_lone_points, smooth, smoothing_window
from spectral_exp.plots.text import printable, short_number
from spectral_exp.plots.theme import current_theme, legend_above, new_figure
from spectral_exp.runs.metric_names import METRICS, Metric, metric_info

_MAX_DOTS = 40
"""Most points of a series that are drawn as dots too."""
_COLUMNS = 3
_LOSS_HEIGHT, _ROW_HEIGHT = 4.2, 2.75
_MAX_PANELS = 24
"""More panels would be slow to draw and too small to read."""


def training_figure(
    step: int,
    loss: Series | None,
    metrics: Mapping[str, Series],
    units: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """Return a figure of everything tracked so far.

    Args:
        step: last step, for the heading.
        loss: training loss of each step, or None.
        metrics: further quantities by name; `val_loss` is drawn over the loss, if any. At most 24
            are drawn, and the heading gives the number of the others. One with a single value has
            no panel if anything else can be drawn.
        units: of metrics, by name.
    """
    val_loss = metrics.get("val_loss") if loss is not None else None
    panels = {name: metrics[name] for name in panel_order(metrics) if metrics[name] is not val_loss}
    curves = {name: series for name, series in panels.items() if len(series) > 1}
    panels = curves if curves or loss is not None else panels
    n_hidden = max(0, len(panels) - _MAX_PANELS)
    panels = dict(islice(panels.items(), _MAX_PANELS))
    rows, columns = ceil(len(panels) / _COLUMNS), min(_COLUMNS, max(1, len(panels)))
    heights = ([_LOSS_HEIGHT] if loss is not None else []) + [_ROW_HEIGHT] * rows
    note = f"{n_hidden} more metrics are in metrics.jsonl" if n_hidden else ""
    figure = new_figure(
        current_theme(), 0.7 + sum(heights), f"Training dynamics at step {step:,}", note
    )
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    steps = step_range(
        [*panels.values(), *(series for series in (loss, val_loss) if series is not None)]
    )
    if loss is not None:
        style = metric_info("loss", units)
        _loss_panel(figure.add_subplot(grid[0, :]), loss, val_loss, steps, style)
    first_row = len(heights) - rows
    for index, (name, series) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[first_row + index // columns, index % columns])
        color = current_theme().series[(index + 2) % len(current_theme().series)]
        _metric_panel(axes, name, series, color, steps, metric_info(name, units))
    return figure


def panel_order(metrics: Mapping[str, Series]) -> list[str]:
    """Return the names of metrics: known ones in their usual order, then the others."""
    known = [name for name in METRICS if name in metrics]
    return known + [name for name in metrics if name not in METRICS]


def _loss_panel(
    axes: Axes,
    loss: Series,
    val_loss: Series | None,
    steps: tuple[float, float],
    style: Metric,
) -> None:
    shown = [loss]
    curves = [_draw_smoothed(axes, loss, current_theme().series[0], "training")]
    if val_loss is not None:
        shown.append(val_loss)
        curves.append(_draw_curve(axes, val_loss, current_theme().series[1], "validation"))
        _mark_best(axes, val_loss)
    axes.set_title(style.title)
    axes.set_ylabel(style.unit)
    notes = frame_values(axes, curves, style.log, current_theme()) + mark_non_finite(
        axes, shown, current_theme()
    )
    frame_steps(axes, steps, 8, notes)
    legend_above(axes)


def _mark_best(axes: Axes, val_loss: Series) -> None:
    if not val_loss.finite.any():
        return
    best = int(np.nanargmin(np.where(val_loss.finite, val_loss.values, np.nan)))
    step, value = val_loss.steps[best], val_loss.values[best]
    name = f"best validation: {short_number(value, 4)} at step {step:,.0f}"
    axes.plot(
        [step],
        [value],
        "*",
        color=current_theme().series[4],
        markersize=15,
        markeredgecolor="black",
        zorder=5,
        label=name,
    )


def _metric_panel(
    axes: Axes,
    name: str,
    series: Series,
    color: str,
    steps: tuple[float, float],
    style: Metric,
) -> None:
    bins = _draw_curve(axes, series, color, name)
    axes.set_title("\n".join(wrap(printable(style.title, 44), 22)))
    axes.set_ylabel(style.unit)
    if series.finite.any():
        axes.set_title(
            short_number(float(series.values[series.finite][-1])), loc="right", color=color
        )
    notes = frame_values(axes, [bins], style.log, current_theme()) + mark_non_finite(
        axes, [series], current_theme()
    )
    frame_steps(axes, steps, 4, notes)


def _draw_curve(axes: Axes, series: Series, color: str, name: str) -> Envelope:
    """Draw a series as a line; few or isolated points as dots; the range of a bin as a band."""
    bins = envelope(series)
    _band(axes, bins, color)
    axes.plot(
        bins.steps,
        bins.mean,
        "o-" if len(series) <= _MAX_DOTS else "-",
        color=color,
        markersize=4.5,
        label=name,
    )
    _lone_dots(axes, bins, color)
    return bins


def _draw_smoothed(axes: Axes, series: Series, color: str, name: str) -> Envelope:
    """Draw a noisy series faintly under its running mean; a short series unsmoothed."""
    bins = envelope(series)
    window = smoothing_window(len(bins.steps))
    if window == 1:
        return _draw_curve(axes, series, color, name)
    _band(axes, bins, color)
    if bins.points_per_bin == 1:
        axes.plot(bins.steps, bins.mean, color=color, alpha=0.45, linewidth=1.0, label="_raw")
        _lone_dots(axes, bins, color)
    span = f"smoothed over {window * bins.points_per_bin:,.0f} steps"
    axes.plot(
        bins.steps, smooth(bins.mean, window), color=color, linewidth=2.4, label=f"{name}, {span}"
    )
    return bins


def _band(axes: Axes, bins: Envelope, color: str) -> None:
    if bins.points_per_bin > 1:
        axes.fill_between(bins.steps, bins.low, bins.high, color=color, alpha=0.3, linewidth=0)


def _lone_dots(axes: Axes, bins: Envelope, color: str) -> None:
    lone = find_lone_points(bins.mean)
    if lone.any():
        axes.plot(
            bins.steps[lone], bins.mean[lone], "o", color=color, markersize=4.5, label="_lone"
        )
