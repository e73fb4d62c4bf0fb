"""The statistics against scipy, rliable and direct definitions, and how often the intervals
cover."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.results import statistics, student
from spectral_exp.results.interval_curves import mean_intervals
from tests.results import rliable_reference

Array = npt.NDArray[np.float64]

RLIABLE: list[dict[str, Any]] = json.loads(rliable_reference.FILE.read_text(encoding="utf-8"))
BPB = [2.712, 2.731, 2.705, 2.748, 2.719]
OTHER = [2.690, 2.701, 2.684, 2.735, 2.698]

# Rounded, so that no spread is near the limit below which it counts as rounding.
values = st.floats(-100, 100).map(lambda x: round(x, 3))
samples = st.lists(values, min_size=3, max_size=12).filter(lambda found: len(set(found)) > 1)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)
quick = settings(max_examples=20, deadline=None)


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is averaged over many samples needs no precise quantiles of each."""
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)


def strata_of(tasks: int, runs: int) -> list[int]:
    return [task for _ in range(runs) for task in range(tasks)]


# --- one sample -----------------------------------------------------------------------------------


@given(samples)
@quick
def test_interquartile_mean_is_scipys_trimmed_mean(sample: list[float]) -> None:
    expected = scipy.stats.trim_mean(sample, 0.25)
    assert float(statistics.interquartile_mean(sample)) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize(
    "case", RLIABLE, ids=lambda case: f"{len(case['scores'])}x{len(case['scores'][0])}"
)
def test_percentile_intervals_and_improvement_are_those_of_rliable(case: dict[str, Any]) -> None:
    scores, others = np.array(case["scores"]), np.array(case["others"])
    strata = strata_of(scores.shape[1], scores.shape[0])
    for name, statistic in (("mean", statistics.mean), ("iqm", statistics.interquartile_mean)):
        assert float(statistic(scores.ravel())) == pytest.approx(case[name]["value"], rel=1e-12)
        found = statistics.percentile_interval(scores.ravel(), strata, statistic)
        low, high = case[name]["interval"]
        # Both are simulated, by 20,000 and 50,000 resamples.
        assert [found.low, found.high] == pytest.approx([low, high], abs=0.03 * (high - low))
    improvement = statistics.probability_of_improvement(
        others.ravel(), scores.ravel(), strata, strata, lower_is_better=False
    )
    assert improvement == pytest.approx(case["improvement"], rel=1e-12)


@pytest.mark.parametrize(
    "statistic", [statistics.mean, statistics.median, statistics.interquartile_mean]
)
def test_percentile_interval_is_that_of_all_resamples(statistic: statistics.Statistic) -> None:
    every = np.array(list(itertools.product(BPB, repeat=5)))
    low, high = np.quantile(statistic(every), (0.025, 0.975))
    found = statistics.percentile_interval(BPB, None, statistic)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.03 * (high - low))


def test_percentile_interval_is_scipys() -> None:
    sample = np.random.default_rng(0).gamma(2.0, size=30)
    expected = scipy.stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    found = statistics.percentile_interval(sample)
    assert [found.low, found.high] == pytest.approx(
        list(expected), abs=0.03 * (expected.high - expected.low)
    )


def test_resampling_stays_within_strata() -> None:
    resamples = statistics.bootstrap([1.0, 2.0, 30.0, 40.0], [0, 0, 1, 1])
    assert set(resamples.tolist()) <= {
        (a + b) / 4 for a in (2.0, 3.0, 4.0) for b in (60.0, 70.0, 80.0)
    }
    assert len(resamples) == statistics.RESAMPLES


def test_numbers_are_the_same_everywhere() -> None:
    """The raw words of the generator never change, so these numbers may not either."""
    interval = statistics.mean_interval(BPB)
    assert interval is not None
    assert [interval.low, interval.high] == pytest.approx(
        [2.7033610758932647, 2.745806492511048], rel=1e-13
    )


@given(samples, st.randoms(use_true_random=False), st.floats(0.1, 10), st.floats(-50, 50))
@quick
def test_interval_follows_order_scale_shift_and_sign(
    sample: list[float], random: Any, scale: float, shift: float
) -> None:
    before = statistics.mean_interval(sample)
    assert before is not None
    assert before.low < float(np.mean(sample)) < before.high
    shuffled = sample[:]
    random.shuffle(shuffled)
    near = 1e-9 * (before.high - before.low + 100)
    for changed, factor, offset in (
        (shuffled, 1.0, 0.0),
        ([scale * x + shift for x in sample], scale, shift),
        ([-x for x in sample], -1.0, 0.0),
    ):
        after = statistics.mean_interval(changed)
        assert after is not None
        expected = sorted((factor * before.low + offset, factor * before.high + offset))
        assert [after.low, after.high] == pytest.approx(expected, rel=1e-9, abs=near)


