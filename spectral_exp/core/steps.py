"""The number of an optimizer step, as every part of the package takes it."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from spectral_exp.core.errors import SettingError

_END = 2**63


def whole_step(step: Any, name: str = "step") -> int:
    """Return `step` as a plain int.

    Args:
        step: an int, a numpy or torch integer, or a float that is a whole number such as `10.0`.
        name: the argument's name, for the message.

    Raises:
        SettingError: it is a bool, negative, not whole, or no number.
    """
    if type(step) is int and 0 <= step < _END:
        return step
    number = _as_int(step)
    if number is None or not 0 <= number < _END:
        raise SettingError(name, _shorten(step), "a whole number >= 0 and < 2**63")
    return number


def _as_int(step: Any) -> int | None:
    """`step` as an int, or None if it is not a whole number."""
    if isinstance(step, bool) or str(getattr(step, "dtype", "")).endswith("bool"):
        return None
    try:
        return int(operator.index(step))
    except TypeError:
        pass
    try:
        number = float(step) if isinstance(step, Real) else math.nan
        return int(number) if number.is_integer() else None
    except OverflowError:  # a fraction beyond every float
        return None


def _shorten(value: object) -> str:
    """The beginning of `repr(value)`, on one line."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no int of more than some thousand digits
        return "a huge number"
    return " ".join(text[:40].split())


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 1; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
