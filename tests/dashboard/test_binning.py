"""Curves in bins lose no point, no extreme and no mark."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spectral_exp.dashboard.bands import COLUMNS as BAND
from spectral_exp.dashboard.bands import band_columns
from spectral_exp.dashboard.binning import COLUMNS, Points, bin_points
from spectral_exp.results.interval_curves import mean_intervals
from spectral_exp.results.statistics import mean_interval

ANY = st.floats(allow_nan=True, allow_infinity=True)
PLACES = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 50).map(float))
POINTS = st.integers(0, 60).flatmap(
    lambda n: st.builds(
        Points.of, arrays(float, n, elements=PLACES), arrays(float, n, elements=ANY)
    )
)


@given(POINTS, st.integers(1, 20), PLACES.filter(np.isfinite), PLACES.filter(np.isfinite))
def test_no_point_of_any_window_is_lost(points: Points, n_bins: int, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    inside = points[points.window(low, high)]
    y = inside.y
    assert len(inside) == ((points.x >= low) & (points.x <= high)).sum()
    found = dict(zip(COLUMNS, bin_points(inside, low, high, n_bins), strict=True))
    assert found["count"].sum() == len(y)
    assert found["nan"].sum() == np.isnan(y).sum()
    assert found["posinf"].sum() == np.isposinf(y).sum()
    assert found["neginf"].sum() == np.isneginf(y).sum()
    finite = y[np.isfinite(y)]
    has_any = np.isfinite(found["max"])
    assert has_any.any() == bool(len(finite))
    if len(finite):
        assert found["max"][has_any].max() == finite.max()
        assert found["min"][has_any].min() == finite.min()
        assert found["first"][has_any][0] == finite[0]
        assert found["last"][has_any][-1] == finite[-1]
        assert (found["min"] <= found["mean"])[has_any].all()
        assert (found["mean"] <= found["max"])[has_any].all()
    assert (found["x"][1:] >= found["x"][:-1]).all()


@given(st.lists(POINTS, max_size=4), st.integers(1, 10))
@example([Points.of(np.array([1.79e308, -1.79e308]), np.zeros(2))], 1)  # no float is their distance
def test_a_band_holds_every_extreme_of_every_run(runs: list[Points], n_bins: int) -> None:
    low = min((float(run.x[0]) for run in runs if len(run)), default=0.0)
    high = max((float(run.x[-1]) for run in runs if len(run)), default=0.0)
    columns = band_columns(runs, [0] * len(runs), low, high, n_bins, "range")
    found = dict(zip(BAND, columns, strict=True))
    y = np.concatenate([np.empty(0), *(run.y for run in runs)])
    finite = y[np.isfinite(y)]
    assert found["nan"].sum() == np.isnan(y).sum()
    assert found["posinf"].sum() == np.isposinf(y).sum()
    assert found["neginf"].sum() == np.isneginf(y).sum()
    if len(finite):
        assert np.nanmax(found["max"]) == finite.max()
        assert np.nanmin(found["min"]) == finite.min()


SAMPLES = st.integers(1, 9).flatmap(
    lambda n: st.lists(
        st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n), min_size=1, max_size=4
    )
)


@given(SAMPLES, st.booleans())
@example([[0.0, 0.0, 1e-107]], False)  # the square of its variance has no float
def test_intervals_along_a_curve_are_those_of_each_place(
    places: list[list[float]], two_strata: bool
) -> None:
    values = np.array(places).T
    strata = [int(two_strata and i % 2) for i in range(len(values))]
    low, high = mean_intervals(values, strata)
    for place, column in enumerate(values.T):
        interval = mean_interval(column, strata)
        if interval is None:
            assert np.isnan([low[place], high[place]]).all()
        else:
            scale = np.abs(column).max()
            assert abs(interval.low - low[place]) <= 1e-12 * scale
            assert abs(interval.high - high[place]) <= 1e-12 * scale
