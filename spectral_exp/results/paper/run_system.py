"""The figure of what the machine of one run did, for print."""

from __future__ import annotations

import logging
import re
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
_FEW_POINTS = 40

# Title of a panel -> end of a name -> label of its curve; GPUs are labelled by their index.
_PANELS = {
    "Processors": {"system/cpu_percent": "machine", "system/run_cpu_percent": "run"},
    "Memory of the run": {"system/run_memory_mb": "run"},
    "Disk": {"disk_read_mb_per_s": "read", "disk_write_mb_per_s": "write"},
    "Network": {"network_in_mb_per_s": "in", "network_out_mb_per_s": "out"},
    "GPU load": {"/utilization_percent": ""},
    "GPU memory": {"/memory_mb": ""},
    "GPU power": {"/power_w": ""},
    "GPU temperature": {"/temperature_c": ""},
}
# Longest time that is shown in a unit -> the unit and its hours.
_UNITS = {2 / 60: ("seconds", 1 / 3600), 2.0: ("minutes", 1 / 60), 72.0: ("hours", 1.0)}
_DAYS = ("days", 24.0)
# Labels show the index, and records may come from strangers.
_NAME = re.compile(r"system/\w+|gpu/\d{1,4}/\w+", re.ASCII)


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
        if (names := [n for n in measured if n.endswith(tuple(ends)) and _NAME.fullmatch(n)])
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
    span = max(float(series.hours[-1]) for series in measured.values())
    unit, hours = next((unit for most, unit in _UNITS.items() if span <= most), _DAYS)
    for axes, (title, names) in zip(places, panels.items(), strict=False):
        for color, name in zip(LIGHT.series, names[:_MOST_CURVES], strict=False):
            _draw_curve(axes, measured[name], hours, color, _label(title, name))
        axes.set_title(title)
        axes.set_ylabel(metric_info(names[0]).unit)
        axes.set_xlabel(unit)
        axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 1e-3))
        if len(names) > 1:
            legend_above(axes)
    for axes in places[len(panels) :]:
        axes.remove()
    return figure


def _draw_curve(axes: Axes, series: SystemSeries, hours: float, color: str, label: str) -> None:
    curve = envelope(Series(series.hours / hours, series.values))
    few = "o-" if curve.steps.size <= _FEW_POINTS else "-"
    axes.plot(curve.steps, curve.mean, few, color=color, label=label)
    if curve.points_per_bin > 1:
        axes.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.25, linewidth=0)


def _label(title: str, name: str) -> str:
    label = next(label for end, label in _PANELS[title].items() if name.endswith(end))
    return label or f"GPU {name.split('/')[1]}"
