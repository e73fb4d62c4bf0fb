"""Curves are reduced and smoothed without inventing or losing anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.series import envelope, even_rows, find_lone_points, smooth, view_limits


def series(values: object) -> Series:
    array = np.asarray(values, dtype=np.float64)
    return Series(np.arange(1, array.size + 1, dtype=np.float64), array)


def noisy_loss(n: int) -> FloatArray:
    steps = np.arange(1, n + 1)
    return 1.4 + 4.1 * np.exp(-12 * steps / n) + np.random.default_rng(0).normal(0, 0.06, n)


values_with_gaps = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf])),
    min_size=1,
    max_size=300,
)


@given(values_with_gaps, st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_envelope_keeps_every_extreme_and_never_invents_values(
    values: list[float], max_points: int
) -> None:
    whole = series(values)
    bins = envelope(whole, max_points)
    finite = whole.values[whole.finite]
    assert len(bins.steps) <= max(max_points, 1)
    assert np.all(np.diff(bins.steps) > 0)
    known = np.isfinite(bins.mean)
    if finite.size:
        assert np.nanmin(bins.low) == finite.min()
        assert np.nanmax(bins.high) == finite.max()
    assert known.any() == bool(finite.size)
    slack = 1e-9 * max(1.0, float(np.abs(finite).max())) if finite.size else 0.0
    assert np.all(bins.low[known] <= bins.mean[known] + slack)
    assert np.all(bins.mean[known] <= bins.high[known] + slack)


def test_short_series_are_not_reduced() -> None:
    bins = envelope(series([3.0, np.inf, 1.0]), max_points=3)
    np.testing.assert_array_equal(bins.mean, [3.0, np.nan, 1.0])
    assert bins.points_per_bin == 1


def test_smoothing_leaves_constants_and_single_spikes_alone() -> None:
    values = np.full(200, 2.0)
    np.testing.assert_allclose(smooth(values, 21), 2.0)
    values[100] = 1e9
    np.testing.assert_allclose(smooth(values, 21), 2.0)


def test_smoothing_begins_with_the_values_and_keeps_gaps() -> None:
    values = np.linspace(10, 0, 101)
    values[50] = np.nan
    smoothed = smooth(values, 11)
    assert smoothed[0] == 10
    assert np.isnan(smoothed[50])
    np.testing.assert_allclose(smoothed[:40], values[:40])  # a straight line is its own mean


def test_view_leaves_out_rare_outliers_only() -> None:
    calm = noisy_loss(2000)
    assert view_limits(envelope(series(calm))) == pytest.approx((calm.min(), calm.max()))
    spiky = calm.copy()
    spiky[1500] = 400.0
    limits = view_limits(envelope(series(spiky)))
    assert limits is not None
    assert calm.max() <= limits[1] + 0.2 < 12
    assert view_limits(envelope(series([np.nan, np.inf]))) is None


def test_isolated_points_are_found() -> None:
    np.testing.assert_array_equal(
        find_lone_points(np.array([1, np.nan, 2, np.nan, 3, 4])),
        [True, False, True, False, False, False],
    )


def test_even_rows_hold_both_ends() -> None:
    assert even_rows(5, 10).tolist() == [0, 1, 2, 3, 4]
    rows = even_rows(50257, 100)
    assert len(rows) == 100
    assert (rows[0], rows[-1]) == (0, 50256)