@pytest.mark.usefixtures("fewer_resamples")
def test_interval_of_normal_values_is_as_wide_as_that_of_student() -> None:
    rng = np.random.default_rng(3)
    for n in (3, 5, 10, 30):
        ratios = []
        for sample in rng.standard_normal((60, n)):
            interval = statistics.mean_interval(sample)
            assert interval is not None
            half_width = scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(sample)
            ratios.append((interval.high - interval.low) / 2 / half_width)
        assert np.median(ratios) == pytest.approx(1.0, abs=0.08)


def test_the_interval_reaches_further_on_the_side_of_outliers() -> None:
    interval = statistics.mean_interval([1.0, 1.1, 1.2, 1.3, 3.0])
    assert interval is not None
    assert interval.high - 1.52 > 1.2 * (1.52 - interval.low)


@pytest.mark.parametrize(
    "sample", [[], [2.7], [2.7, 2.8], [2.7] * 5, [0.0] * 3, [0.1 + 0.2, 0.3, 0.3]]
)
def test_no_interval_without_a_known_spread(sample: list[float]) -> None:
    assert statistics.mean_interval(sample) is None


def test_strata_of_single_runs_borrow_the_spread_of_the_others() -> None:
    """A run alone in its stratum adds no spread to the resamples; the interval must not shrink for
    it."""
    sample, strata = [1.0, 1.1, 1.2, 5.0, 9.0], [0, 0, 0, 1, 2]
    interval = statistics.mean_interval(sample, strata)
    assert interval is not None
    error = np.std([1.0, 1.1, 1.2], ddof=1) / math.sqrt(5)
    half_width = scipy.stats.t.ppf(0.975, 2) * error
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.15)
    # With one degree of freedom, or none, there is nothing to borrow.
    assert statistics.mean_interval([1.0, 1.1, 5.0, 9.0], [0, 0, 1, 2]) is None
    assert statistics.mean_interval([1.0, 5.0, 9.0], [0, 1, 2]) is None


def test_differences_between_strata_do_not_widen_the_interval() -> None:
    near = statistics.mean_interval([1.0, 1.2, 1.1, 2.0, 2.2, 2.1], [0, 0, 0, 1, 1, 1])
    far = statistics.mean_interval([1.0, 1.2, 1.1, 9.0, 9.2, 9.1], [0, 0, 0, 1, 1, 1])
    assert near is not None
    assert far is not None
    assert near.high - near.low == pytest.approx(far.high - far.low, rel=1e-9)


# --- coverage -------------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
DRAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal": (lambda rng, shape: rng.lognormal(size=shape), math.exp(0.5)),
    "student_3": (lambda rng, shape: rng.standard_t(3, size=shape), 0.0),
}


def intervals_of(sample: Array) -> dict[str, tuple[float, float]]:
    """The interval of the mean in the ways between which the module chooses."""
    n, center, error = len(sample), float(np.mean(sample)), float(scipy.stats.sem(sample))
    ours, percentile = statistics.mean_interval(sample), statistics.percentile_interval(sample)
    assert ours is not None
    t = student.student_quantile(0.975, n - 1)
    level = scipy.stats.norm.cdf(-t * math.sqrt(n / (n - 1)))
    means = statistics.bootstrap(sample)
    low, high = np.quantile(means, (level, 1 - level))
    found = {
        "percentile": (percentile.low, percentile.high),
        "levels": (float(low), float(high)),
        "student": (center - t * error, center + t * error),
        "ours": (ours.low, ours.high),
    }
    if n > 3:
        errors = statistics.bootstrap(
            sample, statistic=lambda x: x.std(axis=-1, ddof=1)
        ) / math.sqrt(n)
        # Where all of a resample are the same run, its error is zero but for rounding.
        errors = np.where(errors < 1e-9 * error, 1e-9 * error, errors)
        low, high = np.quantile((means - center) / errors, (0.025, 0.975))
        found["bootstrap-t"] = (center - float(high) * error, center - float(low) * error)
    return found


