"""Curves of a metric in every group, over steps, tokens or seconds of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.curves import draw_seeds, mark_non_finite
from spectral_exp.plots.seeds import SeedCurve, late_limits, over_seeds
from spectral_exp.plots.series import drawable
from spectral_exp.plots.series_styles import SeriesStyle, short_labels, side_labels, style_series
from spectral_exp.plots.text import number_axis, short_number
from spectral_exp.plots.theme import Theme, legend_on_top, new_figure
from spectral_exp.results.comparison import Comparison
from spectral_exp.results.figures.captions import list_names, quantity, run_counts
from spectral_exp.results.figures.plot import Plot, find_theme
from spectral_exp.runs.run import Run

Axis: TypeAlias = Literal["step", "tokens", "train_s"]

OVERLAID = 6
"""The largest number of groups in one panel; more have a panel each."""

_MANY = 12
_TITLE_CHARACTERS = {5: 17, 4: 21, 3: 27}
"""Columns of panels and the longest heading that fits over each."""
_NOISY = ("loss", "grad_norm", "tokens_per_s")
"""Metrics of single batches, which are smoothed."""
_AXIS_WORDS = {
    "step": "optimizer step",
    "tokens": "training tokens",
    "train_s": "seconds of training",
}
_TIMES = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))


@dataclass(frozen=True)
class Curves:
    """The content of a curve figure.

    Attributes:
        labels: of the groups that have the metric.
        ranks: of these groups among all, which decide their styles.
        curves: one for each label.
        raw: all single runs, to mark values that are not finite.
        baseline: the place of the baseline among the labels, or None.
        x_label, y_label: with units.
    """

    labels: Sequence[str]
    ranks: Sequence[int]
    curves: Sequence[SeedCurve]
    raw: Sequence[Sequence[Series]]
    baseline: int | None
    x_label: str
    y_label: str


def curves(
    comparison: Comparison, metric: str | None = None, by: Axis = "step", *, theme: str = "light"
) -> Plot:
    """Return mean line and band over the seeds of each group.

    Up to six groups share one panel and have labels at their ends. More have a panel each, in which
    the others are grey and the baseline dashed. The vertical axis fits the curves after their
    beginning.

    Args:
        comparison: the groups to draw, unfinished runs included.
        metric: another metric than the comparison's.
        by: the horizontal axis: steps, tokens, or seconds of training (evaluation apart).
        theme: light or dark.
    """
    metric = metric or comparison.metric
    name = f"curves_{metric}_by_{by}"
    shown = collect_curves(comparison, metric, by)
    chosen = find_theme(theme)
    if not shown.labels:
        why = (
            f"No curve of {quantity(metric)} by {_AXIS_WORDS[by]}: no run has a finite value of it."
        )
        return Plot(name, why, chosen, None)
    draw = _overlaid if len(shown.labels) <= OVERLAID else _side_by_side
    return Plot(name, _caption(comparison, shown, metric, by), chosen, partial(draw, shown, chosen))


def collect_curves(comparison: Comparison, metric: str, by: Axis) -> Curves:
    """Return the curves of all groups that have the metric and its tokens or times."""
    labels, ranks, found, raw = [], [], [], []
    for rank, summary in enumerate(comparison.summaries):
        runs = [
            (run, series)
            for run in summary.group.runs
            if (series := drawable(run.series(metric))).steps.size
        ]
        places = [_places(run, series.steps, by) for run, series in runs]
        curve = over_seeds([series for _, series in runs], places, smoothed=metric in _NOISY)
        if curve.n_runs and curve.envelopes():
            labels.append(summary.group.label)
            ranks.append(rank)
            found.append(curve)
            raw.append(
                [
                    Series(place, series.values)
                    for place, (_, series) in zip(places, runs, strict=True)
                ]
            )
    scale, unit = 1.0, ""
    if by == "train_s" and found:
        longest = max(float(each.steps[-1]) for curve in found for each in curve.envelopes())
        scale, unit = next((scale, unit) for least, scale, unit in _TIMES if longest >= least)
        found = [curve.rescale(scale) for curve in found]
        raw = [[Series(run.steps / scale, run.values) for run in runs] for runs in raw]
    x_label = f"training time ({unit})" if by == "train_s" else _AXIS_WORDS[by]
    baseline = labels.index(comparison.baseline) if comparison.baseline in labels else None
    y_label = comparison.info_of(metric).axis_label
    return Curves(labels, ranks, found, raw, baseline, x_label, y_label)


def _places(run: Run, steps: FloatArray, by: Axis) -> FloatArray:
    if by == "step":
        return steps
    if by == "train_s":
        return run.train_time_s(steps)
    return steps * (run.tokens_per_step or np.nan)


def _caption(comparison: Comparison, shown: Curves, metric: str, by: Axis) -> str:
    counts = [curve.n_runs for curve in shown.curves]
    name = quantity(metric)
    words = [f"{name[:1].upper()}{name[1:]} over {_AXIS_WORDS[by]}, {run_counts(counts)}"]
    several = max(counts) > 1
    line = "line: mean over the runs" if several else "line: the run"
    words.append(f"{line}, smoothed over neighbouring points" if metric in _NOISY else line)
    if several:
        words.append("band: from the lowest to the highest run")
    if by == "train_s":
        words.append("each step stands at the runs' mean time, evaluation apart")
    if any(curve.rest for curve in shown.curves):
        words.append("thin lines: single runs, from where (tick) not all runs of the group go on")
    if len(shown.labels) > OVERLAID:
        dashed = f"dashed: {shown.labels[shown.baseline]}; " if shown.baseline is not None else ""
        words.append(f"{dashed}grey: the other groups")
    limits = late_limits(shown.curves)
    if limits and any(
        np.nanmax(part.high) > limits[1] for curve in shown.curves for part in curve.envelopes()
    ):
        words.append("the vertical axis leaves out the beginning")
    missing = [s.group.label for s in comparison.summaries if s.group.label not in shown.labels]
    if missing:
        words.append(f"not shown, since without this metric: {list_names(missing)}")
    return "; ".join(words) + "."


def _overlaid(shown: Curves, theme: Theme) -> Figure:
    figure = new_figure(theme, 0.41 * theme.width)
    axes = figure.add_subplot()
    styles = style_series(shown.labels, theme, limit=26, ranks=shown.ranks)
    for curve, style in zip(shown.curves, styles, strict=True):
        draw_seeds(axes, curve, style, theme, marks=7)
    notes = _frame(axes, shown, [run for runs in shown.raw for run in runs], theme)
    axes.set_xlabel(shown.x_label + notes)
    axes.set_ylabel(shown.y_label)
    number_axis(axes, "x", 7)
    number_axis(axes, "y", 6)
    ends = [curve.end for curve in shown.curves]
    side_labels(axes, [end for end in ends if end is not None], styles, theme, 0.28 * theme.width)
    _legend(figure, shown, theme)
    return figure


def _side_by_side(shown: Curves, theme: Theme) -> Figure:
    columns = _columns(shown.labels)
    rows = ceil(len(shown.labels) / columns)
    figure = new_figure(theme, ((0.19 if rows <= 3 else 0.16) * rows + 0.085) * theme.width)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    styles = style_series(shown.labels, theme, limit=_TITLE_CHARACTERS[columns])
    limits = _x_limits(shown)
    for index, axes in enumerate(panels.flat):
        if index >= len(shown.labels):
            axes.set_axis_off()
            panels[index // columns - 1, index % columns].tick_params(labelbottom=True)
            continue
        _highlight(axes, shown, index, theme)
        _frame(axes, shown, shown.raw[index], theme)
        axes.set_xlim(*limits)
        _label_outside(axes, shown.curves[index], theme)
        axes.set_title(
            styles[index].label, fontsize=0.96 * theme.font_size, pad=0.35 * theme.font_size
        )
    number_axis(panels[0, 0], "x", 3)
    number_axis(panels[0, 0], "y", 4)
    figure.supxlabel(shown.x_label, fontsize=1.04 * theme.font_size)
    figure.supylabel(shown.y_label, fontsize=1.04 * theme.font_size)
    _legend(figure, shown, theme)
    return figure


def _label_outside(axes: Axes, curve: SeedCurve, theme: Theme) -> None:
    """Write the end of a curve that lies above the panel."""
    if curve.end is not None and curve.end > axes.get_ylim()[1]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.98, 0.95, f"▲ ends at {short_number(curve.end)}", color=theme.alert, **place)


def _columns(labels: Sequence[str]) -> int:
    """Return the most columns that the names allow, preferably without empty panels."""
    longest = max(map(len, short_labels(labels)))
    fitting = [columns for columns, room in _TITLE_CHARACTERS.items() if longest <= room]
    if len(labels) > _MANY:
        fitting = [columns for columns in fitting if columns > 3] or [4]
    return min(fitting or [3], key=lambda columns: -len(labels) % columns)


def _highlight(axes: Axes, shown: Curves, index: int, theme: Theme) -> None:
    """Draw the curve of one group over all others."""
    for other, curve in enumerate(shown.curves):
        if other not in (index, shown.baseline):
            axes.plot(curve.x, curve.mean, **_background_style(theme))
    if shown.baseline is not None and shown.baseline != index:
        base = shown.curves[shown.baseline]
        axes.plot(base.x, base.mean, **_baseline_style(theme))
    draw_seeds(
        axes,
        shown.curves[index],
        SeriesStyle(shown.labels[index], theme.series[0], "-", "o"),
        theme,
    )


def _frame(axes: Axes, shown: Curves, raw: Sequence[Series], theme: Theme) -> str:
    """Set the limits of a panel, mark values that are not finite, and return the marks' legend."""
    low, high = late_limits(shown.curves) or (0.0, 1.0)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 0.06
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(*_x_limits(shown))
    return mark_non_finite(axes, raw, theme)


