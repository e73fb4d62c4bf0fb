"""Figures of the metric against the learning rate, the model size, or the seconds of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spectral_exp.plots.series import bulk_limits
from spectral_exp.plots.series_styles import SeriesStyle, side_labels, style_series
from spectral_exp.plots.text import log_values_axis, number_axis, short_number
from spectral_exp.plots.theme import Theme, legend_on_top, new_figure
from spectral_exp.results.comparison import Comparison, GroupSummary
from spectral_exp.results.figures.captions import (
    counted_runs,
    describe_metric,
    list_names,
    run_counts,
)
from spectral_exp.results.figures.plot import Plot, find_theme

_LEARNING_RATE = "optimizer.learning_rate"
_SIZE_SETTINGS = (
    "n_embd",
    "n_layer",
    "n_head",
    "n_wave",
    "n_harmonic",
    "n_hidden",
    "block_size",
    "dropout",
    "size",
)
"""Last words of the settings that a model size fixes."""


@dataclass(frozen=True)
class Line:
    """Groups that differ in one quantity only, in ascending order.

    Attributes:
        label: their common name.
        x: the quantity (N,).
        groups: their summaries (N).
    """

    label: str
    x: Sequence[float]
    groups: Sequence[GroupSummary]


@dataclass(frozen=True)
class Point:
    """One group: mean over its runs, and each of them.

    Attributes:
        label: the group's.
        rank: its place among all groups, which decides its style.
        x, y: means.
        xs, ys: of the single runs.
        best: whether no other group is at least as good in both and better in one.
    """

    label: str
    rank: int
    x: float
    y: float
    xs: Sequence[float]
    ys: Sequence[float]
    best: bool


def scaling(
    comparison: Comparison, by: Literal["learning_rate", "size"], *, theme: str = "light"
) -> Plot:
    """Return the metric against learning rate or model size.

    There is a line for each set of groups that differ in that quantity only.
    """
    name, chosen = f"scaling_{comparison.metric}_by_{by}", find_theme(theme)
    lines = rate_lines(comparison) if by == "learning_rate" else size_lines(comparison)
    words = "learning rate" if by == "learning_rate" else "trainable parameters"
    if not lines:
        why = "in their learning rate alone" if by == "learning_rate" else "in their size alone"
        return Plot(
            name,
            f"{describe_metric(comparison)} against {words}: no two groups differ {why}.",
            chosen,
            None,
        )
    shown = [group for line in lines for group in line.groups]
    caption = [
        (
            f"{describe_metric(comparison)} against {words},"
            f" {run_counts([len(g.values) for g in shown])}"
        ),
        "dots: single runs; line: means over the runs",
    ]
    if any(group.interval is not None for group in shown):
        caption.append("bars: 95 % bootstrap interval of the mean, where n is 3 or more")
    draw = partial(_draw_lines, lines, chosen, words, comparison.metric_info.axis_label)
    return Plot(name, "; ".join(caption) + ".", chosen, draw)


def rate_lines(comparison: Comparison) -> list[Line]:
    """Return sets of groups that differ in their learning rate only."""

    def rate(summary: GroupSummary) -> float | None:
        rates = {run.settings.get(_LEARNING_RATE) for run in summary.group.runs}
        return _one_number(rates)

    return _lines(comparison, rate, lambda key: key == _LEARNING_RATE)


def size_lines(comparison: Comparison) -> list[Line]:
    """Return sets of groups that differ in settings of their size only, by parameters."""

    def parameters(summary: GroupSummary) -> float | None:
        return _one_number({run.n_parameters for run in summary.group.runs})

    return _lines(comparison, parameters, lambda key: key.rpartition(".")[2] in _SIZE_SETTINGS)


def _one_number(values: set[object]) -> float | None:
    """Return the only member of a set if it is a positive number, else None."""
    value = values.pop() if len(values) == 1 else None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _lines(
    comparison: Comparison,
    quantity: Callable[[GroupSummary], float | None],
    varies: Callable[[str], bool],
) -> list[Line]:
    """Return sets of groups with distinct values of the quantity and all else equal."""
    families: dict[tuple[tuple[str, str], ...], list[tuple[float, GroupSummary]]] = {}
    for summary in comparison.summaries:
        x = quantity(summary)
        if x is not None and summary.values:
            common = tuple(
                sorted(
                    (key, repr(value))
                    for key, value in summary.group.key.items()
                    if not varies(key)
                )
            )
            families.setdefault(common, []).append((x, summary))
    found = [sorted(family, key=lambda pair: pair[0]) for family in families.values()]
    found = [family for family in found if len({x for x, _ in family}) == len(family) > 1]
    names = [next((run.name for run in family[0][1].group.runs), "") for family in found]
    return [
        Line(
            name if names.count(name) == 1 else family[0][1].group.label,
            [x for x, _ in family],
            [summary for _, summary in family],
        )
        for name, family in zip(names, found, strict=True)
    ]


def _draw_lines(lines: Sequence[Line], theme: Theme, x_label: str, y_label: str) -> Figure:
    figure = new_figure(theme, (0.41 + 0.012 * max(0, len(lines) - 8)) * theme.width)
    axes = figure.add_subplot()
    styles = style_series([line.label for line in lines], theme, limit=26)
    for line, style in zip(lines, styles, strict=True):
        _draw_line(axes, line, style, theme)
    log_values_axis(axes, sorted({x for line in lines for x in line.x}))
    number_axis(axes, "y", 6)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.autoscale_view()
    side_labels(
        axes, [_center(line.groups[-1]) for line in lines], styles, theme, 0.32 * theme.width
    )
    return figure


def _draw_line(axes: Axes, line: Line, style: SeriesStyle, theme: Theme) -> None:
    centers = [_center(group) for group in line.groups]
    axes.plot(
        line.x,
        centers,
        style.marker,
        color=style.color,
        linestyle=style.line,
        markersize=1.2 * theme.marker_size,
    )
    for x, group in zip(line.x, line.groups, strict=True):
        axes.plot(
            [x] * len(group.values),
            group.values,
            "o",
            color=style.color,
            alpha=0.5,
            mew=0,
            ms=0.6 * theme.marker_size,
        )
        if group.interval is not None:
            axes.plot(
                [x, x],
                [group.interval.low, group.interval.high],
                color=style.color,
                linewidth=theme.line_width,
            )


def _center(summary: GroupSummary) -> float:
    return summary.mean if summary.mean is not None else float(np.mean(summary.values))


def pareto(comparison: Comparison, *, theme: str = "light") -> Plot:
    """Return the metric against seconds of training, and the groups that no other beats in both."""
    name, chosen = f"pareto_{comparison.metric}_by_train_s", find_theme(theme)
    points = pareto_points(comparison)
    if comparison.lower_is_better is None:
        why = "without a direction no group beats another"
        caption = f"{describe_metric(comparison)} against training time: {why}."
        return Plot(name, caption, chosen, None)
    if len(points) < 2:
        why = "no two groups have both a value and a time of training"
        return Plot(
            name, f"{describe_metric(comparison)} against training time: {why}.", chosen, None
        )
    missing = [
        s.group.label
        for s in comparison.summaries
        if s.group.label not in {point.label for point in points}
    ]
    words = [
        (
            f"{describe_metric(comparison)} against seconds of training (evaluation apart), "
            f"{run_counts([len(point.ys) for point in points])}"
        ),
        "points: means over the runs; bars: from the lowest to the highest run",
        "filled, on the stepped line: groups that no other beats in both",
    ]
    if missing:
        words.append(f"not shown, since value or time is unknown: {list_names(missing)}")
    label = comparison.metric_info.axis_label
    draw = partial(_draw_pareto, points, chosen, label, comparison.lower_is_better)
    return Plot(name, "; ".join(words) + ".", chosen, draw)


def pareto_points(comparison: Comparison) -> list[Point]:
    """Return the groups with value and time, the best value first."""
    found = []
    for rank, summary in enumerate(comparison.summaries):
        pairs = [
            (seconds, value)
            for run, value in zip(counted_runs(summary), summary.values, strict=True)
            if (seconds := run.value("train_s")) is not None
        ]
        if pairs:
            xs, ys = zip(*pairs, strict=True)
            found.append(
                (summary.group.label, rank, float(np.mean(xs)), float(np.mean(ys)), xs, ys)
            )
    sign = 1 if comparison.lower_is_better else -1
    points = [
        Point(
            *point,
            not any(
                _beats((x2, sign * y2), (point[2], sign * point[3])) for _, _, x2, y2, *_ in found
            ),
        )
        for point in found
    ]
    return sorted(points, key=lambda point: sign * point.y)


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Return whether `a` is nowhere above `b` and somewhere below."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def _draw_pareto(
    points: Sequence[Point], theme: Theme, y_label: str, lower_is_better: bool
) -> Figure:
    figure = new_figure(
        theme, max(0.44 * theme.width, (0.7 + 0.165 * len(points)) * theme.font_size / 8.5)
    )
    axes = figure.add_subplot()
    x_limits, y_limits = (
        _with_room(bulk_limits([np.array(getattr(p, of)) for p in points])) for of in ("xs", "ys")
    )
    styles = style_series(
        [point.label for point in points], theme, 26, [point.rank for point in points]
    )
    handles = []
    for point, style in zip(points, styles, strict=True):
        bars: dict[str, Any] = {
            "color": style.color,
            "linewidth": 0.7 * theme.line_width,
            "alpha": 0.8,
        }
        axes.plot([min(point.xs), max(point.xs)], [point.y, point.y], **bars)
        axes.plot([point.x, point.x], [min(point.ys), max(point.ys)], **bars)
        face = style.color if point.best else theme.panel
        filled: dict[str, Any] = {
            "color": style.color,
            "markerfacecolor": face,
            "markersize": 1.8 * theme.marker_size,
        }
        x, y = np.clip(point.x, *x_limits), np.clip(point.y, *y_limits)
        axes.plot(x, y, style.marker, zorder=3, clip_on=False, **filled)
        outside = (
            ""
            if (x, y) == (point.x, point.y)
            else f" ({short_number(point.y)} at {short_number(point.x)} s)"
        )
        handles.append(
            Line2D([], [], linestyle="", marker=style.marker, label=style.label + outside, **filled)
        )
    axes.set_xlim(*x_limits)
    axes.set_ylim(*y_limits)
    front = sorted((point.x, point.y) for point in points if point.best)
    border = [
        (front[0][0], y_limits[1 if lower_is_better else 0]),
        *front,
        (x_limits[1], front[-1][1]),
    ]
    line: dict[str, Any] = {"color": theme.muted, "linewidth": 0.8 * theme.line_width}
    axes.plot(*np.array(border).T, drawstyle="steps-post", zorder=1, **line)
    number_axis(axes, "x", 6)
    number_axis(axes, "y", 6)
    axes.set_xlabel("training time (s)")
    axes.set_ylabel(y_label)
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, borderpad=0, handlelength=1.2
    )
    legend_on_top(figure, _pareto_marks(points, theme, line))
    return figure


def _pareto_marks(points: Sequence[Point], theme: Theme, line: Mapping[str, Any]) -> list[Line2D]:
    """Return the entries of the legend that explain marks and bars."""
    size = 1.8 * theme.marker_size
    marks = [
        Line2D([], [], marker="o", markersize=size, label="no other is better in both", **line)
    ]
    if any(len(point.xs) > 1 for point in points):
        thin: dict[str, Any] = {"color": theme.muted, "linewidth": 0.7 * theme.line_width}
        marks.append(Line2D([], [], label="lowest to highest run", **thin))
    return marks


def _with_room(limits: tuple[float, float]) -> tuple[float, float]:
    room = 0.06 * (limits[1] - limits[0]) or 0.06 * abs(limits[1]) or 0.06
    return limits[0] - room, limits[1] + room