def coverage(n: int, draw: str, trials: int) -> dict[str, tuple[float, float]]:
    """How often each interval holds the mean, in per cent, and its median width."""
    function, truth = DRAWS[draw]
    found = [intervals_of(sample) for sample in function(np.random.default_rng(n), (trials, n))]
    bounds = {name: np.array([intervals[name] for intervals in found]) for name in found[0]}
    return {
        name: (100 * float(np.mean((low <= truth) & (truth <= high))), float(np.median(high - low)))
        for name, (low, high) in ((name, bound.T) for name, bound in bounds.items())
    }


def documented() -> dict[tuple[int, str], list[int]]:
    """The table at the top of the module, by n and interval."""
    rows: dict[tuple[int, str], list[int]] = {}
    n = 0
    for line in (statistics.__doc__ or "").splitlines():
        words = line.split()
        if len(words) in {5, 6} and words[-1].isdigit() and line.startswith("    "):
            if len(words) == 6:
                n = int(words[0])
            rows[n, words[-5]] = [int(word) for word in words[-4:]]
    return rows


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize(("n", "percentile"), [(3, 76), (5, 84)])
def test_the_interval_covers_better_than_percentiles(n: int, percentile: float) -> None:
    hits = {"ours": 0, "percentile": 0}
    trials = 300
    for sample in np.random.default_rng(n).standard_normal((trials, n)):
        ours = statistics.mean_interval(sample)
        assert ours is not None
        hits["ours"] += ours.low <= 0 <= ours.high
        plain = statistics.percentile_interval(sample)
        hits["percentile"] += plain.low <= 0 <= plain.high
    assert 100 * hits["ours"] / trials >= 91  # 95, less three standard errors of so few trials
    assert 100 * hits["percentile"] / trials == pytest.approx(percentile, abs=5)


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize(
    "n", [3, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (5, 10, 20))]
)
def test_coverage_is_as_documented(n: int) -> None:
    table = documented()
    for i, draw in enumerate(DRAWS):
        found = coverage(n, draw, trials=3000)
        assert found.keys() == {name for of, name in table if of == n}
        for name, (covered, _) in found.items():
            # Three standard errors of 3000 trials, and the rounding of the table.
            assert covered == pytest.approx(table[n, name][i], abs=2.5), (draw, name)
        if (n, draw) == (5, "normal"):
            assert found["bootstrap-t"][1] / found["student"][1] == pytest.approx(1.33, abs=0.1)


# --- two samples ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(values, values), min_size=3, max_size=12))
@quick
def test_p_values_are_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = statistics.paired_contrast(a, b)
    if np.std(np.subtract(b, a)) > 1e-6:
        assert found.p_value == pytest.approx(scipy.stats.ttest_rel(b, a).pvalue, rel=1e-8)
        assert found.mean == pytest.approx(float(np.mean(b) - np.mean(a)), abs=1e-9)
    if np.std(a) > 1e-6 and np.std(b) > 1e-6:
        independent = statistics.unpaired_contrast(a, b)
        assert independent.p_value == pytest.approx(
            scipy.stats.ttest_ind(b, a, equal_var=False).pvalue, rel=1e-8
        )


@given(samples, samples)
@quick
def test_swapping_the_groups_changes_nothing_but_the_sign(a: list[float], b: list[float]) -> None:
    n = min(len(a), len(b))
    for there, back in (
        (statistics.unpaired_contrast(a, b), statistics.unpaired_contrast(b, a)),
        (statistics.paired_contrast(a[:n], b[:n]), statistics.paired_contrast(b[:n], a[:n])),
    ):
        assert there.mean == pytest.approx(-(back.mean or 0.0), abs=1e-9)
        assert there.p_value == pytest.approx(back.p_value)
        if there.interval is not None and back.interval is not None:
            mirrored = [-back.interval.high, -back.interval.low]
            assert [there.interval.low, there.interval.high] == pytest.approx(
                mirrored, rel=1e-9, abs=1e-9
            )
    chance = statistics.probability_of_improvement(a, b, lower_is_better=True)
    assert chance is not None
    assert statistics.probability_of_improvement(b, a, lower_is_better=True) == pytest.approx(
        1 - chance
    )
    assert statistics.probability_of_improvement(a, b, lower_is_better=False) == pytest.approx(
        1 - chance
    )


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("n", [3, 5, 10])
def test_unpaired_interval_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    hits, trials = 0, 100
    for a, b in zip(
        rng.standard_normal((trials, n)), 3 * rng.standard_normal((trials, n + 2)), strict=True
    ):
        interval = statistics.unpaired_contrast(a, b).interval
        assert interval is not None
        hits += interval.low <= 0 <= interval.high
    assert hits / trials >= 0.9


