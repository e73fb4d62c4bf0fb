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


@dataclass(frozen=True)
class Moment:
    """The system metrics while a run made certain steps, and its usual ones.

    Attributes:
        then: name -> mean of the measurements between two logged steps.
        usual: name -> median of the whole run.
    """

    then: dict[str, float]
    usual: dict[str, float]


def measured_before(run: str | Path, step: int) -> Moment | None:
    """Return what was measured after the last logged step before `step`; None without.

    Raises:
        UserError: the file cannot be read.
    """
    entries = [
        entry for line in read_lines(RunPaths(run).system_file) if (entry := parse_entry(line))
    ]
    last = max((entry["step"] for entry in entries if entry["step"] < step), default=None)
    if last is None:
        return None
    found: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    for entry in entries:
        for name, value in entry.items():
            number = metric_number(value) if name.startswith(SYSTEM_PREFIXES) else None
            if number is not None and math.isfinite(number):
                found[1].setdefault(name, []).append(number)
                if entry["step"] == last:
                    found[0].setdefault(name, []).append(number)
    then, usual = found
    return Moment(
        {name: float(np.mean(values)) for name, values in then.items()},
        {name: float(np.median(values)) for name, values in usual.items()},
    )


def _series(points: list[tuple[float, float]], first_s: float) -> SystemSeries:
    ordered = np.array(sorted(points))
    return SystemSeries((ordered[:, 0] - first_s) / 3600, ordered[:, 1])
