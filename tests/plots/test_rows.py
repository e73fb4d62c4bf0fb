"""Numbers and limits of rows of values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.plots.rows import Row, row_limits, row_texts
from spectral_exp.plots.series import bulk_limits
from spectral_exp.plots.text import spread_apart


def test_numbers_have_the_digits_that_intervals_resolve() -> None:
    rows = [
        Row("a", [2.61, 2.63], 2.6234567, (2.61, 2.63)),
        Row("b", [2.7], note="n = 1, no interval"),
    ]
    assert row_texts(rows) == ["2.623  [2.610, 2.630]", "2.700  n = 1, no interval"]
    narrow = [Row("a", (), 2.6234567, (2.62341, 2.62349))]
    assert row_texts(narrow) == ["2.623457  [2.623410, 2.623490]"]


def test_differences_have_signs() -> None:
    rows = [Row("heading", heading=True), Row("a", (), -0.0123, (-0.02, 0.001), note="n = 5")]
    assert row_texts(rows, signed=True) == [
        "",
        "\N{MINUS SIGN}0.012  [\N{MINUS SIGN}0.020, +0.001]  n = 5",
    ]


@pytest.mark.parametrize(
    "rows", [[], [Row("a")], [Row("a", [2.0, 2.0], 2.0, (2.0, 2.0))], [Row("a", [0.0])]]
)
def test_any_rows_have_texts_and_limits(rows: list[Row]) -> None:
    low, high = row_limits(rows)
    assert low < high
    assert len(row_texts(rows)) == len(rows)


def test_limits_exclude_outliers_and_include_the_reference() -> None:
    rows = [Row(str(i), [2 + i / 10, 2.05 + i / 10]) for i in range(6)]
    far = Row("far", [80.0, 90.0])
    low, high = row_limits([*rows, far], reference=1.0)
    assert low < 1.0
    assert 2.55 < high < 3
    assert row_limits([rows[0], far])[1] > 90  # of two none is the odd one out


def test_equal_parts_cut_nothing() -> None:
    assert bulk_limits([np.array([1.0])] * 5 + [np.array([7.0])]) == (1.0, 7.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.04))
@settings(max_examples=60, deadline=None)
def test_labels_keep_their_order_and_distance_within_the_panel(
    places: list[float], gap: float
) -> None:
    found = spread_apart(places, gap)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(found[b] - found[a] >= gap - 1e-9 for a, b in pairwise(order))
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9


def test_crowded_labels_spread_around_their_middle_and_others_stay() -> None:
    assert spread_apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])
    assert spread_apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
