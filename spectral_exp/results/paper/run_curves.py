"""The figure of one run's curves for print."""

from __future__ import annotations

from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from spectral_exp.core.series import Series
from spectral_exp.plots.curves import frame_steps, frame_values, mark_non_finite, step_range
from spectral_exp.plots.series import drawable, envelope
from spectral_exp.plots.theme import LIGHT, legend_above, new_figure, render_all
from spectral_exp.results.document.model import Figure, Source
from spectral_exp.results.paper.material import shown_metrics
from spectral_exp.runs.metric_names import Metric
from spectral_exp.runs.run import Run

_COLUMNS = 2
_ROW_HEIGHT = 1.9
# It shares the panel of the loss.
_VALIDATION = "val_loss"


def run_curves(run: Run) -> Figure | None:
    """Return the metrics of `shown_metrics` over the steps, or None if no series is known."""
    logged = {name: run.series(name) for name in shown_metrics(run)}
    series = {name: drawable(one) for name, one in logged.items() if one.steps.size}
    if not series:
        return None
    names = [name for name in series if name != _VALIDATION or "loss" not in series]
    steps = step_range(list(series.values()))

    def draw() -> MatplotlibFigure:
        rows = ceil(len(names) / _COLUMNS)
        figure = new_figure(LIGHT, _ROW_HEIGHT * rows)
        panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
        for axes, name in zip(panels, names, strict=False):
            together = [name, _VALIDATION] if name == "loss" and _VALIDATION in series else [name]
            _panel(axes, {n: series[n] for n in together}, steps, run.metric_info(name))
        for axes in panels[len(names) :]:
            axes.remove()
        return figure

    caption = "Everything that was logged, over the optimizer steps."
    files = {
        str(kind): content
        for kind, content in render_all(draw, LIGHT, 200, ("svg", "png"), caption).items()
    }
    source = Source(", ".join(series), (run.run_id,), formula=caption)
    return Figure("fig:curves", (caption,), files, source)


def _panel(axes: Axes, shown: dict[str, Series], steps: tuple[float, float], style: Metric) -> None:
    bins = {name: envelope(series) for name, series in shown.items()}
    for color, (name, curve) in zip(LIGHT.series, bins.items(), strict=False):
        label = {"loss": "training", _VALIDATION: "validation"}.get(name, name)
        few = "o-" if curve.steps.size <= 40 else "-"
        axes.plot(curve.steps, curve.mean, few, color=color, label=label)
        if curve.points_per_bin > 1:
            axes.fill_between(
                curve.steps, curve.low, curve.high, color=color, alpha=0.25, linewidth=0
            )
    axes.set_title(style.title)
    axes.set_ylabel(style.unit)
    notes = frame_values(axes, list(bins.values()), style.log, LIGHT) + mark_non_finite(
        axes, list(shown.values()), LIGHT
    )
    frame_steps(axes, steps, 5, notes)
    if len(shown) > 1:
        legend_above(axes)
