"""Decimal numbers read many at once, against `json`, bit for bit."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.runs import number_text
from spectral_exp.runs.number_text import PADDING, parse_numbers

ODD = [
    "0", "-0", "0.0", "-0.0", "01", "-01", "00.1", "1.", ".5", "+1", "", "-", "--1", "1-2", "1.2.3", "1e5", "1E-05",
    "1e", "0e+00", "1.5e+300", "2.5e-324", "1e-400", "1e+400", "1.e-05", "0.1e-05", "1_0", " 1", "1 ", "nan", "NaN",
    "-Infinity", "true", "null", '"1"', "[1]", "12345678901234567890", "1234567890123456789.5",
    "0.00000000000000000001234567890123", "9007199254740993", "9007199254740993.0", "9007199254740992.9999999",
    "123456789.123", "0.30000000000000004", "1797693134862315708145274237317043567981", "1" * 400, "0." + "1" * 30,
]  # fmt: skip


def expected(token: str) -> tuple[float, bool]:
    try:
        value: Any = json.loads(token)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), isinstance(value, int)
    except (ValueError, OverflowError):
        pass
    return math.nan, False


def assert_read_as_json_does(tokens: Sequence[str]) -> None:
    joined = " " * PADDING + ",".join([*tokens, ""])
    text = np.frombuffer(joined.encode(), dtype=np.uint8)
    lengths = np.array([len(token.encode()) for token in tokens])
    ends = PADDING + np.cumsum(lengths + 1) - 1
    values, whole = parse_numbers(text, ends - lengths, ends)
    for token, value, is_whole in zip(tokens, values.tolist(), whole.tolist(), strict=True):
        wanted, wanted_whole = expected(token)
        same_bits = struct.pack("d", wanted) == struct.pack("d", value)
        assert same_bits or (math.isnan(wanted) and math.isnan(value)), (token, value, wanted)
        assert is_whole == wanted_whole, token


def test_odd_forms() -> None:
    assert_read_as_json_does(ODD)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_any_double(values: list[float]) -> None:
    assert_read_as_json_does([repr(value) for value in values])


@given(st.lists(st.text("0123456789.-+eE ", max_size=24), min_size=1, max_size=50))
def test_any_text_of_such_characters(tokens: list[str]) -> None:
    assert_read_as_json_does(tokens)


def test_many_numbers_of_the_usual_kinds() -> None:
    draw = random.Random(0)
    tokens = []
    for _ in range(20_000):
        kind = draw.randrange(6)
        if kind == 0:
            (value,) = struct.unpack("f", struct.pack("f", draw.random() * 4))
        elif kind == 1:
            value = draw.random() * 10 ** draw.randrange(-20, 20)
        elif kind == 2:
            value = -math.exp(draw.gauss(0, 3))
        elif kind == 3:  # beyond 53 bits: halfway between two doubles is common
            value = draw.randrange(2**53, 2**64)
        elif kind == 4:
            value = round(draw.random() * 1000, draw.randrange(6))
        else:
            tokens.append(f"{draw.random():.{draw.randrange(20)}e}")
            continue
        tokens.append(repr(value))
    assert_read_as_json_does(tokens)


def test_without_extended_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_text, "_HAS_EXTENDED", False)
    assert_read_as_json_does([*ODD, "2.5", "1e-05", "3.7731239795684814"])