def _x_limits(shown: Curves) -> tuple[float, float]:
    parts = [part for curve in shown.curves for part in curve.envelopes()]
    last = max(float(part.steps[-1]) for part in parts)
    return -0.02 * last, 1.02 * last


def _legend(figure: Figure, shown: Curves, theme: Theme) -> None:
    """Draw the legend of lines and bands above the panels."""
    many = len(shown.labels) > OVERLAID
    several = any(curve.n_runs > 1 for curve in shown.curves)
    color = theme.series[0] if many else theme.muted
    handles: list[Artist] = [Line2D([], [], color=color, label="mean" if several else "single run")]
    if several:
        handles.append(Patch(color=color, alpha=0.2, linewidth=0, label="lowest to highest run"))
    if any(curve.rest for curve in shown.curves):
        handles.append(
            Line2D([], [], color=color, linewidth=0.45 * theme.line_width, label="single runs")
        )
    if many and shown.baseline is not None:
        name = short_labels([shown.labels[shown.baseline]], 22)[0]
        handles.append(Line2D([], [], label=f"{name} (baseline)", **_baseline_style(theme)))
    if many:
        handles.append(Line2D([], [], label="others", **_background_style(theme)))
    legend_on_top(figure, handles)


def _baseline_style(theme: Theme) -> dict[str, Any]:
    """Return the style of the baseline in the panels of the others."""
    return {"color": theme.text, "linewidth": 0.8 * theme.line_width, "linestyle": (0, (3, 1.6))}


def _background_style(theme: Theme) -> dict[str, Any]:
    """Return the style of the other groups in the panel of one."""
    return {"color": theme.muted, "alpha": 0.3, "linewidth": 0.5 * theme.line_width}
