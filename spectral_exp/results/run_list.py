"""Runs with their marks as a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spectral_exp.core.wording import format_count
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.table_data import as_csv, as_json
from spectral_exp.results.table_formats import Cell, TableReport, TextTable
from spectral_exp.results.tables import notes_on_choice
from spectral_exp.runs.run import Run

FORMATS = ("table", "csv", "json")

_COLUMNS = ("run", "status", "step", "mark", "tags", "note")
_MAX_NOTE = 60  # characters in a table


def render_list(found: ResultsAggregator, form: str) -> str:
    """Return a line for each run, pinned ones first, in one of `FORMATS`."""
    runs = sorted(found.runs, key=lambda run: not run.marks.is_pinned)
    if form == "json":
        values = [_values(run) for run in runs]
        return as_json({"runs": values}, found.left_out, found.archived_note)
    if form == "csv":
        return as_csv([{**_values(run), "tags": ",".join(run.marks.tags)} for run in runs])
    notes = notes_on_choice(found.left_out, found.archived_note, runs)
    return TableReport([_table(runs)], notes).render("table")


def _values(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        "name": run.name,
        "seed": run.seed,
        "status": run.status,
        "step": run.last_step,
        "pinned": run.marks.is_pinned,
        "archived": run.marks.is_archived,
        "tags": list(run.marks.tags),
        "note": run.marks.note,
        "problems": "; ".join(run.problems),
    }


def _table(runs: Sequence[Run]) -> TextTable:
    rows = [
        [
            Cell(str(run.path)),
            Cell(run.status),
            Cell(str(run.last_step)),
            Cell(", ".join(_flags(run))),
            Cell(", ".join(run.marks.tags)),
            Cell(_first_line(run.marks.note)),
        ]
        for run in runs
    ]
    # A column without entries is left out.
    used = [i for i in range(len(_COLUMNS)) if i < 3 or any(row[i].text for row in rows)]
    return TextTable(
        format_count(len(runs), "run"),
        [_COLUMNS[i] for i in used],
        [[row[i] for i in used] for row in rows],
        n_texts=len(used),
    )


def _flags(run: Run) -> list[str]:
    marks = run.marks
    flags = {"pinned": marks.is_pinned, "archived": marks.is_archived}
    return [name for name, is_set in flags.items() if is_set]


def _first_line(note: str) -> str:
    line = note.partition("\n")[0]
    is_whole = line == note and len(line) <= _MAX_NOTE
    return line if is_whole else f"{line[:_MAX_NOTE].rstrip()} ..."
