"""Curves over steps: cleaning, decimation and smoothing, in time linear in their length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray, IntArray, Series

MAX_POINTS = 1200
"""Bins of a reduced curve: about the pixels of a full-width panel."""

_LARGEST = 1e300  # that an axis can hold, with room for sums and differences


@dataclass(frozen=True)
class Envelope:
    """A series in at most `MAX_POINTS` bins of consecutive points; empty bins are NaN.

    Args:
        steps: middle of each bin's steps.
        mean: mean of the bin's finite values.
        low: least finite value, so that no dip is lost.
        high: greatest finite value, so that no spike is lost.
        points_per_bin: mean number of points per bin; 1.0 means no reduction.
    """

    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    points_per_bin: float


def envelope(series: Series, max_points: int = MAX_POINTS) -> Envelope:
    """Reduce `series` to at most `max_points` bins that keep every extreme value."""
    n = len(series)
    if n <= max_points:
        values = np.where(series.finite, series.values, np.nan)
        return Envelope(series.steps, values, values, values, 1.0)
    edges = np.linspace(0, n, max_points + 1).astype(np.intp)
    starts, ends = edges[:-1], edges[1:]
    finite = series.finite
    count = np.add.reduceat(finite.astype(np.float64), starts)
    empty = count == 0
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.add.reduceat(np.where(finite, series.values, 0.0), starts) / np.maximum(count, 1)
    low = np.minimum.reduceat(np.where(finite, series.values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, series.values, -np.inf), starts)
    steps = (series.steps[starts] + series.steps[ends - 1]) / 2
    mean, low, high = (np.where(empty, np.nan, part) for part in (mean, low, high))
    return Envelope(steps, mean, low, high, n / max_points)


def smoothing_window(n_bins: int) -> int:
    """Return the odd width in bins of the running mean for `n_bins`; 1 for short curves."""
    return 2 * (n_bins // 60) + 1


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Return the running mean over `window` values, trimmed by a tenth on both ends, without NaN.

    Trimming keeps one spike from lifting its neighbourhood. Windows are centred. Near the start
    they shrink on both sides, so that the curve begins with the values; near the end on the right
    only.
    """
    if window <= 1 or values.size <= 2:
        return values
    half, index = window // 2, np.arange(values.size)[:, None]
    offset = np.arange(-half, half + 1)[None, :]
    inside = (np.abs(offset) <= index) & (index + offset < values.size)
    windows = np.where(inside, values[np.clip(index + offset, 0, values.size - 1)], np.nan)
    ordered = np.sort(windows, axis=1)
    count = np.isfinite(ordered).sum(axis=1, keepdims=True)
    rank, cut = np.arange(window)[None, :], count // 10
    kept = (rank >= cut) & (rank < count - cut)
    total = np.where(kept, ordered, 0.0).sum(axis=1)
    return np.where(np.isfinite(values), total / np.maximum(kept.sum(axis=1), 1), np.nan)


def drawable(series: Series) -> Series:
    """Return the series with infinities for values too large for an axis."""
    values = series.values
    return Series(
        series.steps, np.where(abs(values) > _LARGEST, np.copysign(np.inf, values), values)
    )


def view_limits(curve: Envelope) -> tuple[float, float] | None:
    """Return a vertical range with the smoothed course and at least 98 % of the values.

    It is the whole range unless rare outliers would leave the rest less than a third of the panel.
    None if nothing is finite.
    """
    values = np.concatenate([curve.low, curve.high])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    course = smooth(curve.mean, smoothing_window(curve.mean.size))
    low, high = np.quantile(values, [0.01, 0.99], method="nearest")
    low, high = min(low, np.nanmin(course)), max(high, np.nanmax(course))
    full_low, full_high = float(values.min()), float(values.max())
    if high > low and full_high - full_low > 3 * (high - low):
        room = (high - low) / 4
        return max(full_low, float(low - room)), min(full_high, float(high + room))
    return full_low, full_high


def bulk_limits(parts: Sequence[FloatArray]) -> tuple[float, float]:
    """Return the range of all values; from four parts on, without extreme parts.

    Args:
        parts: finite values that belong together, such as the runs of a group; none of them empty.
    """
    values = np.concatenate(parts)
    if len(parts) >= 4:
        first, third = np.quantile([np.median(part) for part in parts], [0.25, 0.75])
        reach = 5 * max(third - first, np.median([np.ptp(part) for part in parts]))
        if reach > 0:
            values = values[(values >= first - reach) & (values <= third + reach)]
    return float(values.min()), float(values.max())


def find_lone_points(values: FloatArray) -> NDArray[np.bool_]:
    """Return True for finite values without a finite neighbour, which no line shows."""
    finite = np.concatenate([[False], np.isfinite(values), [False]])
    return np.asarray(finite[1:-1] & ~finite[:-2] & ~finite[2:])


def even_rows(n: int, at_most: int) -> IntArray:
    """Return at most `at_most` row numbers spread evenly over 0..n-1, including both ends."""
    if n <= at_most:
        return np.arange(n, dtype=np.int64)
    return np.unique(np.linspace(0, n - 1, at_most).round().astype(np.int64))


def largest(values: FloatArray) -> float:
    """Return the greatest finite value, or 0."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def column_means(values: FloatArray) -> FloatArray:
    """Return means of the finite values along the first axis; NaN if there are none."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    return np.where(count, np.where(finite, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def column_quantiles(values: FloatArray, quantiles: list[float]) -> FloatArray:
    """Return quantiles (Q, ...) of the finite values along the first axis, or NaN."""
    finite = np.isfinite(values)
    empty = ~finite.any(axis=0)
    known = np.where(finite, values, np.nan)
    return np.where(empty, np.nan, np.nanquantile(np.where(empty, 0.0, known), quantiles, axis=0))


def row_entropies(weights: FloatArray) -> FloatArray:
    """Return the entropy in nats of the shares of each row (last axis), by the size of weights."""
    sizes = np.abs(weights)
    share = sizes / np.maximum(sizes.sum(axis=-1, keepdims=True), 1e-12)
    entropies: FloatArray = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=-1)
    return entropies
