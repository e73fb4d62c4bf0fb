"""Conditions on runs: `optimizer=rgd`, `learning_rate<=1e-3`, `name=wave*,classic`."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.results.names import Names, value_text
from spectral_exp.runs.run import Run

_FORM = re.compile(r"\s*([^=!<>\s]+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """One condition: the value of `name` has the relation `sign` to one of `values`."""

    name: str
    sign: str
    values: tuple[str, ...]
    names: Names

    @classmethod
    def of(cls, text: str, names: Names) -> Condition:
        """Read a condition.

        Raises:
            UserError: it has another form, or no run has such a setting.
        """
        name, sign, value = split_condition(text)
        # A list of a setting, as betas, holds commas of its own.
        values = (
            (value,) if value.startswith("[") else tuple(part.strip() for part in value.split(","))
        )
        if sign in _ORDERS and (len(values) > 1 or _number(values[0]) is None):
            raise UserError(f"where={text} must have a number after {sign}")
        return cls(names.resolve(name), sign, values, names)

    def met_by(self, run: Run) -> bool:
        """Return whether a run meets the condition; one without the setting meets only `!=`.

        Raises:
            UserError: its value has no order.
        """
        value = self.names.value(run, self.name)
        if self.sign in ("=", "!="):
            return any(_equals(value, wanted) for wanted in self.values) == (self.sign == "=")
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


def split_condition(text: str) -> tuple[str, str, str]:
    """Return name, sign and value of a condition. Raises UserError if it has another form."""
    match = _FORM.fullmatch(text)
    if match is None or not match[3].strip():
        raise UserError(
            f"where={text} must be name=value, with =, !=, <, <=, > or >=; for example"
            " optimizer=rgd"
        )
    return match[1], match[2], match[3].strip()


def _equals(value: Any, wanted: str) -> bool:
    text = value_text(value)
    if value is None and wanted.lower() in ("null", "none"):
        return True
    if "*" in wanted:
        return fnmatch.fnmatchcase(text, wanted.replace("[", "[[]"))
    number, wanted_number = _number(value), _number(wanted)
    if number is not None and wanted_number is not None:
        return number == wanted_number
    return text == wanted.replace(" ", "") if isinstance(value, list) else text == wanted


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
