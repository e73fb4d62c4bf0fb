"""Verdicts on differences, corrected for their number: separated, equivalent, or undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spectral_exp.results import statistics
from spectral_exp.results.compared import Difference, Equivalence
from spectral_exp.results.comparison_notes import pair_of
from spectral_exp.results.finding import Finding, finding, measurement
from spectral_exp.results.statistics import Contrast, Interval

SIGNIFICANCE = 0.05
"""Probability of any wrong claim of separation, and of any wrong claim of equivalence."""

DETECTABLE = (
    "true difference that a test at the level left by Holm's correction finds with a probability of"
    " 80 %"
)
"""The formula of a number."""


def correct_differences(
    tested: Sequence[tuple[Difference, Contrast]], metric: str, at: str, margin: float | None
) -> list[Difference]:
    """Apply Holm's correction over all pairs of groups; a pair that appears twice is one test.

    Differences that are not separated get a note on the size that a test would find.

    Args:
        tested: differences and the contrasts that they were made from.
        metric, at: the value of each run.
        margin: the largest difference that counts as none, for tests of equivalence; None for no
            such tests.
    """
    p_values = {pair_of(d): c.p_value for d, c in tested if c.p_value is not None}
    corrected = _by_key(p_values, statistics.holm(list(p_values.values())))
    levels = _by_key(p_values, statistics.holm_levels(list(p_values.values()), SIGNIFICANCE))
    equivalences = _equivalences(tested, margin)
    found = []
    for difference, contrast in tested:
        pair = pair_of(difference)
        p, level = corrected.get(pair), levels.get(pair)
        is_busy = any(warning.kind == "busy machine" for warning in difference.warnings)
        separated = not is_busy and is_separated(p, difference.interval)
        equivalence = equivalences.get(pair)
        if equivalence is not None and is_busy:
            equivalence = replace(equivalence, equivalent=False)
        decided = replace(
            difference,
            p_holm=p,
            level=level,
            detectable=None if level is None else contrast.detectable(level),
            separated=separated,
            equivalence=equivalence,
        )
        warnings = [*decided.warnings, *([] if separated else _power(decided, metric, at))]
        found.append(replace(decided, warnings=warnings))
    return found


def is_separated(p_holm: float | None, interval: Interval | None) -> bool:
    """Return whether both a corrected test and an interval exclude that there is no difference."""
    is_rejected = p_holm is not None and p_holm < SIGNIFICANCE
    return is_rejected and interval is not None and interval.excludes_zero


def _by_key(
    keys: dict[frozenset[str], float], values: Sequence[float]
) -> dict[frozenset[str], float]:
    return dict(zip(keys, values, strict=True))


def _equivalences(
    tested: Sequence[tuple[Difference, Contrast]], margin: float | None
) -> dict[frozenset[str], Equivalence]:
    """Return the corrected outcomes of the tests of equivalence by pair of groups."""
    if margin is None:
        return {}
    p_values = {
        pair_of(difference): p
        for difference, contrast in tested
        if (p := contrast.equivalence_p_value(margin)) is not None
    }
    corrected = statistics.holm(list(p_values.values()))
    return {
        pair: Equivalence(margin, p, p_holm, equivalent=p_holm < SIGNIFICANCE)
        for (pair, p), p_holm in zip(p_values.items(), corrected, strict=True)
    }


def _power(difference: Difference, metric: str, at: str) -> list[Finding]:
    if difference.detectable is None:
        return []
    runs = [*difference.a.runs, *difference.b.runs]
    size = measurement(difference.detectable, metric, runs, DETECTABLE, at=at, show=_two_digits)
    detail = (
        "a true difference of {size} would be found in four of five such comparisons, a smaller one"
        " less often"
    )
    heading = "not separated, which does not mean equal"
    if difference.equivalence is not None and difference.equivalence.equivalent:
        heading = "not separated"
    return [finding("power", heading, detail, size=size)]


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
