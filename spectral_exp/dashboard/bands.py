"""A metric of groups of runs over an axis: mean, interval or range, and every extreme value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray
from spectral_exp.dashboard.answers import FrameWriter
from spectral_exp.dashboard.binning import Points, bin_indices, describe_bins
from spectral_exp.dashboard.curves import Curve, Window, describe_metric, extent_of
from spectral_exp.results.interval_curves import mean_intervals
from spectral_exp.runs.run import shared_metric_info

COLUMNS = ("x", "mean", "low", "high", "n", "min", "max", "nan", "posinf", "neginf")
"""Columns of a band. `n` is the number of runs in the mean; `min` and `max` are of all points of
all runs, so that no spike of a single run is lost."""

Kind = Literal["interval", "range"]
_PLACES_PER_BIN = 2  # up to so many different x per bin, each is a place of its own


@dataclass(frozen=True)
class GroupCurves:
    """The curves of a group's runs, with the stratum of each."""

    id: str
    label: str
    color: int
    curves: Sequence[Curve]
    strata: Sequence[int]


def bands_answer(
    groups: Sequence[GroupCurves],
    metric: str,
    axis: str,
    window: Window,
    kind: Kind,
    *,
    rounded: bool = False,
) -> bytes:
    """Return the bands of groups as a header and columns; `rounded` as in `FrameWriter`."""
    curves = [curve for group in groups for curve in group.curves]
    extent = extent_of(curves)
    low, high = window.bounds(extent)
    writer = FrameWriter(rounded=rounded)
    series = [_band_entry(group, low, high, window.n_bins, kind, writer) for group in groups]
    return writer.content(
        {
            "metric": describe_metric(metric, shared_metric_info(metric, [c.run for c in curves])),
            "x": axis,
            "band": kind,
            "generation": {curve.key: curve.generation for curve in curves},
            "loading": {c.key: c.read_share for c in curves if c.read_share < 1.0},
            "extent": extent,
            "window": [low, high],
            "series": series,
        }
    )


def _band_entry(
    group: GroupCurves, low: float, high: float, n_bins: int, kind: Kind, writer: FrameWriter
) -> dict[str, Any]:
    inside = [curve.points[curve.points.window(low, high)] for curve in group.curves]
    columns = band_columns(inside, group.strata, low, high, n_bins, kind)
    return {
        "id": group.id,
        "label": group.label,
        "color": group.color,
        "keys": [curve.key for curve in group.curves],
        "columns": COLUMNS,
        "n_runs": sum(bool(np.isfinite(points.y).any()) for points in inside),
        "points": sum(map(len, inside)),
        **{name: int(np.nansum(columns[row])) for row, name in enumerate(COLUMNS) if row >= 7},
        "n": columns.shape[1],
        "offset": writer.add(columns),
    }


def band_columns(
    runs: Sequence[Points],
    strata: Sequence[int],
    low: float,
    high: float,
    n_bins: int,
    kind: Kind,
) -> FloatArray:
    """Return `COLUMNS` of the places at which some run has a point.

    A place is an x of some run, or a bin if there are too many of them. The value of a run at a
    place is the mean of its finite points there; between its points it is interpolated.

    Args:
        runs: the points of each run within the window.
        strata: the stratum of each run.
        low, high: the window.
        n_bins: number of bins.
        kind: whether low and high are the 95 % interval of the mean or the range of the runs.
    """
    if not any(map(len, runs)):
        return np.empty((len(COLUMNS), 0))
    x, indices = _places(runs, low, high, n_bins)
    n_places = len(x)
    values = np.full((len(runs), n_places), np.nan)
    lowest, highest = np.full(n_places, np.nan), np.full(n_places, np.nan)
    marks = np.zeros((3, n_places))
    for row, (points, places) in enumerate(zip(runs, indices, strict=True)):
        if not len(points):
            continue
        used, described = describe_bins(points.y, places)
        lowest[used] = np.fmin(lowest[used], described[0])
        highest[used] = np.fmax(highest[used], described[1])
        marks[:, used] += described[6:]
        values[row] = _interpolate(x, used, described[2])
    is_known = np.isfinite(values)
    n = is_known.sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float
        mean = np.where(is_known, values, 0.0).sum(axis=0) / np.where(n, n, np.nan)
        if kind == "range":
            lows, highs = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        else:
            lows, highs = _intervals(values, is_known, strata)
    return np.stack([x, mean, lows, highs, n, lowest, highest, *marks])


def _places(
    runs: Sequence[Points], low: float, high: float, n_bins: int
) -> tuple[FloatArray, list[NDArray[np.int64]]]:
    """Return the x of every place, and the place of each point of each run."""
    all_x = [points.x for points in runs]
    different = np.unique(np.concatenate(all_x))
    if len(different) <= _PLACES_PER_BIN * n_bins:
        return different, [np.searchsorted(different, x) for x in all_x]
    bins = [bin_indices(x, low, high, n_bins) for x in all_x]
    used = np.unique(np.concatenate(bins))
    middle = low + (used + 0.5) * ((high - low) / n_bins)
    return middle, [np.searchsorted(used, places) for places in bins]


def _interpolate(x: FloatArray, used: NDArray[np.int64], values: FloatArray) -> FloatArray:
    """Return the values of a run at all places: between its own ones on the lines between them.

    A place that has only NaN and infinities has no value, and the lines to it have none.
    """
    found: FloatArray = np.interp(x, x[used], values, left=np.nan, right=np.nan)
    found[used] = values
    return found


def _intervals(
    values: FloatArray, is_known: NDArray[np.bool_], strata: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Return the intervals of the means, for each set of runs that have values at some places."""
    n_places = values.shape[1]
    low, high = np.full(n_places, np.nan), np.full(n_places, np.nan)
    sets, which = np.unique(is_known, axis=1, return_inverse=True)
    for number in range(sets.shape[1]):
        rows = np.flatnonzero(sets[:, number])
        places = np.flatnonzero(which.ravel() == number)
        part = values[np.ix_(rows, places)]
        low[places], high[places] = mean_intervals(part, [strata[row] for row in rows])
    return low, high
