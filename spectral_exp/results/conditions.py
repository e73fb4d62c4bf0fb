"""Conditions on runs: `optimizer=rgd`, `learning_rate<=1e-3`, `name=wave*,classic`, `tag=good`."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.results.names import ABSENT, Names, value_text
from spectral_exp.runs.marks import Marks, plain_tag
from spectral_exp.runs.run import Run

_FORM = re.compile(r"\s*([^=!<>\s]+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NOTHING = ("null", "none")
_FLAGS: dict[str, Callable[[Marks], bool]] = {
    "pinned": lambda marks: marks.is_pinned,
    "archived": lambda marks: marks.is_archived,
}
MARKS = ("tag", "note", *_FLAGS)
"""Names of marks in conditions. A run may have several tags, or none."""


@dataclass(frozen=True)
class Condition:
    """One condition: the value of `name` has the relation `sign` to one of `values`."""

    name: str
    sign: str
    values: tuple[str, ...]
    names: Names

    @classmethod
    def of(cls, text: str, names: Names) -> Condition:
        """Read a condition; `pinned` and `archived` stand for `pinned=true` and `archived=true`.

        Raises:
            UserError: it has another form, or no run has such a setting.
        """
        name, sign, value = split_condition(text)
        # A list of a setting, as betas, holds commas of its own, and so does a note.
        is_whole = value.startswith("[") or name == "note"
        values = (value,) if is_whole else tuple(part.strip() for part in value.split(","))
        if name in MARKS:
            if sign in _ORDERS:
                raise SettingError("where", text, f"a condition with = or != after {name}")
            if name in _FLAGS and not set(values) <= {"true", "false"}:
                raise SettingError("where", text, f"{name}, {name}=true or {name}=false")
            return cls(name, sign, values if name != "tag" else (*map(plain_tag, values),), names)
        if sign in _ORDERS and (len(values) > 1 or _number(values[0]) is None):
            raise SettingError("where", text, f"a condition with a number after {sign}")
        return cls(names.resolve(name), sign, values, names)

    def met_by(self, run: Run) -> bool:
        """Return whether a run meets the condition; one without the setting meets only `!=`.

        Raises:
            UserError: its value has no order.
        """
        if self.name in MARKS:
            texts = _mark_texts(run.marks, self.name)
            return any(_has_mark(texts, wanted) for wanted in self.values) == (self.sign == "=")
        value = self.names.value(run, self.name)
        value = None if value is ABSENT else value
        if self.sign in ("=", "!="):
            return any(is_equal(value, wanted) for wanted in self.values) == (self.sign == "=")
        if value is None:
            return False
        number = _number(value)
        if number is None:
            raise UserError(
                f"{self.name} is {value_text(value)} in {run.path}, which is no number to be"
                f" {self.sign} another"
            )
        wanted_number = _number(self.values[0])
        return wanted_number is not None and _ORDERS[self.sign](number, wanted_number)


def _mark_texts(marks: Marks, name: str) -> Sequence[str]:
    """Return the values of a mark: none if the run has no tag or no note."""
    if name in _FLAGS:
        return ["true" if _FLAGS[name](marks) else "false"]
    return marks.tags if name == "tag" else [marks.note] * bool(marks.note)


def _has_mark(texts: Sequence[str], wanted: str) -> bool:
    if not texts:
        return wanted.lower() in _NOTHING
    return any(_matches(text, wanted) if "*" in wanted else text == wanted for text in texts)


def split_condition(
    text: str, option: str = "where", example: str = "optimizer=rgd"
) -> tuple[str, str, str]:
    """Return name, sign and value of a condition. Raises SettingError if it has another form."""
    match = _FORM.fullmatch(f"{text}=true" if text.strip() in _FLAGS else text)
    if match is None or not match[3].strip():
        allowed = f"name=value, with =, !=, <, <=, > or >=; for example {example}"
        raise SettingError(option, text, allowed)
    return match[1], match[2], match[3].strip()


def compare_numbers(value: Any, sign: str, wanted: str) -> bool:
    """Return whether a value has the relation `sign`, one of `<`, `<=`, `>`, `>=`, to a number."""
    number, wanted_number = _number(value), _number(wanted)
    if number is None or wanted_number is None:
        raise UserError(f"{value} {sign} {wanted} compares something that is no number")
    return _ORDERS[sign](number, wanted_number)


def is_equal(value: Any, wanted: str) -> bool:
    """Return whether a value is the wanted one, or matches it as a pattern with `*`."""
    text = value_text(value)
    if value is None and wanted.lower() in _NOTHING:
        return True
    if "*" in wanted:
        return _matches(text, wanted)
    number, wanted_number = _number(value), _number(wanted)
    if number is not None and wanted_number is not None:
        return number == wanted_number
    return text == wanted.replace(" ", "") if isinstance(value, list) else text == wanted


def _matches(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
