"""A document as Markdown, as GitHub and most editors show it."""

from __future__ import annotations

import re

from spectral_exp.results.document.bibliography import work
from spectral_exp.results.document.model import (
    Appendix,
    Block,
    Cite,
    Code,
    Document,
    Emphasis,
    Equation,
    Figure,
    Heading,
    Inline,
    Link,
    Listing,
    Math,
    Number,
    Numbering,
    Paragraph,
    Ref,
    References,
    Strong,
    Table,
    Text,
    Verbatim,
    map_text,
    numbering,
)


def markdown(document: Document) -> str:
    """The whole document; figures are referred to as files beside it."""
    names = numbering(document)
    parts = [f"# {_escaped(document.title)}"]
    if document.authors:
        parts.append(_escaped(", ".join(document.authors)))
    parts.append(f"## {document.abstract_title}")
    parts += [_text(paragraph.text, names) for paragraph in document.abstract]
    parts += [part for i, block in enumerate(document.blocks) if (part := _block(i, block, names))]
    return "\n\n".join(parts) + "\n"


def _block(i: int, block: Block, names: Numbering) -> str:
    if isinstance(block, Heading):
        return f"{'#' * (block.level + 1)} {names.sections.get(i, '')} {_escaped(block.text)}".replace("  ", " ")
    if isinstance(block, Paragraph):
        words = _text(block.text, names)
        return f"> {words}" if block.aside else words
    if isinstance(block, Equation):
        return f"$$\n{block.tex} \\qquad ({names.number(block.key)})\n$$"
    if isinstance(block, Listing):
        marks = [f"{n}." if block.ordered else "-" for n in range(1, len(block.items) + 1)]
        return "\n".join(f"{mark} {_text(item, names)}" for mark, item in zip(marks, block.items, strict=True))
    if isinstance(block, Verbatim):
        # One tick more than any run of ticks inside.
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
        return f"{fence}\n{block.text}\n{fence}"
    if isinstance(block, Table):
        return _table(block, names)
    if isinstance(block, Figure):
        caption = f"**{names.labels[block.key]}.** {_text(block.caption, names)}"
        return f"![{names.labels[block.key]}]({block.name('svg' if 'svg' in block.files else 'png')})\n\n{caption}"
    if isinstance(block, References):
        return "\n".join(_reference(n, key) for n, key in enumerate(names.cited, start=1))
    assert isinstance(block, Appendix)
    return ""


def _table(table: Table, names: Numbering) -> str:
    def row(cells: tuple[Text, ...]) -> str:
        return "| " + " | ".join(_text(map_text(cell, _without_pipe), names) for cell in cells) + " |"

    rule = "| " + " | ".join("---:" if side == "r" else ":---" for side in table.align) + " |"
    lines = [row(table.header), rule, *(row(cells) for cells in table.rows)]
    caption = f"**{names.labels[table.key]}.** {_text(table.caption, names)}"
    notes = ["\n".join(lines), *(_text(note, names) for note in table.notes)]
    return "\n\n".join([caption, *notes])


def _without_pipe(run: Inline) -> Inline:
    """Plain text for code with a pipe, which would end the cell of a table."""
    return run.text if isinstance(run, Code) and "|" in run.text else run


def _reference(n: int, key: str) -> str:
    item = work(key)
    return f"{n}. {_escaped(item.line)}" + (f" <{item.url}>" if item.url else "")


def _text(text: Text, names: Numbering) -> str:
    return "".join(_inline(run, names) for run in text)


def _inline(run: Inline, names: Numbering) -> str:
    if isinstance(run, str):
        return _escaped(run)
    if isinstance(run, Number):
        return _escaped(run.shown)
    if isinstance(run, Math):
        return f"\n$$\n{run.tex}\n$$\n" if run.display else f"${run.tex}$"
    if isinstance(run, Code):
        # More ticks than any run of ticks inside, and a space where one would touch them.
        ticks = "`" * (1 + max(map(len, re.findall("`+", run.text)), default=0))
        space = " " if run.text[:1] == "`" or run.text[-1:] == "`" else ""
        return f"{ticks}{space}{run.text}{space}{ticks}"
    if isinstance(run, Strong):
        return f"**{_text(run.runs, names)}**"
    if isinstance(run, Emphasis):
        return f"*{_text(run.runs, names)}*"
    if isinstance(run, Link):
        return f"[{_text(run.runs, names)}]({run.url})"
    if isinstance(run, Cite):
        return "[" + ", ".join(str(names.cited.index(key) + 1) for key in run.keys) + "]"
    assert isinstance(run, Ref)
    return names.labels[run.key]


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>$#|~])", r"\\\1", text)
