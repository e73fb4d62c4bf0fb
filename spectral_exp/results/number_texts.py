"""Numbers as the tables of a comparison print them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from spectral_exp.results.statistics import Interval

NOTHING = "-"
"""Stands for a missing number."""

_LARGE = 1e15  # from here on a float has no digits after the point


def decimals(values: Iterable[float]) -> int:
    """Return the digits after the point at which the largest value has five in all."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=1.0)
    return min(max(4 - math.floor(math.log10(largest)), 0), 8) if largest > 0 else 1


def number_text(value: float | None, digits: int, *, signed: bool = False) -> str:
    """Return a number with `digits` after the point."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= _LARGE:
        return f"{value:{'+' if signed else ''}.6g}"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    # A difference that rounds to nothing has no sign.
    return text.lstrip("+-") if float(text) == 0 else text


def interval_text(interval: Interval | None, digits: int, *, signed: bool = False) -> str:
    """Return the bounds of an interval in brackets."""
    if interval is None:
        return NOTHING
    return (
        f"[{number_text(interval.low, digits, signed=signed)},"
        f" {number_text(interval.high, digits, signed=signed)}]"
    )


def probability_text(value: float | None) -> str:
    """Return a probability with three digits."""
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"
