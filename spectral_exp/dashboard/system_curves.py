"""Curves of the machines of runs over the time since the first measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.dashboard.addresses import address
from spectral_exp.dashboard.answers import json_bytes
from spectral_exp.dashboard.binning import Points
from spectral_exp.dashboard.curves import Curve, Window, curves_answer, describe_metric
from spectral_exp.dashboard.library import Library
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.system_metrics import SystemSeries

AXIS = "wall_s"
"""The only horizontal axis: seconds since the first measurement."""

MAX_METRICS = 500
"""Further ones are not listed."""

_NOTHING = SystemSeries(np.empty(0), np.empty(0))


def system_answer(library: Library, key: str) -> dict[str, Any]:
    """Return the system metrics of a run in the order of its file, without values.

    Raises:
        UserError: the run is unknown or its file cannot be read.
    """
    names = [name for name in library.system.metrics(library.path(key)) if printable(name) == name]
    return {"metrics": [describe_metric(name, metric_info(name)) for name in names[:MAX_METRICS]]}


def load_system_curves(library: Library, keys: Sequence[str], metric: str) -> list[Curve]:
    """Return a system metric of runs, without points if a run lacks it.

    Raises:
        UserError: a run is unknown or its file cannot be read.
    """
    curves = []
    for key in keys:
        run = library.run(key)
        series = library.system.metrics(run.path).get(metric, _NOTHING)
        points = Points.of(series.hours * 3600, series.values)
        curves.append(Curve(key, run, points, generation=0, read_share=1.0))
    return curves


def exported_system(library: Library, key: str, window: Window) -> Iterator[tuple[str, bytes]]:
    """Yield address and body of the answers about the machine of a run.

    There are none if the file cannot be read; the tab then reports that they are not in the export.
    """
    try:
        listed = system_answer(library, key)
    except UserError:
        return
    yield f"api/run/{key}/system", json_bytes(listed)
    for metric in (one["name"] for one in listed["metrics"]):
        try:
            loaded = load_system_curves(library, [key], metric)
        except UserError:  # replaced meanwhile
            continue
        name = address("api/system", {"metric": metric, "runs": key, "x": AXIS})
        yield name, curves_answer(loaded, metric, AXIS, window, rounded=True)
