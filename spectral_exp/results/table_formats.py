"""Tables with notes as text for a terminal, Markdown and LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from spectral_exp.core.foreign_text import printable
from spectral_exp.results.document.latex import escape_latex

WIDTH = 100
"""Columns that a terminal table keeps to, if its labels are short enough."""

VERDICT = "verdict"
"""The title of a last column that holds words."""

MAX_NOTE = 4000  # characters
_MAX_CELL = 200  # characters


@dataclass(frozen=True)
class Cell:
    """One entry; `bold` marks what is statistically separated."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table; the first `n_texts` columns and a verdict hold words, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    n_texts: int = 1

    def is_text(self, column: int) -> bool:
        """Return whether a column holds words, which are aligned to the left."""
        return column < self.n_texts or self.columns[column] == VERDICT

    def printable(self) -> TextTable:
        """Return the table with escapes for control characters from records."""
        return TextTable(
            printable(self.caption),
            [printable(column, _MAX_CELL) for column in self.columns],
            [
                [Cell(printable(cell.text, _MAX_CELL), cell.bold) for cell in row]
                for row in self.rows
            ],
            self.n_texts,
        )


@dataclass(frozen=True)
class TableReport:
    """Tables, and below them notes by title."""

    tables: list[TextTable] = field(default_factory=list)
    notes: list[tuple[str, list[str]]] = field(default_factory=list)

    def render(self, form: str) -> str:
        """Return the report in one of `FORMS`."""
        write_table, write_notes = FORMS[form]
        blocks = [write_table(table.printable()) for table in self.tables]
        for title, notes in self.notes:
            if notes:
                lines = [printable(note, MAX_NOTE) for note in notes]
                blocks.append("\n".join(write_notes(printable(title), lines)))
        return "\n\n".join(blocks) + "\n"


# --- terminal -----------------------------------------------------------------------------


def _text_table(table: TextTable) -> str:
    rows = [list(table.columns), *([cell.text for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    gap = "  " if sum(widths) + 2 * len(widths) <= WIDTH else " "
    lines = [table.caption]
    for row in rows:
        cells = [
            f"{text:<{width}}" if table.is_text(i) else f"{text:>{width}}"
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {gap.join(cells)}".rstrip())
    return "\n".join(lines)


_WRAPPER = textwrap.TextWrapper(
    WIDTH,
    initial_indent="  ",
    subsequent_indent="    ",
    break_long_words=False,
    break_on_hyphens=False,
)


def _text_notes(title: str, notes: Sequence[str]) -> list[str]:
    return [f"{title}:", *map(_WRAPPER.fill, notes)]


# --- Markdown -----------------------------------------------------------------------------


def _markdown_table(table: TextTable) -> str:
    marks = ["---" if table.is_text(i) else "---:" for i in range(len(table.columns))]
    lines = [
        f"**{_escape_markdown(table.caption)}**",
        "",
        _markdown_row(map(_escape_markdown, table.columns)),
        _markdown_row(marks),
    ]
    lines += [_markdown_row(map(_markdown_cell, row)) for row in table.rows]
    return "\n".join(lines)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


def _markdown_notes(title: str, notes: Sequence[str]) -> list[str]:
    return [f"{title.capitalize()}:", "", *(f"- {_markdown_note(note)}" for note in notes)]


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*|<\[\]])", r"\\\1", text)


def _markdown_note(text: str) -> str:
    """Return a note that makes no heading, quotation or list of its own."""
    return re.sub(r"^\s*(?=[#>+=~-])", r"\\", _escape_markdown(text))


# --- LaTeX --------------------------------------------------------------------------------


def _latex_table(table: TextTable) -> str:
    """Return a table with the rules of the package booktabs."""
    alignment = "".join("l" if table.is_text(i) else "r" for i in range(len(table.columns)))
    rows = [
        [_latex_cell(cell, table.is_text(i)) for i, cell in enumerate(row)] for row in table.rows
    ]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.caption)}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        _latex_row(map(escape_latex, table.columns)),
        r"    \midrule",
        *map(_latex_row, rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell, is_text: bool) -> str:
    text = escape_latex(cell.text)
    if not is_text:
        text = re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)
    return rf"\textbf{{{text}}}" if cell.bold else text


def _latex_notes(title: str, notes: Sequence[str]) -> list[str]:
    items = [rf"  \item {escape_latex(note)}" for note in notes]
    heading = rf"\paragraph{{{escape_latex(title.capitalize())}}}"
    return [heading, r"\begin{itemize}", *items, r"\end{itemize}"]


FORMS: dict[
    str, tuple[Callable[[TextTable], str], Callable[[str, Sequence[str]], Sequence[str]]]
] = {
    "table": (_text_table, _text_notes),
    "markdown": (_markdown_table, _markdown_notes),
    "latex": (_latex_table, _latex_notes),
}
"""The writers of a table and of a titled list of notes, by the name of the format."""