def test_pairing_removes_the_common_effect_of_seeds() -> None:
    paired, independent = (
        statistics.paired_contrast(BPB, OTHER),
        statistics.unpaired_contrast(BPB, OTHER),
    )
    assert paired.mean == pytest.approx(independent.mean)
    assert paired.p_value is not None
    assert independent.p_value is not None
    assert paired.p_value < 0.01 < 0.05 < independent.p_value
    assert paired.interval is not None
    assert paired.interval.excludes_zero
    assert independent.interval is not None
    assert not independent.interval.excludes_zero


def test_paired_test_takes_the_spread_within_strata() -> None:
    differences, strata = [0.1, 0.2, 0.3, 1.1, 1.2, 1.3], [0, 0, 0, 1, 1, 1]
    found = statistics.paired_contrast([0.0] * 6, differences, strata)
    t = 0.7 / (0.1 / math.sqrt(6))
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(t, 4), rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([], [], "no values"),
        ([1.0, 2.0], [2.0, 3.5], "fewer than three pairs"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "all differences are equal"),
        ([0.1, 0.2, 0.3, 0.4], [1.1, 1.2, 1.3, 1.4], "all differences are equal"),
    ],
)
def test_paired_differences_without_spread_prove_nothing(
    a: list[float], b: list[float], reason: str
) -> None:
    found = statistics.paired_contrast(a, b)
    assert found.interval is None
    assert found.p_value is None
    assert found.reason.startswith(reason)


def test_unpaired_groups_need_three_runs_and_some_spread() -> None:
    assert (
        statistics.unpaired_contrast([1.0, 2.0, 3.0], [4.0, 5.0]).reason
        == "fewer than three runs in a group"
    )
    assert statistics.unpaired_contrast([1.0] * 3, [2.0] * 3).p_value is None
    one_exact = statistics.unpaired_contrast([1.0] * 3, [2.0, 2.1, 2.2])
    expected = scipy.stats.ttest_1samp([2.0, 2.1, 2.2], 1.0).pvalue
    assert one_exact.p_value == pytest.approx(expected, rel=1e-9)


def test_pairs_have_equal_numbers() -> None:
    with pytest.raises(ValueError, match="3 and 2 values are no pairs"):
        statistics.paired_contrast([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="3 values have 2 strata"):
        statistics.mean_interval([1.0, 2.0, 3.0], [0, 0])


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
@quick
def test_probability_of_improvement_is_that_of_mann_and_whitney(a: list[int], b: list[int]) -> None:
    found = statistics.probability_of_improvement(a, b, lower_is_better=False)
    statistic = (
        scipy.stats.mannwhitneyu(b, a, method="asymptotic").statistic
        if {*a, *b} != {*a} & {*b}
        else None
    )
    if statistic is not None:
        assert found == pytest.approx(statistic / (len(a) * len(b)))
    direct = sum((y > x) + 0.5 * (y == x) for x in a for y in b) / (len(a) * len(b))
    assert found == pytest.approx(direct)
    assert statistics.probability_of_improvement([], b, lower_is_better=False) is None


# --- many looks -----------------------------------------------------------------------------------


def step_down(p: list[float], level: float) -> list[bool]:
    """Holm's procedure as he describes it: reject in ascending order until one fails."""
    rejected = [False] * len(p)
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] * (len(p) - rank) > level:
            break
        rejected[i] = True
    return rejected


@given(p_values, st.floats(0, 0.99))
@quick
def test_holm_rejects_as_the_stepwise_procedure(p: list[float], level: float) -> None:
    assert [corrected <= level for corrected in statistics.holm(p)] == step_down(p, level)


@given(p_values, st.randoms(use_true_random=False))
@quick
def test_holm_keeps_the_order_and_never_lowers(p: list[float], random: Any) -> None:
    corrected = statistics.holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, corrected, strict=True))
    assert all(
        corrected[i] <= corrected[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j]
    )
    order = list(range(len(p)))
    random.shuffle(order)
    assert statistics.holm([p[i] for i in order]) == [corrected[i] for i in order]


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


