"""The figure of what the machine of one run did, for print."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from spectral_exp.core.errors import UserError
from spectral_exp.core.series import Series
from spectral_exp.plots.series import envelope
from spectral_exp.plots.theme import LIGHT, legend_above, new_figure, render
from spectral_exp.results.document.model import Figure, Source
from spectral_exp.results.paper.passages import passage
from spectral_exp.runs.layout import SYSTEM_NAME
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.run import Run
from spectral_exp.runs.system_metrics import SystemSeries, read_system_metrics

log = logging.getLogger(__name__)

_COLUMNS = 2
_ROW_HEIGHT = 1.9
_DPI = 200
_MOST_CURVES = 5

# Title of a panel -> ends of the names of its curves.
_PANELS = {
    "Processors": ("system/cpu_percent", "system/run_cpu_percent"),
    "Memory of the run": ("system/run_memory_mb",),
    "Disk": ("disk_read_mb_per_s", "disk_write_mb_per_s"),
    "Network": ("network_in_mb_per_s", "network_out_mb_per_s"),
    "GPU load": ("/utilization_percent",),
    "GPU memory": ("/memory_mb",),
    "GPU power": ("/power_w",),
    "GPU temperature": ("/temperature_c",),
}


def run_system(run: Run) -> Figure | None:
    """Return the load of a run's machine over time, or None if it was not measured."""
    try:
        measured = read_system_metrics(run.path)
    except UserError as error:
        log.warning("%s; the report lacks the system metrics", error)
        return None
    panels = {
        title: names
        for title, ends in _PANELS.items()
        if (names := [name for name in measured if name.endswith(ends)])
    }
    if not panels:
        return None
    png = render(lambda: _draw(panels, measured), LIGHT, _DPI)
    source = Source(SYSTEM_NAME, (run.run_id,), formula="as measured")
    return Figure("fig:system", passage("report", "system"), {"png": png}, source)


def _draw(
    panels: Mapping[str, list[str]], measured: Mapping[str, SystemSeries]
) -> MatplotlibFigure:
    rows = ceil(len(panels) / _COLUMNS)
    figure = new_figure(LIGHT, _ROW_HEIGHT * rows)
    places = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, (title, names) in zip(places, panels.items(), strict=False):
        _draw_panel(axes, title, {name: measured[name] for name in names[:_MOST_CURVES]})
    for axes in places[len(panels) :]:
        axes.remove()
    return figure


def _draw_panel(axes: Axes, title: str, shown: Mapping[str, SystemSeries]) -> None:
    for color, (name, series) in zip(LIGHT.series, shown.items(), strict=False):
        curve = envelope(Series(series.hours, series.values))
        axes.plot(curve.steps, curve.mean, color=color, label=metric_info(name).title)
        if curve.points_per_bin > 1:
            axes.fill_between(
                curve.steps, curve.low, curve.high, color=color, alpha=0.25, linewidth=0
            )
    axes.set_title(title)
    axes.set_ylabel(metric_info(next(iter(shown))).unit)
    axes.set_xlabel("hours")
    axes.set_ylim(bottom=0)
    if len(shown) > 1:
        legend_above(axes)
