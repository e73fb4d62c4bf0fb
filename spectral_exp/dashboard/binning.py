"""Curves in few numbers: what lies in each column of pixels, without the loss of a single point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray

COLUMNS = ("x", "min", "max", "mean", "first", "last", "count", "nan", "posinf", "neginf")
"""Columns of binned points. All but the counts are of the finite values, NaN if there is none."""

RAW_COLUMNS = ("x", "y")


@dataclass(frozen=True)
class Points:
    """Points in ascending order of x, which is finite; y may be NaN or infinite."""

    x: FloatArray
    y: FloatArray

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Points:
        """Return the points with a finite x, sorted; points of equal x keep their order."""
        known = np.isfinite(x)
        if not known.all():
            x, y = x[known], y[known]
        if (x[1:] < x[:-1]).any():
            order = np.argsort(x, kind="stable")
            x, y = x[order], y[order]
        return cls(x, y)

    def window(self, low: float, high: float) -> slice:
        """Return the indices of the points from `low` to `high`, both included."""
        first = int(np.searchsorted(self.x, low, side="left"))
        return slice(first, max(first, int(np.searchsorted(self.x, high, side="right"))))

    def __getitem__(self, part: slice) -> Points:
        return Points(self.x[part], self.y[part])

    def __len__(self) -> int:
        return len(self.x)


def bin_points(points: Points, low: float, high: float, n_bins: int) -> FloatArray:
    """Return `COLUMNS` of every bin that holds a point.

    The bins divide the range from `low` to `high` evenly; the last one includes `high`.

    Args:
        points: within the range.
        low, high: the range.
        n_bins: number of bins, >= 1.

    Returns:
        Array (number of columns, number of bins that are not empty). x is the middle of the bin.
    """
    used, columns = describe_bins(points.y, bin_indices(points.x, low, high, n_bins))
    middle = low + (used + 0.5) * ((high - low) / n_bins)
    return np.vstack([middle, columns])


def describe_bins(
    y: FloatArray, indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the bins that hold points, and `COLUMNS` of each without the x.

    Args:
        y: of the points; NaN and infinities are counted, and the other columns leave them out.
        indices: the bin of each point, ascending.
    """
    if not len(y):
        return np.empty(0, dtype=np.int64), np.empty((len(COLUMNS) - 1, 0))
    starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1))
    ends = np.append(starts[1:], len(y))
    finite = np.isfinite(y)
    columns = np.full((len(COLUMNS) - 1, len(starts)), np.nan)
    columns[5] = ends - starts
    columns[6:] = 0.0
    if finite.all():
        columns[:5] = _describe(y, starts, ends)
        return indices[starts], columns
    for row, marked in enumerate((np.isnan(y), np.isposinf(y), np.isneginf(y)), 6):
        columns[row] = np.add.reduceat(marked.astype(float), starts)
    n_finite = np.add.reduceat(finite.astype(np.int64), starts)
    has_finite = n_finite > 0
    if has_finite.any():
        finite_ends = np.cumsum(n_finite)
        columns[:5, has_finite] = _describe(
            y[finite], (finite_ends - n_finite)[has_finite], finite_ends[has_finite]
        )
    return indices[starts], columns


def bin_indices(x: FloatArray, low: float, high: float, n_bins: int) -> NDArray[np.int64]:
    """Return the bin of each x between `low` and `high`."""
    if not high > low:
        return np.zeros(len(x), dtype=np.int64)
    # Each term is halved first, since the range may exceed the largest float.
    share = (x / 2 - low / 2) / (high / 2 - low / 2)
    return np.clip((share * n_bins).astype(np.int64), 0, n_bins - 1)


def _describe(y: FloatArray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> FloatArray:
    """Return min, max, mean, first and last of each part of finite values; no part is empty."""
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.add.reduceat(y, starts) / (ends - starts)
    # A sum beyond the largest float is infinite, or NaN if its parts have opposite signs.
    mean = np.where(np.isnan(mean), low / 2 + high / 2, mean)
    return np.stack([low, high, np.clip(mean, low, high), y[starts], y[ends - 1]])
