"""What a check found, as data: its kind, its words, and the values in them with their sources."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from spectral_exp.runs.run import Run

SAME = "the value itself"
"""The formula of what a run has once."""

Severity: TypeAlias = Literal["info", "warning"]
"""`info` explains what is shown; a `warning` limits what may be concluded from it."""


@dataclass(frozen=True)
class Source:
    """Where a number comes from.

    Attributes:
        metric: what was read: a metric, a setting's dotted name, or an entry of `config.json` or `results.json`.
        runs: ids of the runs.
        at: which value of each run (`final`, `best`, `step:N`); empty for what a run has once.
        formula: how one number was made from those of the runs.
    """

    metric: str
    runs: tuple[str, ...]
    at: str = ""
    formula: str = SAME


@dataclass(frozen=True)
class Measured:
    """A number in the words of a finding, as it is shown there, with its exact value and its source."""

    shown: str
    value: float | int
    source: Source


Piece: TypeAlias = "str | Measured"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        kind: what sort of thing, the same for all findings of one check.
        heading: what it is; `{name}` stands for one of `values`. Digits written here are constants, not measured.
        detail: in what it shows, likewise; may be empty.
        values: numbers with their sources, and words that a run recorded.
        subject: the runs or groups that it is about, where what holds it does not say so.
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
        return (*self.heading_pieces(), ": ", *self.detail_pieces()) if self.detail else self.heading_pieces()

    def heading_pieces(self) -> tuple[Piece, ...]:
        """The heading as words and numbers."""
        return self._filled(self.heading)

    def detail_pieces(self) -> tuple[Piece, ...]:
        """The detail as words and numbers."""
        return self._filled(self.detail)

    def about(self, subject: str) -> Finding:
        """The same finding, about `subject`."""
        return replace(self, subject=subject)

    def _filled(self, template: str) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for words, name, _, _ in string.Formatter().parse(template):
            pieces += [words] if words else []
            pieces += [self.values[name]] if name is not None else []
        return tuple(pieces)


def finding(kind: str, heading: str, detail: str = "", *, severity: Severity = "warning", **values: Piece) -> Finding:
    """A finding whose `values` are given by name."""
    return Finding(kind, heading, detail, values, severity=severity)


def sourced(
    value: float,
    metric: str,
    runs: Run | Iterable[Run],
    formula: str = SAME,
    *,
    at: str = "",
    show: str | Callable[[float], str] = ",.0f",
) -> Measured:
    """A number of one or several runs; `show` is a format or makes the words."""
    ids = (runs.run_id,) if isinstance(runs, Run) else tuple(run.run_id for run in runs)
    shown = show(value) if callable(show) else f"{value:{show}}"
    return Measured(shown, value, Source(metric, ids, at, formula))


def together(findings: Iterable[tuple[str, Finding]], everyone: str = "", n_all: int = 0) -> list[Finding]:
    """Each finding once, about all the subjects that share it; `everyone` is what all `n_all` of them are called.

    Findings are the same if their words and exact values are; the sources of the values are then united.
    """
    same: dict[tuple[str, ...], tuple[list[str], Finding]] = {}
    for subject, one in findings:
        subjects, before = same.setdefault(_identity(one), ([], one))
        subjects.append(subject)
        same[_identity(one)] = (subjects, replace(before, values=_united(before.values, one.values)))
    return [
        one.about(everyone if len(dict.fromkeys(subjects)) == n_all > 1 else ", ".join(dict.fromkeys(subjects)))
        for subjects, one in same.values()
    ]


def _identity(one: Finding) -> tuple[str, ...]:
    exact = (repr(piece.value) if isinstance(piece, Measured) else piece for piece in one.values.values())
    return (str(one), *exact)


def _united(a: Mapping[str, Piece], b: Mapping[str, Piece]) -> dict[str, Piece]:
    united = dict(a)
    for name, before in a.items():
        value = b[name]
        if isinstance(before, Measured) and isinstance(value, Measured):
            runs = tuple(dict.fromkeys((*before.source.runs, *value.source.runs)))
            united[name] = replace(before, source=replace(before.source, runs=runs))
    return united