# --- quantiles, power and equivalence -------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    st.sampled_from([0.0, 0.025, 0.3, 0.5, 0.7, 0.975, 1.0]),
)
def test_quantiles_are_exactly_those_of_numpy(values: list[float], level: float) -> None:
    array = np.array(values)
    assert (
        statistics._quantiles(array, (level, 1 - level))
        == np.quantile(array, (level, 1 - level)).tolist()
    )


@pytest.mark.parametrize("n", [3, 5, 30])
def test_detectable_difference_is_found_in_four_of_five_tests(n: int) -> None:
    values = [float(value) for value in np.linspace(-1.0, 1.0, n)]
    contrast = statistics.paired_contrast([0.0] * n, values)
    error = np.std(values, ddof=1) / math.sqrt(n)
    for level in (0.05, 0.01):
        limit = scipy.stats.t.isf(level / 2, n - 1)
        expected = scipy.optimize.brentq(
            lambda d, limit=limit: scipy.stats.nct.sf(limit, n - 1, d) - student.POWER,
            0.9 * limit,
            2 * limit + 1,
            xtol=1e-10,
        )
        # The other tail adds less than 1e-6 to the power.
        assert contrast.detectable(level) == pytest.approx(expected * error, rel=1e-5)
    same = statistics.paired_contrast(values, [value + 1 for value in values])
    assert same.detectable(0.05) is None
    assert same.equivalence_p_value(10.0) is None


@pytest.mark.parametrize("margin", [0.5, 3.0, 7.0])
def test_equivalence_is_two_one_sided_tests_of_scipy(margin: float) -> None:
    a, b = np.array(BPB), np.array([2.8, 2.71, 2.69, 2.73, 2.75])
    margin *= float(np.std(b - a))
    welch: dict[str, Any] = {"equal_var": False}
    for first, second in ((a, b), (b, a)):
        for contrast, test, options in (
            (statistics.paired_contrast(first, second), scipy.stats.ttest_rel, {}),
            (statistics.unpaired_contrast(first, second), scipy.stats.ttest_ind, welch),
        ):
            above = test(second + margin, first, alternative="greater", **options).pvalue
            below = test(second - margin, first, alternative="less", **options).pvalue
            expected = pytest.approx(max(above, below), rel=1e-9)
            assert contrast.equivalence_p_value(margin) == expected


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=6), st.data())
def test_holms_level_is_where_the_correction_rejects(p: list[float], data: st.DataObject) -> None:
    levels = statistics.holm_levels(p, 0.05)
    i = data.draw(st.integers(0, len(p) - 1))
    for changed, rejected in ((0.999 * levels[i], True), (1.001 * levels[i], False)):
        tried = [*p[:i], changed, *p[i + 1 :]]
        assert (statistics.holm(tried)[i] < 0.05) is rejected


@pytest.mark.parametrize("scale", [2.0**-350, 2.0**-20, 2.0**60, 2.0**300])
def test_the_unit_of_the_values_changes_nothing(scale: float) -> None:
    a, b = np.array([1.0, 2.5, 3.5]), np.array([2.0, 4.5, 4.75, 9.0])
    plain = statistics.unpaired_contrast(a, b)
    scaled = statistics.unpaired_contrast(scale * a, scale * b)
    assert scaled.p_value == plain.p_value
    assert scaled.mean is not None
    assert scaled.mean / scale == plain.mean
    assert plain.interval is not None
    assert scaled.interval is not None
    assert scaled.interval.low / scale == pytest.approx(plain.interval.low, rel=1e-12)


def test_values_without_a_variance_have_no_interval() -> None:
    """Squares beyond the largest float, as of the perplexity of a model that has diverged."""
    huge, plain = [1e160, 2e160, 4e160], [1.0, 2.0, 4.0]
    for contrast in (
        statistics.paired_contrast(plain, huge),
        statistics.unpaired_contrast(plain, huge),
        statistics.unpaired_contrast(huge, plain),
    ):
        assert contrast.reason == "the values are too large for a variance"
        assert (contrast.interval, contrast.p_value, contrast.detectable(0.05)) == (
            None,
            None,
            None,
        )
    assert statistics.mean_interval(huge) is None
    low, high = mean_intervals(np.array([plain, huge]).T, [0, 0, 0])
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()
