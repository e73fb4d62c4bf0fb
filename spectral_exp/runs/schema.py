"""Check JSON against types: values of another type are left out and reported as findings."""

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


class _Wrong:
    """Stands for a value of an unexpected type."""


_WRONG = _Wrong()


@dataclass(frozen=True)
class Between:
    """A range of whole numbers, both ends included."""

    low: int
    high: int

    def holds(self, value: Any) -> bool:
        """Return whether `value` is in the range."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Matching:
    """Texts that match a regular expression."""

    pattern: str
    words: str

    def holds(self, value: Any) -> bool:
        """Return whether `value` matches."""
        return re.fullmatch(self.pattern, value, flags=re.ASCII) is not None

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Between(0, 2**53)]
"""A number of things; a float can hold it exactly."""

Commit = Annotated[str, Matching(r"[0-9a-f]{7,64}", "a commit")]
"""The hash of a commit, which git cannot mistake for an option."""


class Findings:
    """Collects a sentence for each value that is left out of a record."""

    def __init__(self, source: str) -> None:
        self.sentences: list[str] = []
        self._source = source
        self._more = 0

    def add(self, where: str, value: Any, expected: str) -> None:
        """Add that the value at `where` is not as expected."""
        if len(self.sentences) == MAX_FINDINGS:
            self._more += 1
            return
        kind = (
            type(value).__name__ if isinstance(value, dict | list) else printable(repr(value), 40)
        )
        self.sentences.append(
            f"{self._source}: {printable(where, 80)} is left out: {kind} is not {expected}"
        )

    def all(self) -> tuple[str, ...]:
        """Return the first sentences and the number of the others."""
        return (
            *self.sentences,
            *([f"{self._source}: {self._more} more are left out"] if self._more else []),
        )


def conform(kind: Any, value: Any, findings: Findings, where: str = "") -> Any:
    """Return the part of `value` that conforms to `kind`, None without one.

    Args:
        kind: a TypedDict, whose other keys are kept; list, dict, Literal, Annotated, a union; str,
            int, float or bool. A float may be one of the strings that stand for non-finite numbers.
        value: parsed JSON.
        findings: receives what is left out.
        where: the name of the value, for findings.
    """
    found = _conform(kind, value, findings, where)
    return None if found is _WRONG else found


def is_of(kind: Any, value: Any, findings: Findings, where: str) -> bool:
    """Return whether `value` has a type; if not, add a finding."""
    return _conform(kind, value, findings, where) is not _WRONG


def _conform(kind: Any, value: Any, findings: Findings, where: str) -> Any:
    if kind is Any:
        return value
    if is_typeddict(kind):
        return _mapping(_hints(kind), kind.__required_keys__, value, findings, where)
    origin = get_origin(kind)
    if origin is dict:
        return _mapping({}, frozenset(), value, findings, where, get_args(kind)[1])
    if origin is list:
        return _list(get_args(kind)[0], value, findings, where)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (one for one in get_args(kind) if one is not type(None))
        return _conform(inner, value, findings, where)
    if origin is Literal:
        words = f"one of {', '.join(map(str, get_args(kind)))}"
        return (
            value
            if isinstance(value, str) and value in get_args(kind)
            else _wrong(where, value, words, findings)
        )
    if origin is Annotated:
        base, rule = get_args(kind)
        right = _is_plain(base, value) and rule.holds(value)
        return value if right else _wrong(where, value, str(rule), findings)
    if kind is float:
        value = restore_non_finite(value)
    return value if _is_plain(kind, value) else _wrong(where, value, _NAMES[kind], findings)


_MAX_FLOAT_BITS = 1023
"""Whole numbers with more bits are beyond the range of floats."""


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is float:
        if isinstance(value, int) and value.bit_length() > _MAX_FLOAT_BITS:
            return False
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _wrong(where: str, value: Any, expected: str, findings: Findings) -> _Wrong:
    findings.add(where, value, expected)
    return _WRONG


def _mapping(
    kinds: Mapping[str, Any],
    required: frozenset[str],
    value: Any,
    findings: Findings,
    where: str,
    others: Any = Any,
) -> Any:
    if not isinstance(value, dict):
        return _wrong(where, value, "an object", findings)
    found = {}
    for key, item in value.items():
        below = f"{where}.{key}" if where else key
        kept = _conform(kinds.get(key, others), item, findings, below)
        if kept is not _WRONG:
            found[key] = kept
    if missing := sorted(required - found.keys()):
        return _wrong(where, value, f"an object with {', '.join(missing)}", findings)
    return found


def _list(kind: Any, value: Any, findings: Findings, where: str) -> Any:
    """Return the list if all of its items conform: a part of a sequence would be misleading."""
    if not isinstance(value, list):
        return _wrong(where, value, "a list", findings)
    found = [_conform(kind, item, findings, f"{where}[{i}]") for i, item in enumerate(value)]
    return _WRONG if any(item is _WRONG for item in found) else found


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
