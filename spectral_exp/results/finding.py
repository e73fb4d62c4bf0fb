"""Findings of checks as data: kind, words, and values with their sources."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from spectral_exp.runs.run import Run

SAME = "the value itself"
"""The formula of a value that a run has once."""

COUNT = "number of runs"
"""The formula of a number of runs."""

Severity: TypeAlias = Literal["info", "warning"]
"""`info` explains a result; a `warning` limits the conclusions from it."""


@dataclass(frozen=True)
class Source:
    """The origin of a number.

    Attributes:
        metric: a metric, a setting's dotted name, or an entry of `config.json` or `results.json`.
        runs: ids of the runs.
        at: which value of each run (`final`, `best` or a budget); empty for a value that a run has
            once.
        formula: how the number is computed from those of the runs.
    """

    metric: str
    runs: tuple[str, ...]
    at: str = ""
    formula: str = SAME


@dataclass(frozen=True)
class Measured:
    """A number as a finding shows it, with its exact value and its source."""

    shown: str
    value: float | int
    source: Source


Piece: TypeAlias = "str | Measured"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        kind: the same for all findings of one check.
        heading: the result; `{name}` means one of `values`. Other digits are constants.
        detail: the evidence, in the same form; may be empty.
        values: numbers with their sources, and words that a run recorded.
        subject: the runs or groups concerned, if the finding is listed apart from them.
        severity: see `Severity`.
    """

    kind: str
    heading: str
    detail: str = ""
    values: Mapping[str, Piece] = field(default_factory=dict)
    subject: str = ""
    severity: Severity = "warning"

    def __str__(self) -> str:
        """The finding as a sentence without its full stop."""
        words = "".join(piece if isinstance(piece, str) else piece.shown for piece in self.pieces())
        return f"{self.subject}: {words}" if self.subject else words

    def pieces(self) -> tuple[Piece, ...]:
        """Heading and detail as words and numbers, in their order."""
        return (
            (*self.heading_pieces(), ": ", *self.detail_pieces())
            if self.detail
            else self.heading_pieces()
        )

    def heading_pieces(self) -> tuple[Piece, ...]:
        """The heading as words and numbers."""
        return self._fill(self.heading)

    def detail_pieces(self) -> tuple[Piece, ...]:
        """The detail as words and numbers."""
        return self._fill(self.detail)

    def about(self, subject: str) -> Finding:
        """Return the same finding about `subject`."""
        return replace(self, subject=subject)

    def _fill(self, template: str) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for words, name, _, _ in string.Formatter().parse(template):
            pieces += [words] if words else []
            pieces += [self.values[name]] if name is not None else []
        return tuple(pieces)


def finding(
    kind: str, heading: str, detail: str = "", *, severity: Severity = "warning", **values: Piece
) -> Finding:
    """Return a finding with `values` as keywords."""
    return Finding(kind, heading, detail, values, severity=severity)


def measurement(
    value: float,
    metric: str,
    runs: Run | Iterable[Run],
    formula: str = SAME,
    *,
    at: str = "",
    show: str | Callable[[float], str] = ",.0f",
) -> Measured:
    """Return a number of one or several runs; `show` is a format or a function."""
    ids = (runs.run_id,) if isinstance(runs, Run) else tuple(run.run_id for run in runs)
    shown = show(value) if callable(show) else f"{value:{show}}"
    return Measured(shown, value, Source(metric, ids, at, formula))


def merge_findings(
    findings: Iterable[tuple[str, Finding]], everyone: str = "", n_all: int = 0
) -> list[Finding]:
    """Return each finding once, about all its subjects; `everyone` is the name of all `n_all`.

    Findings are equal if their words and exact values are; the sources of their values are united.
    """
    same: dict[tuple[str, ...], tuple[list[str], Finding]] = {}
    for subject, one in findings:
        subjects, before = same.setdefault(_identity(one), ([], one))
        subjects.append(subject)
        same[_identity(one)] = (subjects, replace(before, values=_unite(before.values, one.values)))
    return [
        one.about(
            everyone
            if len(dict.fromkeys(subjects)) == n_all > 1
            else ", ".join(dict.fromkeys(subjects))
        )
        for subjects, one in same.values()
    ]


def _identity(one: Finding) -> tuple[str, ...]:
    exact = (
        repr(piece.value) if isinstance(piece, Measured) else piece for piece in one.values.values()
    )
    return (str(one), *exact)


def _unite(a: Mapping[str, Piece], b: Mapping[str, Piece]) -> dict[str, Piece]:
    united = dict(a)
    for name, before in a.items():
        value = b[name]
        if isinstance(before, Measured) and isinstance(value, Measured):
            runs = tuple(dict.fromkeys((*before.source.runs, *value.source.runs)))
            united[name] = replace(before, source=replace(before.source, runs=runs))
    return united
