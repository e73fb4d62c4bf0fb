"""One metric of several runs that differ in their seed, as a mean line and a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spectral_exp.core.series import FloatArray, IntArray, Series
from spectral_exp.plots.series import Envelope, envelope, smooth, smoothing_window

MAX_BINS = 400
"""Bins of a reduced curve: as many as a column of a printed page can show."""


@dataclass(frozen=True)
class SeedCurve:
    """The course of one metric over the runs of a group.

    A mean over the remaining runs would jump when one of them ends. Mean and band therefore end
    with the last step at which every run is finite; from there on `rest` holds the single runs.

    Attributes:
        x: places on the horizontal axis (N,): steps, tokens or seconds, the mean over the runs.
        mean: over the runs (N,); NaN if one of them is not finite.
        low, high: the least and the greatest run (N,).
        n_runs: how many runs have a finite value at all.
        rest: single runs from the last place of `x` on, if some outlast the others.
    """

    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    n_runs: int
    rest: tuple[Series, ...] = ()

    @property
    def end(self) -> float | None:
        """The last mean, else the mean of the single runs' last values, else None."""
        finite = self.mean[np.isfinite(self.mean)]
        if finite.size:
            return float(finite[-1])
        ends = [part.values[part.finite][-1] for part in self.rest]
        return float(np.mean(ends)) if ends else None

    def rescale(self, divisor: float) -> SeedCurve:
        """Return the curve with the horizontal axis in another unit."""
        rest = tuple(Series(part.steps / divisor, part.values) for part in self.rest)
        return replace(self, x=self.x / divisor, rest=rest)

    def envelopes(self) -> list[Envelope]:
        """Return all drawn parts, to fit the axes to them."""
        band = [Envelope(self.x, self.mean, self.low, self.high, 1.0)] if self.x.size else []
        return band + [
            Envelope(part.steps, part.values, part.values, part.values, 1.0) for part in self.rest
        ]


def over_seeds(
    runs: Sequence[Series],
    places: Sequence[FloatArray] | None = None,
    *,
    smoothed: bool = False,
    max_bins: int = MAX_BINS,
) -> SeedCurve:
    """Put runs together step by step; nothing is interpolated between steps.

    Args:
        runs: the metric of each run.
        places: the place of each value on the horizontal axis; its step by default. Values
            without a finite place are left out.
        smoothed: average each run over neighbouring points before the runs are put together.
        max_bins: neighbouring points are averaged until there are no more than these.
    """
    placed = [
        _Placed.of(run, run.steps if places is None else places[i]) for i, run in enumerate(runs)
    ]
    shown = [run for run in placed if np.isfinite(run.values).any()]
    columns = _common(shown)
    n = _whole(shown, columns)
    together = [
        _course(run.x[column[:n]], run.values[column[:n]], smoothed, max_bins)
        for run, column in zip(shown, columns, strict=True)
    ]
    rest = tuple(
        part
        for run, column in zip(shown, columns, strict=True)
        if len(shown) > 1
        and (part := _from(_course(run.x, run.values, smoothed, max_bins), run, column[:n]))
    )
    if not n:
        nothing = np.empty(0)
        return SeedCurve(nothing, nothing, nothing, nothing, len(shown), rest)
    x, values = (
        np.array([getattr(course, name) for course in together]) for name in ("steps", "values")
    )
    return SeedCurve(
        x.mean(axis=0),
        values.mean(axis=0),
        values.min(axis=0),
        values.max(axis=0),
        len(shown),
        rest,
    )


@dataclass(frozen=True)
class _Placed:
    """One run: steps, their places on the horizontal axis, and values, NaN if not finite."""

    steps: FloatArray
    x: FloatArray
    values: FloatArray

    @classmethod
    def of(cls, run: Series, x: FloatArray) -> _Placed:
        known = np.isfinite(x)
        return cls(run.steps[known], x[known], np.where(run.finite, run.values, np.nan)[known])


def _common(runs: Sequence[_Placed]) -> list[IntArray]:
    """Return for each run the positions of the steps that all runs have."""
    if len(runs) < 2:
        return [np.arange(run.steps.size, dtype=np.int64) for run in runs]
    steps = runs[0].steps
    for run in runs[1:]:
        steps = np.intersect1d(steps, run.steps)
    return [np.searchsorted(run.steps, steps) for run in runs]


def _whole(runs: Sequence[_Placed], columns: Sequence[IntArray]) -> int:
    """Return the number of common steps up to the last at which every run is finite."""
    if not runs:
        return 0
    finite = np.all(
        [np.isfinite(run.values[column]) for run, column in zip(runs, columns, strict=True)], axis=0
    )
    return int(np.flatnonzero(finite)[-1]) + 1 if finite.any() else 0


def _course(x: FloatArray, values: FloatArray, smoothed: bool, max_bins: int) -> Series:
    """One run's values reduced to `max_bins` and smoothed."""
    bins = envelope(Series(x, values), max_bins)
    return Series(
        bins.steps, smooth(bins.mean, smoothing_window(bins.mean.size)) if smoothed else bins.mean
    )


def _from(course: Series, run: _Placed, together: IntArray) -> Series | None:
    """Return the course after the common part, or None if it ends there."""
    start = run.x[together[-1]] if together.size else -np.inf
    kept = course.steps >= start
    rest = Series(course.steps[kept], course.values[kept])
    goes_on = rest.finite & (rest.steps > start)
    return rest if goes_on.any() else None


def late_limits(curves: Sequence[SeedCurve], begin: float = 0.15) -> tuple[float, float] | None:
    """Return a vertical range that fits the later part of the curves, or None without values.

    It holds every curve's lowest value and its course after the first `begin` of the horizontal
    axis. A diverged curve, several times farther from the others than they are apart, does not
    stretch the range.
    """
    parts = [envelopes for curve in curves if (envelopes := curve.envelopes())]
    if not parts:
        return None
    start, end = (
        f(f(each.steps[i] for each in curve) for curve in parts) for f, i in ((min, 0), (max, -1))
    )
    lows, highs = [], []
    for curve in parts:
        x, low, high = (
            np.concatenate([getattr(each, name) for each in curve])
            for name in ("steps", "low", "high")
        )
        finite = np.isfinite(low)
        late = finite & (x >= start + begin * (end - start))
        lows.append(float(low[finite].min()))
        highs.append(float(high[late if late.any() else finite].max()))
    low = min(lows)
    reach = low + 4 * (float(np.median(highs)) - low)
    return low, max(high for high in highs if high <= reach)
