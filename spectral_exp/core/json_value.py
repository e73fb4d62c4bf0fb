"""Convert any Python value to standard JSON, without errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time
from numbers import Real
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Strings in JSON files for numbers that JSON does not have."""

CIRCULAR = "<circular reference>"
TOO_DEEP = "<nested too deeply>"

MAX_DEPTH = 100
"""Maximal depth of nesting, which every JSON reader accepts."""

_MAX_DIGITS = 4300
"""Python and many other readers refuse longer whole numbers."""
_MAX_BITS = int(_MAX_DIGITS * math.log2(10))


def non_finite_name(value: float) -> str:
    """Return the string for a NaN or an infinity in JSON files."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def restore_non_finite(value: Any) -> Any:
    """Return the number for which a string in a JSON file stands; any other value as it is."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def jsonable(value: Any) -> Any:
    """Return `value` in the types of standard JSON.

    Non-finite numbers become strings (see `NON_FINITE`), numpy and torch values become numbers and
    lists, and other values their text. A container inside itself becomes `CIRCULAR`, a value below
    100 levels `TOO_DEEP`. Whole numbers of more than 4300 digits are written in hexadecimal.
    """
    return _jsonable(value, ())


def _jsonable(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= _MAX_BITS else hex(number)
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, date | time):
        return value.isoformat()
    content = _content_of(value)
    if content is None:
        return _text(value)
    if id(value) in above:
        return CIRCULAR
    if len(above) == MAX_DEPTH:
        return TOO_DEEP
    within = (*above, id(value))
    if isinstance(content, dict):
        return {key: _jsonable(item, within) for key, item in content.items()}
    if isinstance(content, list):
        return [_jsonable(item, within) for item in content]
    return _jsonable(content, within)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else non_finite_name(value)


def _content_of(value: Any) -> Any:
    """Return the mapping, list or scalar that a value holds; None for other values."""
    if isinstance(value, bytes | bytearray):
        return None
    if isinstance(value, Mapping):
        return _attempt(lambda: _with_text_keys(value.items()))
    if isinstance(value, set | frozenset):
        return _attempt(
            lambda: sorted(value, key=repr)
        )  # the order of a set differs between processes
    if isinstance(value, Sequence):
        return _attempt(lambda: list(value))
    if getattr(getattr(value, "dtype", None), "kind", "") in (
        "m",
        "M",
    ):  # times, which `tolist` may turn into numbers
        return _attempt(lambda: value.astype(str).tolist())
    if not callable(getattr(value, "tolist", None)):
        return None
    plain = _attempt(value.tolist)
    if type(plain) is not type(value):
        return plain
    # `tolist` returns numbers without a Python type, such as long doubles, unchanged.
    return _attempt(lambda: float(value)) if isinstance(value, Real) else None


def _with_text_keys(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return items by the text of their keys, which includes the type if the text is taken."""
    items = list(items)
    found = {str.__str__(key): item for key, item in items if isinstance(key, str)}
    for key, item in items:
        if isinstance(key, str):
            continue
        text = _text(key)
        while text in found:
            text = f"{text} ({type(key).__name__})"
        found[text] = item
    return found


def _text(value: Any) -> str:
    text: str | None = _attempt(lambda: str(value))
    return f"<{type(value).__name__}>" if text is None else text


def _attempt(call: Callable[[], Any]) -> Any:
    """Return the result of a call into foreign code, or None if it fails."""
    try:
        return call()
    except Exception:
        return None
