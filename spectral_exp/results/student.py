"""Student's distribution, central and noncentral, without SciPy.

The noncentral distribution with `df` degrees of freedom and noncentrality d is that of
(Z + d) / S, with Z standard normal and df * S^2 chi-squared with `df` degrees of freedom.

Source: Owen, "The Power of Student's t-Test" (1965).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

POWER = 0.8
"""Probability with which a test finds a difference that counts as detectable."""

_ACCURACY = 1e-10  # of power, and relative of noncentrality


def student_p_value(t: float, df: float) -> float:
    """Return the two-sided p-value of Student's t with `df` > 0 degrees of freedom."""
    return incomplete_beta(df / 2, 0.5, df / (df + t * t))


@lru_cache(maxsize=256)
def student_quantile(level: float, df: float) -> float:
    """Return the quantile of Student's distribution for `df` > 0 and 0.5 <= level < 1."""
    p = 2 * (1 - level)
    low, high = 0.0, 1.0
    while student_p_value(high, df) > p:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if student_p_value(middle, df) > p:
            low = middle
        else:
            high = middle
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) for a, b > 0 and 0 <= x <= 1.

    It uses the continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions.
    """
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges fast only for the complement
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    return front / _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d1 / (1 + d2 / (1 + ...)) by the method of Thompson and Barnett (1986)."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, 10_000):
        m = i // 2
        if i % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + step * d or tiny)
        c = 1.0 + step / c or tiny
        value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return value


# --- power --------------------------------------------------------------------------------


def student_upper_tail(t: float, df: float) -> float:
    """Return the probability of values above `t` for `df` > 0 degrees of freedom."""
    half = student_p_value(t, df) / 2
    return half if t >= 0 else 1 - half


def power_of_test(noncentrality: float, df: float, level: float) -> float:
    """Return the probability that the two-sided t-test rejects.

    Args:
        noncentrality: the true difference in standard errors.
        df: degrees of freedom, > 0.
        level: of the test, from 0 to 1.
    """
    limit = student_quantile(1 - level / 2, df)
    # The trapezoidal rule over log S: its error falls exponentially with the step, which resolves
    # both the density of log S and the rise of the conditional power.
    narrowest = min(1 / math.sqrt(2 * df), 1 / max(abs(noncentrality), 1.0))
    low, high = -0.5 - 30 / df, math.sqrt(30 / df)  # a density below 1e-13 of the largest
    x, step = np.linspace(low, high, math.ceil(3 * (high - low) / narrowest) + 1, retstep=True)
    constant = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    weights = np.exp(constant + df * x - df / 2 * np.exp(2 * x)) * step
    bounds = (limit * np.exp(x)).tolist()
    rejected = [
        normal_upper_tail(bound - noncentrality) + normal_upper_tail(bound + noncentrality)
        for bound in bounds
    ]
    return math.fsum((weights * rejected).tolist())


def normal_upper_tail(z: float) -> float:
    """Return the probability of values above `z` for the standard normal distribution."""
    return math.erfc(z / math.sqrt(2)) / 2


@lru_cache(maxsize=1024)
def detectable_noncentrality(df: float, level: float) -> float:
    """Return the difference in standard errors that the t-test finds with the probability `POWER`.

    Args:
        df: degrees of freedom, > 0.
        level: of the two-sided test, > 0 and < `POWER`.
    """
    # Within 6 % of the result from two degrees of freedom on.
    high = student_quantile(1 - level / 2, df) + student_quantile(POWER, df)
    low = 0.9 * high
    while (above := power_of_test(high, df, level) - POWER) < 0:
        low, high = high, 2 * high
    while (below := power_of_test(low, df, level) - POWER) > 0:
        low, high, above = 0.5 * low, low, below
    # Regula falsi with the Illinois rule, which keeps a bracket.
    middle, side = high, 0
    while high - low > _ACCURACY * high:
        middle = (low * above - high * below) / (above - below)
        error = power_of_test(middle, df, level) - POWER
        if abs(error) < _ACCURACY:
            break
        if error < 0:
            low, below, above, side = middle, error, above / 2 if side < 0 else above, -1
        else:
            high, above, below, side = middle, error, below / 2 if side > 0 else below, 1
    return middle
