"""Check JSON against types; values of another type are removed and reported as findings."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_value import restore_non_finite

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
MAX_FINDINGS = 5


class _Invalid:
    """The type of `_INVALID`, which replaces a value of another type."""


_INVALID = _Invalid()


@dataclass(frozen=True)
class Between:
    """A range of integers, including both ends."""

    low: int
    high: int

    def accepts(self, value: Any) -> bool:
        """Return whether `value` is in the range."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Matching:
    """Texts that match a regular expression."""

    pattern: str
    words: str

    def accepts(self, value: Any) -> bool:
        """Return whether `value` matches."""
        return re.fullmatch(self.pattern, value, flags=re.ASCII) is not None

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Between(0, 2**53)]
"""A non-negative integer that a float represents exactly."""

Commit = Annotated[str, Matching(r"[0-9a-f]{7,64}", "a commit")]
"""A commit hash; git cannot mistake it for an option."""


class Findings:
    """Collects a sentence for each value that is removed from a record."""

    def __init__(self, source: str) -> None:
        self.sentences: list[str] = []
        self._source = source
        self._more = 0

    def add(self, path: str, value: Any, expected: str) -> None:
        """Add the finding that the value at `path` is not `expected`."""
        if len(self.sentences) == MAX_FINDINGS:
            self._more += 1
            return
        is_container = isinstance(value, dict | list)
        shown = type(value).__name__ if is_container else printable(repr(value), 40)
        self.sentences.append(
            f"{self._source}: {printable(path, 80)} is left out: {shown} is not {expected}"
        )

    def all(self) -> tuple[str, ...]:
        """Return the first sentences, and one with the number of the others."""
        more = [f"{self._source}: {self._more} more are left out"] if self._more else []
        return (*self.sentences, *more)


def conform(kind: Any, value: Any, findings: Findings, where: str = "") -> Any:
    """Return the part of `value` that conforms to `kind`, or None.

    Args:
        kind: a TypedDict, whose other keys are kept; list, dict, Literal, Annotated, an optional
            type; str, int, float or bool. A float may be the text of a non-finite number.
        value: parsed JSON.
        findings: collects the values that are removed.
        where: the path of the value, for findings.
    """
    found = _conform(kind, value, findings, where)
    return None if found is _INVALID else found


def is_of(kind: Any, value: Any, findings: Findings, where: str) -> bool:
    """Return whether `value` conforms to `kind`; if not, add a finding."""
    return _conform(kind, value, findings, where) is not _INVALID


def _conform(kind: Any, value: Any, findings: Findings, where: str) -> Any:
    if kind is Any:
        return value
    if is_typeddict(kind):
        return _conform_mapping(_hints(kind), kind.__required_keys__, value, findings, where)
    origin = get_origin(kind)
    if origin is dict:
        return _conform_mapping({}, frozenset(), value, findings, where, get_args(kind)[1])
    if origin is list:
        return _conform_list(get_args(kind)[0], value, findings, where)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (one for one in get_args(kind) if one is not type(None))
        return _conform(inner, value, findings, where)
    if origin is Literal:
        expected = f"one of {', '.join(map(str, get_args(kind)))}"
        is_valid = isinstance(value, str) and value in get_args(kind)
        return value if is_valid else _reject(where, value, expected, findings)
    if origin is Annotated:
        base, rule = get_args(kind)
        is_valid = _is_plain(base, value) and rule.accepts(value)
        return value if is_valid else _reject(where, value, str(rule), findings)
    if kind is float:
        value = restore_non_finite(value)
    return value if _is_plain(kind, value) else _reject(where, value, _NAMES[kind], findings)


_MAX_FLOAT_BITS = 1023
"""Every integer with at most so many bits is in the range of floats."""


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is float:
        if isinstance(value, int) and value.bit_length() > _MAX_FLOAT_BITS:
            return False
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _reject(where: str, value: Any, expected: str, findings: Findings) -> _Invalid:
    findings.add(where, value, expected)
    return _INVALID


def _conform_mapping(
    kinds: Mapping[str, Any],
    required: frozenset[str],
    value: Any,
    findings: Findings,
    where: str,
    others: Any = Any,
) -> Any:
    if not isinstance(value, dict):
        return _reject(where, value, "an object", findings)
    found = {}
    for key, item in value.items():
        below = f"{where}.{key}" if where else key
        kept = _conform(kinds.get(key, others), item, findings, below)
        if kept is not _INVALID:
            found[key] = kept
    if missing := sorted(required - found.keys()):
        return _reject(where, value, f"an object with {', '.join(missing)}", findings)
    return found


def _conform_list(kind: Any, value: Any, findings: Findings, where: str) -> Any:
    """Return the list if all items conform, since a part of a sequence would be misleading."""
    if not isinstance(value, list):
        return _reject(where, value, "a list", findings)
    found = [_conform(kind, item, findings, f"{where}[{i}]") for i, item in enumerate(value)]
    return _INVALID if any(item is _INVALID for item in found) else found


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
