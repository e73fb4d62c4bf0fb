"""The sources of a document's numbers: words for tooltips, and the table of an appendix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spectral_exp.results.document.model import Code, Figure, Inline, Source, Table, Text
from spectral_exp.results.document.numbering import Entry
from spectral_exp.results.finding import SAME
from spectral_exp.runs.run import Run


@dataclass(frozen=True)
class Trace:
    """The source of one number: a line of words, and the row of the appendix."""

    words: str
    anchor: str


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers in order, neighbours as spans: "1-5, 8"."""
    found: list[list[int]] = []
    for n in sorted(set(numbers)):
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}\u2013{b}" for a, b in found)


@dataclass(frozen=True)
class Runs:
    """The runs of a paper with the short numbers of the appendices: 1, 2, ..."""

    runs: Sequence[Run]

    def short(self, ids: Sequence[str]) -> str:
        """Return the numbers of runs as spans: "1-5, 8"; "all" for all."""
        places = {run.run_id: i for i, run in enumerate(self.runs, start=1)}
        numbers = {places[run_id] for run_id in ids}
        return "all" if len(numbers) == len(self.runs) > 1 else spans(numbers)

    def hashes(self, ids: Sequence[str]) -> str:
        """Return the configuration hashes of runs, each once."""
        wanted = set(ids)
        return ", ".join(
            dict.fromkeys(run.config_hash for run in self.runs if run.run_id in wanted)
        )


def traces(entries: Sequence[Entry], runs: Runs) -> dict[str, Trace]:
    """Return the source of each number by its id."""
    anchors = {key: f"p{i}" for i, key in enumerate(_group_entries(entries), start=1)}
    anchors |= {
        _key(entry): f"run-{runs.short(entry.number.source.runs)}"
        for entry in entries
        if _of_row(entry)
    }
    return {
        entry.number.id: Trace(
            f"{entry.number.shown}: {_describe(entry.number.source)}."
            f" {_run_words(entry.number.source, runs)}",
            anchors[_key(entry)],
        )
        for entry in entries
    }


def provenance_table(
    entries: Sequence[Entry], figures: Sequence[tuple[str, Figure]], runs: Runs, caption: Text
) -> Table:
    """Return the table of sources, with a row for the numbers of one place and the same runs."""
    rows: list[tuple[Text, ...]] = []
    groups = _group_entries(entries)
    for (place, ids), members in groups.items():
        rows_of = {entry.part.rpartition(": ")[0] for entry in members}
        row = rows_of.pop() if len(rows_of) == 1 else ""
        made: dict[tuple[str, str, str], list[str]] = {}
        for entry in members:
            source = entry.number.source
            made.setdefault((source.metric, source.at, source.formula), []).append(
                entry.number.shown
            )
        cell: list[Inline] = []
        last = ""
        for (metric, at, formula), shown in made.items():
            name = f"{metric} {at}".rstrip()
            cell.append("; " if cell else "")
            cell += [Code(name), " "] if name != last else []
            words = f"{formula} " if formula != SAME else ""
            cell.append(f"{words}{', '.join(dict.fromkeys(shown))}")
            last = name
        rows.append(((f"{place}, {row}" if row else place,), tuple(cell), (runs.short(ids),)))
    anchors = [f"p{i}" for i in range(1, len(groups) + 1)]
    for label, figure in figures:
        source = figure.source
        name = f"{source.metric} {source.at}".rstrip()
        rows.append(((label,), (Code(name), " all that is drawn"), (runs.short(source.runs),)))
        anchors.append(f"p{len(anchors) + 1}")
    return Table(
        "tab:provenance",
        caption,
        (("Place",), ("Read from, how, and the numbers",), ("Runs",)),
        tuple(rows),
        "lll",
        small=True,
        anchors=tuple(anchors),
        widths=(24, 76, 12),
    )


RUN_TABLE = "tab:runs"
"""The key of the table of runs."""

_Key = tuple[str, tuple[str, ...]]


def _key(entry: Entry) -> _Key:
    return entry.place, entry.number.source.runs


def _of_row(entry: Entry) -> bool:
    """Return whether the number is in the table of runs, whose row is its source."""
    return entry.table == RUN_TABLE


def _group_entries(entries: Sequence[Entry]) -> Mapping[_Key, list[Entry]]:
    groups: dict[_Key, list[Entry]] = {}
    for entry in (entry for entry in entries if not _of_row(entry)):
        groups.setdefault(_key(entry), []).append(entry)
    return groups


def _describe(source: Source) -> str:
    return f"{source.metric} {source.at}".rstrip() + f", {source.formula}"


def _run_words(source: Source, runs: Runs) -> str:
    if len(source.runs) == len(runs.runs) > 6:
        return f"All {len(source.runs)} runs"
    named = list(source.runs[:6])
    more = f" and {len(source.runs) - 6} more" if len(source.runs) > 6 else ""
    word = "Run" if len(source.runs) == 1 else "Runs"
    hashes = runs.hashes(source.runs)
    configuration = f"; configuration {hashes}" if hashes and hashes.count(",") < 3 else ""
    return f"{word} {', '.join(named)}{more}{configuration}" if named else "No run"
