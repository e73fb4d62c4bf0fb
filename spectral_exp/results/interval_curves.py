"""Intervals of the mean at many places of a curve, equal to `statistics.mean_interval` at each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray
from spectral_exp.results.statistics import (
    MIN_RUNS,
    RESAMPLES,
    ROUNDING,
    resample_indices,
)
from spectral_exp.results.student import student_quantile

_MAX_NUMBERS = 1 << 22  # resampled means that are in memory at once
_MAX_DIFFERENT = 2000  # above, to sort the different means takes longer than to partition all


def mean_intervals(values: FloatArray, strata: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of the 95 % interval of the mean of every column, NaN without one.

    Resamples that draw the same runs have the same mean, and three runs have only ten of them. Each
    is computed once and weighed by how often it is drawn.

    Args:
        values: (N, M) finite, of N runs at M places.
        strata: the stratum of each run.
    """
    n, n_places = values.shape
    members = [np.flatnonzero(np.equal(strata, stratum)) for stratum in sorted({*strata})]
    df = n - len(members)
    low, high = np.full(n_places, np.nan), np.full(n_places, np.nan)
    if n < MIN_RUNS or df < 2 or not n_places:
        return low, high
    ordered = np.concatenate([np.sort(values[rows], axis=0) for rows in members])
    sizes = tuple(len(rows) for rows in members)
    means = np.concatenate(
        [np.broadcast_to(values[rows].mean(axis=0), (len(rows), n_places)) for rows in members]
    )
    errors = ordered - means
    with np.errstate(over="ignore"):  # of values that are too large for a variance
        spread = np.sqrt(np.square(errors).sum(axis=0) / n)
    known = np.flatnonzero((spread > ROUNDING * np.abs(values).max(axis=0)) & np.isfinite(spread))
    counts, ranks = _draws(sizes)
    factor = student_quantile(0.975, df) / NormalDist().inv_cdf(0.975) * np.sqrt(n / df)
    mean = values.mean(axis=0)
    portion = max(_MAX_NUMBERS // len(counts), 1)
    for start in range(0, len(known), portion):
        places = known[start : start + portion]
        resampled = errors[:, places].T @ counts.T / n
        below, above = _quantiles(resampled, ranks)
        low[places] = mean[places] + factor * below
        high[places] = mean[places] + factor * above
    return low, high


@lru_cache(maxsize=64)
def _draws(sizes: tuple[int, ...]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return how often each run is drawn by the different resamples, and the number of each.

    The runs of a stratum are in the order of their values.
    """
    counts = np.zeros((RESAMPLES, sum(sizes)))
    half, first = RESAMPLES // 2, 0
    rows = np.arange(half)
    for stratum, size in enumerate(sizes):
        for run in range(size):
            picks = resample_indices(0, stratum, run, size, half)
            np.add.at(counts, (rows, first + picks), 1)
            np.add.at(counts, (half + rows, first + size - 1 - picks), 1)
        first += size
    different, times = np.unique(counts, axis=0, return_counts=True)
    if len(different) > _MAX_DIFFERENT:
        return counts, np.ones(RESAMPLES, dtype=np.int64)
    return different, times


def _quantiles(means: FloatArray, times: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Return the quantiles 0.025 and 0.975 of each row, whose values occur `times` times."""
    levels = [(RESAMPLES - 1) * level for level in (0.025, 0.975)]
    ranks = [rank for place in levels for rank in (int(place), int(place) + 1)]
    if means.shape[1] == RESAMPLES:
        chosen = np.partition(means, ranks, axis=1)[:, ranks]
    else:
        order = np.argsort(means, axis=1)
        ordered, ends = np.take_along_axis(means, order, axis=1), np.cumsum(times[order], axis=1)
        places = np.stack([(ends <= rank).sum(axis=1) for rank in ranks], axis=1)
        chosen = np.take_along_axis(ordered, places, axis=1)
    shares = [place - int(place) for place in levels]
    low = chosen[:, 0] + (chosen[:, 1] - chosen[:, 0]) * shares[0]
    high = chosen[:, 2] + (chosen[:, 3] - chosen[:, 2]) * shares[1]
    return low, high
