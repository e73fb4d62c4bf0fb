"""A document as Markdown, as GitHub and most editors show it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spectral_exp.results.document.bibliography import work
from spectral_exp.results.document.model import (
    Code,
    Document,
    Figure,
    Heading,
    Inline,
    Number,
    Table,
    Text,
    map_text,
)
from spectral_exp.results.document.writer import Writer


def markdown(document: Document) -> str:
    """Return the whole document; figures are referred to as files beside it."""
    return _MarkdownWriter(document).write()


class _MarkdownWriter(Writer):
    template = "document.md"
    strong = "**%s**"
    emphasis = "*%s*"

    def escape(self, text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>$#|~])", r"\\\1", text)

    def authors(self, names: Sequence[str]) -> str:
        return self.escape(", ".join(names)) + "\n\n"

    def heading(self, heading: Heading, number: str) -> str:
        words = f"{'#' * (heading.level + 1)} {number} {self.escape(heading.text)}"
        return words.replace("  ", " ")

    def paragraph(self, words: str, aside: bool) -> str:
        return f"> {words}" if aside else words

    def equation(self, tex: str, key: str, number: str) -> str:
        return f"$$\n{tex} \\qquad ({number})\n$$"

    def listing(self, items: Sequence[str], ordered: bool) -> str:
        marks = [f"{n}." if ordered else "-" for n in range(1, len(items) + 1)]
        return "\n".join(map(" ".join, zip(marks, items, strict=True)))

    def verbatim(self, text: str) -> str:
        fence = "`" * max(3, _ticks_around(text))
        return f"{fence}\n{text}\n{fence}"

    def table(self, table: Table, label: str) -> str:
        rule = " | ".join("---:" if side == "r" else ":---" for side in table.align)
        rows = [self._row(table.header), f"| {rule} |", *map(self._row, table.rows)]
        caption = f"**{label}.** {self.text(table.caption)}"
        return "\n\n".join([caption, "\n".join(rows), *map(self.text, table.notes)])

    def _row(self, cells: tuple[Text, ...]) -> str:
        return f"| {' | '.join(self.text(map_text(cell, _without_pipe)) for cell in cells)} |"

    def figure(self, figure: Figure, label: str) -> str:
        file = figure.file_name(self.drawing(figure))
        return f"![{label}]({file})\n\n**{label}.** {self.text(figure.caption)}"

    def references(self, keys: Sequence[str]) -> str:
        works = map(work, keys)
        return "\n".join(
            f"{n}. {self.escape(item.line)}" + (f" <{item.url}>" if item.url else "")
            for n, item in enumerate(works, start=1)
        )

    def number(self, number: Number) -> str:
        return self.escape(number.shown)

    def math(self, tex: str, display: bool) -> str:
        return f"\n$$\n{tex}\n$$\n" if display else f"${tex}$"

    def code(self, text: str) -> str:
        ticks = "`" * _ticks_around(text)
        space = " " if text[:1] == "`" or text[-1:] == "`" else ""
        return f"{ticks}{space}{text}{space}{ticks}"

    def link(self, words: str, url: str) -> str:
        return f"[{words}]({url})"

    def cite(self, keys: Sequence[str]) -> str:
        return f"[{', '.join(self.citation_numbers(keys))}]"

    def ref(self, key: str, label: str) -> str:
        return label


def _ticks_around(text: str) -> int:
    """Return one more than the longest run of ticks in `text`."""
    return 1 + max(map(len, re.findall("`+", text)), default=0)


def _without_pipe(run: Inline) -> Inline:
    """Return plain text for code with a pipe, which would end the cell of a table."""
    return run.text if isinstance(run, Code) and "|" in run.text else run
