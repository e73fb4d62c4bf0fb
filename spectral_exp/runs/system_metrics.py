"""Measurements of the machine of a run, in `system.jsonl`.

A line is an entry as in `metrics.jsonl`: `timestamp`, the last logged `step`, and numbers whose
names begin with `system/`, or with `gpu/` and the index of the GPU. Rates are averages since the
line before. Old lines become rarer as the file grows, and steps may go back where a run was
continued.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectral_exp.core.series import FloatArray
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_lines import RESERVED, metric_number, parse_entry, read_lines
from spectral_exp.runs.metric_names import SYSTEM_PREFIXES


@dataclass(frozen=True)
class SystemSeries:
    """One quantity over time.

    Attributes:
        hours: since the first line of the file, ascending.
        values: in the unit at the end of the name.
    """

    hours: FloatArray
    values: FloatArray


def read_system_metrics(run: str | Path) -> dict[str, SystemSeries]:
    """Return name -> series of a run's system metrics; none without a file.

    Lines that are damaged are left out.

    Raises:
        UserError: the file cannot be read.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for line in read_lines(RunPaths(run).system_file):
        entry = parse_entry(line) or {}
        time_s = seconds_since_epoch(entry.get("timestamp"))
        if math.isnan(time_s):
            continue
        for name, value in entry.items():
            number = None if name in RESERVED else metric_number(value)
            if number is not None and math.isfinite(number) and name.startswith(SYSTEM_PREFIXES):
                points.setdefault(name, []).append((time_s, number))
    first_s = min((time_s for found in points.values() for time_s, _ in found), default=0.0)
    return {name: _series(found, first_s) for name, found in points.items()}


def _series(points: list[tuple[float, float]], first_s: float) -> SystemSeries:
    ordered = np.array(sorted(points))
    return SystemSeries((ordered[:, 0] - first_s) / 3600, ordered[:, 1])
