"""Curves of single runs over steps, tokens, times or another metric."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.dashboard.answers import FrameWriter
from spectral_exp.dashboard.binning import COLUMNS, RAW_COLUMNS, Points, bin_points
from spectral_exp.dashboard.library import Library
from spectral_exp.results.table_data import csv_cell
from spectral_exp.runs.metric_names import Metric
from spectral_exp.runs.run import Run, shared_metric_info
from spectral_exp.runs.series_follower import SeriesFollower

AXES = ("step", "relative", "tokens", "train_s", "wall_s")
"""The horizontal axes beside metrics. `relative` is the share of the planned steps, `wall_s` are
seconds since the run was started."""

MAX_BINS = 8192
_RAW_PER_BIN = 2  # up to so many points per bin, the points themselves are sent
READ_S = 0.25
"""Time that is spent on the runs of a request before it answers with what is read."""


@dataclass(frozen=True)
class Window:
    """A part of the horizontal axis.

    Attributes:
        low, high: its bounds, both included; None for those of the data.
        n_bins: number of bins, at most one per column of pixels.
    """

    low: float | None
    high: float | None
    n_bins: int

    def bounds(self, extent: Sequence[float] | None) -> tuple[float, float]:
        """Return both bounds, those of the data where none is given."""
        first, last = extent or (0.0, 0.0)
        low = first if self.low is None else self.low
        return low, max(low, last if self.high is None else self.high)


@dataclass(frozen=True)
class Curve:
    """One metric of a run."""

    key: str
    run: Run
    points: Points
    generation: int
    read_share: float


def load_curves(
    library: Library,
    keys: Sequence[str],
    metric: str,
    axis: str,
    budget_s: float | None = READ_S,
) -> list[Curve]:
    """Return a metric of runs, of large files what was read within `budget_s`; None reads all.

    Raises:
        UserError: a run is unknown or its metrics cannot be read.
    """
    curves = []
    share_s = None if budget_s is None else budget_s / max(len(keys), 1)
    for key in keys:
        run = library.run(key)
        with library.store.follower(run.path, share_s) as follower:
            series = follower.series(metric)
            x = axis_values(run, series.steps, axis, follower)
            points = Points.of(x, series.values)
            curves.append(Curve(key, run, points, follower.generation, follower.read_share))
    return curves


def axis_values(run: Run, steps: FloatArray, axis: str, follower: SeriesFollower) -> FloatArray:
    """Return the place of each step on an axis, NaN where it is unknown."""
    if axis == "step":
        return steps
    if axis == "relative":
        last = run.planned_steps or run.last_step
        return steps / last if last else np.full(steps.shape, np.nan)
    if axis == "tokens":
        return steps * (run.tokens_per_step or np.nan)
    if axis == "train_s":
        return run.train_time_s(steps)
    if axis == "wall_s":
        times = follower.times()
        began_s = seconds_since_epoch(run.record.get("timestamp"))
        if np.isnan(began_s) and len(times):
            began_s = float(times.values[0])
        return _at_steps(times, steps) - began_s
    return _at_steps(follower.series(axis), steps)


def _at_steps(series: Series, steps: FloatArray) -> FloatArray:
    """Return the last value at or before each step; NaN before the first."""
    places = np.searchsorted(series.steps, steps, side="right") - 1
    if not len(series):
        return np.full(steps.shape, np.nan)
    return np.where(places >= 0, series.values[np.maximum(places, 0)], np.nan)


def curves_answer(
    curves: Sequence[Curve], metric: str, axis: str, window: Window, *, rounded: bool = False
) -> bytes:
    """Return curves within a window as a header and columns; `rounded` as in `FrameWriter`."""
    extent = extent_of(curves)
    low, high = window.bounds(extent)
    writer = FrameWriter(rounded=rounded)
    series = [_part(curve, low, high, window.n_bins, writer) for curve in curves]
    return writer.content(
        {
            "metric": describe_metric(metric, shared_metric_info(metric, [c.run for c in curves])),
            "x": axis,
            "generation": {curve.key: curve.generation for curve in curves},
            "loading": {curve.key: curve.read_share for curve in curves if curve.read_share < 1.0},
            "extent": extent,
            "window": [low, high],
            "series": series,
        }
    )


def describe_metric(metric: str, info: Metric) -> dict[str, Any]:
    """Return title, unit, direction and kind of a metric as plain values."""
    return {
        "name": metric,
        "title": info.title or metric,
        "unit": info.unit,
        "axis_label": info.axis_label,
        "direction": info.direction,
        "kind": info.kind,
        "log": info.log,
    }


def extent_of(curves: Sequence[Curve]) -> list[float] | None:
    """Return the first and last x of all points."""
    ends = [(curve.points.x[0], curve.points.x[-1]) for curve in curves if len(curve.points)]
    if not ends:
        return None
    return [float(min(low for low, _ in ends)), float(max(high for _, high in ends))]


def _part(
    curve: Curve, low: float, high: float, n_bins: int, writer: FrameWriter
) -> Mapping[str, Any]:
    """Add the points of a curve within a window; return their entry in the header."""
    inside = curve.points.window(low, high)
    points = curve.points[inside]
    is_raw = len(points) <= _RAW_PER_BIN * n_bins
    columns = np.stack([points.x, points.y]) if is_raw else bin_points(points, low, high, n_bins)
    return {
        "key": curve.key,
        "points": len(points),
        "nan": int(np.isnan(points.y).sum()),
        "posinf": int(np.isposinf(points.y).sum()),
        "neginf": int(np.isneginf(points.y).sum()),
        "raw": is_raw,
        "columns": RAW_COLUMNS if is_raw else COLUMNS,
        "n": columns.shape[1],
        "offset": writer.add(columns, exact=is_raw),
        # The lines to these neighbours leave the window.
        "before": _neighbour(curve.points[: inside.start], -1),
        "after": _neighbour(curve.points[inside.stop :], 0),
    }


def _neighbour(points: Points, place: int) -> list[float] | None:
    """Return the finite point nearest to the window on one side of it."""
    finite = np.flatnonzero(np.isfinite(points.y))
    if not len(finite):
        return None
    return [float(points.x[finite[place]]), float(points.y[finite[place]])]


_CSV_ROWS = 20_000  # per portion


def curves_csv(curves: Sequence[Curve], metric: str, axis: str) -> Iterator[bytes]:
    """Yield all points of curves as CSV, in portions."""
    yield ",".join(map(_quote_cell, ("run_id", axis, metric))).encode() + b"\n"
    for curve in curves:
        name = _quote_cell(curve.run.run_id)
        for start in range(0, len(curve.points), _CSV_ROWS):
            part = curve.points[slice(start, start + _CSV_ROWS)]
            text = io.StringIO()
            for x, y in zip(part.x.tolist(), part.y.tolist(), strict=True):
                text.write(f"{name},{x!r},{y!r}\n")
            yield text.getvalue().encode()


def _quote_cell(text: str) -> str:
    return '"' + str(csv_cell(text)).replace('"', '""') + '"'
