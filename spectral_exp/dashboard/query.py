"""The parameters of a request, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from spectral_exp.core.errors import require
from spectral_exp.results.names import split_names
from spectral_exp.runs.budget import parse_at

MAX_TEXT = 4096
MAX_RUNS = 1000


class Query:
    """Reads the parameters of a request; a wrong one is a SettingError."""

    def __init__(self, parameters: QueryParams) -> None:
        self._parameters = parameters

    def text(self, name: str, default: str = "") -> str:
        """Return a text of limited length."""
        value = self._parameters.get(name, default)
        require(len(value) <= MAX_TEXT, name, f"{value[:40]}...", f"<= {MAX_TEXT} characters")
        return value

    def texts(self, name: str) -> list[str]:
        """Return the values of a parameter that may be repeated; empty ones are left out."""
        values = [value for value in self._parameters.getlist(name) if value.strip()]
        require(sum(map(len, values)) <= MAX_TEXT, name, "...", f"<= {MAX_TEXT} characters")
        return values

    def required(self, name: str) -> str:
        """Return a text that must not be empty."""
        value = self.text(name)
        require(value != "", name, "''", "given")
        return value

    def names(self, name: str) -> list[str]:
        """Return what a text lists with commas, each once."""
        found = list(dict.fromkeys(split_names(self._parameters.get(name, ""))))
        require(len(found) <= MAX_RUNS, name, f"{len(found)} items", f"<= {MAX_RUNS} items")
        return found

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return one of the allowed texts, by default the first."""
        value = self.text(name) or allowed[0]
        require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        text = self.text(name)
        if not text:
            return default
        digits = text.removeprefix("-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) < 20
        number = int(text) if is_number else low - 1
        require(low <= number <= high, name, text, f"a whole number from {low} to {high}")
        return number

    def number(self, name: str) -> float | None:
        """Return a finite number, or None if it is not given."""
        text = self.text(name)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        require(math.isfinite(number), name, text, "a finite number")
        return number

    def flag(self, name: str) -> bool:
        """Return whether a parameter is 1; by default it is 0."""
        return self.choice(name, ("0", "1")) == "1"


@dataclass(frozen=True)
class View:
    """The question that a table of groups answers.

    Attributes:
        where: conditions, all of which hold.
        group_by: settings in which the runs of a group agree; None for all but the seed.
        metric, at: the number of each run; an empty metric is chosen by `usual_metric`.
        baseline: label of the group to compare with, or None.
        archived: whether archived runs count too.
    """

    where: tuple[str, ...] = ()
    group_by: tuple[str, ...] | None = None
    metric: str = ""
    at: str = "final"
    baseline: str | None = None
    archived: bool = False

    @classmethod
    def of(cls, query: Query) -> View:
        """Return the view that a request names. Raises SettingError for a wrong parameter."""
        at = query.text("at") or "final"
        parse_at(at)
        return cls(
            where=tuple(query.texts("where")),
            group_by=tuple(query.names("group_by")) or None,
            metric=query.text("metric") or "",
            at=at,
            baseline=query.text("baseline") or None,
            archived=query.flag("archived"),
        )
