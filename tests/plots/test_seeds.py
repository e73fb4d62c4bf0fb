"""Runs of several seeds become one curve that shows no more than all of them bear out."""

from __future__ import annotations

import numpy as np
import pytest

from spectral_exp.core.series import Series
from spectral_exp.plots.seeds import MAX_BINS, SeedCurve, late_limits, over_seeds


def run(values: object, every: int = 1) -> Series:
    array = np.asarray(values, dtype=np.float64)
    return Series(every * np.arange(1.0, array.size + 1), array)


def test_mean_and_band_are_those_of_the_runs_at_each_step() -> None:
    curve = over_seeds([run([5, 4, 3]), run([7, 4, 1]), run([6, 1, 2])])
    assert curve.x.tolist() == [1, 2, 3]
    assert curve.mean.tolist() == [6, 3, 2]
    assert curve.low.tolist() == [5, 1, 1]
    assert curve.high.tolist() == [7, 4, 3]
    assert (curve.n_runs, curve.rest, curve.end) == (3, (), 2)


def test_where_a_run_ends_the_others_go_on_by_themselves() -> None:
    curve = over_seeds([run([5, 4, 3, 2]), run([9, 8])])
    assert curve.x.tolist() == [1, 2]
    assert curve.mean.tolist() == [7, 6]
    (alone,) = curve.rest
    assert alone.steps.tolist() == [2, 3, 4]
    assert alone.values.tolist() == [4, 3, 2]


def test_a_diverged_run_ends_the_mean_and_a_gap_does_not() -> None:
    curve = over_seeds([run([5, 4, 3, 2, 1]), run([5, np.nan, 3, np.inf, np.nan])])
    np.testing.assert_array_equal(curve.mean, [5, np.nan, 3])
    assert [part.steps.tolist() for part in curve.rest] == [[3, 4, 5]]


def test_only_steps_that_all_runs_logged_are_put_together() -> None:
    often, seldom = run(np.arange(12.0)), run(np.arange(6.0), every=2)
    curve = over_seeds([often, seldom])
    assert curve.x.tolist() == [2, 4, 6, 8, 10, 12]
    assert curve.mean.tolist() == [0.5, 2, 3.5, 5, 6.5, 8]
    strangers = over_seeds([run([1, 2]), Series(np.array([10.0, 11.0]), np.array([3.0, 5.0]))])
    assert strangers.x.size == 0
    assert [part.values.tolist() for part in strangers.rest] == [[1, 2], [3, 5]]
    assert strangers.end == 3.5


def test_a_single_run_is_itself() -> None:
    curve = over_seeds([run([3, np.nan, 1, np.nan])])
    np.testing.assert_array_equal(curve.mean, [3, np.nan, 1])
    assert curve.rest == ()


@pytest.mark.parametrize(
    "runs", [[], [run([])], [run([np.nan, np.inf])]], ids=["none", "empty", "not finite"]
)
def test_nothing_finite_gives_nothing(runs: list[Series]) -> None:
    curve = over_seeds(runs)
    assert (curve.n_runs, curve.end, curve.envelopes()) == (0, None, [])
    assert late_limits([curve]) is None


def test_a_run_without_a_value_does_not_take_the_mean_from_the_others() -> None:
    assert over_seeds([run([2, 1]), run([4, 3]), run([np.nan, np.nan])]).mean.tolist() == [3, 2]


def test_values_stand_at_the_mean_place_of_the_runs() -> None:
    runs = [run([5, 4, 3]), run([7, 6, 5])]
    curve = over_seeds(runs, [np.array([10.0, 20.0, 30.0]), np.array([20.0, 40.0, np.nan])])
    assert curve.x.tolist() == [15, 30]
    assert curve.mean.tolist() == [6, 5]
    scaled = curve.rescale(10)
    assert scaled.x.tolist() == [1.5, 3]
    assert scaled.rest[0].steps.tolist() == [2, 3]


def test_long_runs_are_reduced_and_smoothed_run_by_run() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (2, 10_000))
    plain, smoothed = (
        over_seeds([run(row) for row in noise], smoothed=smooth) for smooth in (False, True)
    )
    assert plain.x.size == smoothed.x.size == MAX_BINS
    assert np.std(smoothed.mean) < 0.6 * np.std(plain.mean)
    assert np.all(smoothed.low <= smoothed.mean)
    assert np.all(smoothed.mean <= smoothed.high)


def falling(end: float, n: int = 100) -> SeedCurve:
    return over_seeds([run(end + 8 * np.exp(-np.arange(n) / 5))])


def test_the_range_gives_its_room_to_the_course_after_the_beginning() -> None:
    limits = late_limits([falling(2.0), falling(2.5)])
    assert limits is not None
    assert limits[0] == pytest.approx(2.0, abs=1e-6)
    assert 2.5 < limits[1] < 3.5


def test_the_range_is_not_stretched_by_one_that_diverged() -> None:
    calm = [falling(2.0), falling(2.5), falling(2.3)]
    assert late_limits([*calm, over_seeds([run(np.full(100, 900.0))])]) == late_limits(calm)


def test_a_constant_has_a_range() -> None:
    assert late_limits([over_seeds([run([2, 2, 2])])]) == (2.0, 2.0)
