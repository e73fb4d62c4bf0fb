"""Student's distribution, central and noncentral, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.results import student


@pytest.mark.parametrize("df", [1.0, 2.0, 2.5, 4.0, 7.3, 19.0, 100.0, 999.5])
def test_students_distribution_is_scipys(df: float) -> None:
    for t in (0.0, 1e-3, 0.5, 1.0, 2.776, 5.0, 20.0, 1000.0):
        assert student.student_p_value(t, df) == pytest.approx(
            2 * scipy.stats.t.sf(t, df), rel=2e-11, abs=1e-300
        )
        assert student.student_p_value(-t, df) == student.student_p_value(t, df)
    for level in (0.5, 0.6, 0.9, 0.975, 0.995, 0.9999):
        expected = float(scipy.stats.t.ppf(level, df))
        assert student.student_quantile(level, df) == pytest.approx(expected, rel=1e-11, abs=1e-11)


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_incomplete_beta_is_scipys(a: float, b: float, x: float) -> None:
    assert student.incomplete_beta(a, b, x) == pytest.approx(
        float(scipy.special.betainc(a, b, x)), abs=1e-12
    )


@pytest.mark.parametrize("level", [0.05, 0.0125, 1e-4])
@pytest.mark.parametrize("df", [2, 2.5, 4, 19, 400])
def test_the_power_of_a_test_is_scipys(df: float, level: float) -> None:
    limit = scipy.stats.t.isf(level / 2, df)
    for noncentrality in (0.0, 1.0, 2.5, 1.2 * limit):
        found = student.power_of_test(noncentrality, df, level)
        # Of the far tail, which SciPy cannot compute, nothing is left.
        far = np.nan_to_num(scipy.stats.nct.cdf(-limit, df, noncentrality))
        expected = float(scipy.stats.nct.sf(limit, df, noncentrality) + far)
        assert found == pytest.approx(expected, abs=1e-9)
    found = student.detectable_noncentrality(df, level)
    assert student.power_of_test(found, df, level) == pytest.approx(student.POWER, abs=1e-9)
