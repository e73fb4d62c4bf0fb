"""Several experiments side by side: curves over the steps, and final metrics as bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import ceil, isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from spectral_exp.core.series import Series
from spectral_exp.plots.curves import (
    draw_seeds,
    frame_steps,
    frame_values,
    mark_non_finite,
    step_range,
)
from spectral_exp.plots.run.experiment import Experiment
from spectral_exp.plots.seeds import over_seeds
from spectral_exp.plots.series import MAX_POINTS, envelope
from spectral_exp.plots.series_styles import SeriesStyle, style_series
from spectral_exp.plots.text import number_axis, printable, short_number
from spectral_exp.plots.theme import current_theme, new_figure
from spectral_exp.runs.metric_names import Metric, metric_info

_CURVES = ("loss", "learning_rate", "perplexity")
_LOSS_HEIGHT, _PANEL_HEIGHT = 4.0, 3.0
_MAX_DOTS = 40
"""Most validation points that are drawn as dots too."""
_MAX_BAR_PANELS, _BAR_COLUMNS = 6, 3
_BARS_FIRST = (
    "val_loss",
    "best_val_loss",
    "val_bpb",
    "best_val_bpb",
    "perplexity",
    "val_perplexity",
    "loss",
)


def comparison_figure(experiments: Sequence[Experiment]) -> Figure:
    """Return all experiments in one figure; each has one colour and line style throughout."""
    shown = style_series([experiment.label for experiment in experiments], current_theme())
    names = [style.label for style in shown]
    curves = [
        name for name in _CURVES if any(_curves_of(experiment, name) for experiment in experiments)
    ]
    bars = bar_metrics(experiments)
    top = _curves_height(curves, names)
    bottom = ceil(len(bars) / _bar_columns(bars)) * (1.0 + 0.27 * len(names))
    figure = new_figure(
        current_theme(),
        0.6 + top + bottom,
        f"Comparison of {len(names)} experiment{'s' * (len(names) != 1)}",
    )
    upper: FigureBase = figure
    lower: FigureBase = figure
    if curves and bars:
        upper, lower = figure.subfigures(2, 1, height_ratios=[top, bottom])
    if curves:
        _draw_curves(upper, experiments, shown, curves)
    if bars:
        _draw_bars(lower, experiments, shown, bars)
    return figure


def legend_columns(labels: Sequence[str]) -> int:
    """Return how many entries of a legend fit side by side."""
    longest = max(map(len, labels))
    return max(1, min(len(labels), int(current_theme().width / (0.105 * longest + 0.75))))


def bar_metrics(experiments: Sequence[Experiment]) -> list[str]:
    """Return the final metrics to draw: the usual ones first, then by number of experiments."""
    count = Counter(name for experiment in experiments for name in experiment.final)
    usual = {name: place for place, name in enumerate(_BARS_FIRST)}
    names = sorted(count, key=lambda name: (usual.get(name, len(usual)), -count[name]))
    return names[: _MAX_BAR_PANELS if len(experiments) <= 8 else _BAR_COLUMNS]


def shared_units(experiments: Sequence[Experiment], metric: str) -> Mapping[str, str]:
    """Return the units of those experiments that have a metric, if they agree; else none."""
    names = (metric, f"val_{metric}")
    having = [e for e in experiments if any(n in e.series or n in e.final for n in names)]
    units = {metric_info(metric, e.units).unit: e.units for e in having}
    return units.popitem()[1] if len(units) == 1 else {}


def _curves_height(curves: Sequence[str], names: Sequence[str]) -> float:
    """Return the height in inches of the panels of `curves` and the legend below them."""
    if not curves:
        return 0.0
    panels = _LOSS_HEIGHT * ("loss" in curves) + _PANEL_HEIGHT * any(
        name != "loss" for name in curves
    )
    return panels + 0.2 + 0.27 * ceil(len(names) / legend_columns(names))


def _draw_curves(
    figure: FigureBase,
    experiments: Sequence[Experiment],
    styles: Sequence[SeriesStyle],
    names: Sequence[str],
) -> None:
    """Draw the loss over the full width, the other quantities below it, and one legend."""
    below = [name for name in names if name != "loss"]
    heights = [_LOSS_HEIGHT] * ("loss" in names) + [_PANEL_HEIGHT] * bool(below)
    grid = figure.add_gridspec(len(heights), max(1, len(below)), height_ratios=heights)
    cells = {"loss": grid[0, :]} if "loss" in names else {}
    cells |= {name: grid[len(heights) - 1, column] for column, name in enumerate(below)}
    steps = step_range(
        [series for e in experiments for name in names for series in _curves_of(e, name)]
    )
    for name, cell in cells.items():
        axes = figure.add_subplot(cell)
        pairs = [(_curves_of(e, name), style) for e, style in zip(experiments, styles, strict=True)]
        noisy = name != "learning_rate"
        for shown, style in pairs:
            _draw_experiment(axes, shown, style, noisy)
        every = [series for shown, _ in pairs for series in shown]
        quantity = metric_info(name, shared_units(experiments, name))
        axes.set_title(quantity.title)
        axes.set_ylabel(quantity.unit)
        notes = frame_values(
            axes, [envelope(series) for series in every], quantity.log, current_theme()
        )
        notes += mark_non_finite(axes, every, current_theme())
        frame_steps(axes, steps, 8 if name == "loss" else 5, notes)
        if any(len(shown) == 2 for shown, _ in pairs):
            axes.set_title(
                "thin: training, smoothed · dots: validation",
                loc="right",
                color=current_theme().muted,
                fontsize=12,
            )
    handles = [
        Line2D([], [], color=style.color, linestyle=style.line, linewidth=2.4, label=style.label)
        for style in styles
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns([style.label for style in styles]),
    )


def _curves_of(experiment: Experiment, name: str) -> list[Series]:
    """Return the training and the validation series of metric `name` that exist."""
    return [experiment.series[key] for key in (name, f"val_{name}") if key in experiment.series]


def _draw_experiment(axes: Axes, shown: Sequence[Series], style: SeriesStyle, noisy: bool) -> None:
    """Draw the first series, smoothed if `noisy`, and the validation series over it with dots."""
    for validation, series in enumerate(shown):
        curve = over_seeds([series], smoothed=noisy and not validation, max_bins=MAX_POINTS)
        dots = curve.x.size if validation and curve.x.size <= _MAX_DOTS else 0
        draw_seeds(
            axes,
            curve,
            style,
            current_theme(),
            weight=0.55 if len(shown) == 2 and not validation else 1.1,
            marks=dots,
        )


def _bar_columns(names: Sequence[str]) -> int:
    return 2 if len(names) == 4 else max(1, min(_BAR_COLUMNS, len(names)))


def _draw_bars(
    figure: FigureBase,
    experiments: Sequence[Experiment],
    styles: Sequence[SeriesStyle],
    names: Sequence[str],
) -> None:
    """Draw one panel per final metric: a bar from zero and its value for every experiment."""
    columns = _bar_columns(names)
    panels = figure.subplots(ceil(len(names) / columns), columns, squeeze=False, sharey=True)
    for axes, name in zip_longest(panels.flat, names):
        if name is None:
            axes.set_axis_off()
        else:
            quantity = metric_info(name, shared_units(experiments, name))
            _bar_panel(axes, [e.final.get(name) for e in experiments], styles, quantity)
    panels[0, 0].set_ylim(len(styles) - 0.4, -0.6)
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(styles)), labels=[style.label for style in styles])


def _bar_panel(
    axes: Axes, values: Sequence[float | None], styles: Sequence[SeriesStyle], quantity: Metric
) -> None:
    lengths = [value if value is not None and isfinite(value) else 0.0 for value in values]
    axes.barh(range(len(styles)), lengths, height=0.7, color=[style.color for style in styles])
    reach = max(map(abs, lengths)) or 1.0
    for row, (value, length) in enumerate(zip(values, lengths, strict=True)):
        text = "none" if value is None else short_number(value, 4)
        side = -1 if length < 0 else 1
        axes.text(
            length + side * 0.02 * reach,
            row,
            text,
            va="center",
            ha="left" if side > 0 else "right",
            fontsize=12,
        )
    left, right = min(lengths) < 0, max(lengths) > 0 or min(lengths) == 0
    axes.set_xlim(-1.42 * reach * left, 1.42 * reach * right)
    axes.set_title(printable(quantity.title, 30))
    axes.set_xlabel(quantity.unit)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    number_axis(axes, "x", 4)
