"""The parts of a document: blocks, the text inside them, and numbers with their sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar, cast

from spectral_exp.core.foreign_text import printable, printable_lines
from spectral_exp.results.finding import Source as Source

_MAX_TEXT = 20_000  # characters of one piece of text


@dataclass(frozen=True)
class Number:
    """A number as it is printed, with its exact value and source; `number_entries` sets `id`."""

    shown: str
    value: float | int | str
    source: Source
    id: str = ""


@dataclass(frozen=True)
class Math:
    """A formula in the LaTeX of `formulas`; on a line of its own if `display`."""

    tex: str
    display: bool = False


@dataclass(frozen=True)
class Code:
    """Words in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Bold text."""

    runs: Text


@dataclass(frozen=True)
class Emphasis:
    """Text in italics."""

    runs: Text


@dataclass(frozen=True)
class Link:
    """Text with a link to an address."""

    runs: Text
    url: str


@dataclass(frozen=True)
class Cite:
    """Works of the bibliography, by key."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Ref:
    """The number of a table, figure or equation, by its key."""

    key: str


Inline: TypeAlias = "str | Number | Math | Code | Strong | Emphasis | Link | Cite | Ref"
Text: TypeAlias = "tuple[Inline, ...]"


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is a section. `named` headings (abstract, references) have no number."""

    text: str
    level: int = 1
    named: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A paragraph. `aside` marks a remark of the generator, such as that a section is empty."""

    text: Text
    aside: bool = False


@dataclass(frozen=True)
class Equation:
    """A numbered equation."""

    tex: str
    key: str


@dataclass(frozen=True)
class Listing:
    """A list of items."""

    items: tuple[Text, ...]
    ordered: bool = False


@dataclass(frozen=True)
class Verbatim:
    """Lines of code or output, as they are."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: the name that a `Ref` uses.
        caption: above the table.
        header: titles of the columns.
        rows: cells; the first one names the row.
        align: one letter for each column: l or r.
        notes: below the table.
        small: whether it is in small type and may take several pages.
        anchors: names of the rows for links, or empty.
        widths: relative widths of the columns of a small table; empty for those of its cells.
    """

    key: str
    caption: Text
    header: tuple[Text, ...]
    rows: tuple[tuple[Text, ...], ...]
    align: str
    notes: tuple[Text, ...] = ()
    small: bool = False
    anchors: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()


def column_titles(*names: str) -> tuple[Text, ...]:
    """Return the header of a table."""
    return tuple((name,) for name in names)


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        key: the name that a `Ref` uses.
        caption: below the drawing.
        files: the drawing by suffix: svg, pdf, png.
        width: share of the text's width.
        source: where its values come from.
    """

    key: str
    caption: Text
    files: Mapping[str, bytes]
    source: Source
    width: float = 1.0

    def file_name(self, suffix: str) -> str:
        """Return the drawing's file relative to the document."""
        return f"figures/{self.key.removeprefix('fig:')}.{suffix}"


@dataclass(frozen=True)
class References:
    """The list of cited works, in the order of their first citation."""


@dataclass(frozen=True)
class Appendix:
    """The beginning of the appendix, where sections are lettered."""


Block: TypeAlias = (
    "Heading | Paragraph | Equation | Listing | Verbatim | Table | Figure | References | Appendix"
)


@dataclass(frozen=True)
class Document:
    """A whole document.

    Attributes:
        title: of the document.
        authors: their names; may be empty.
        abstract: paragraphs.
        blocks: the rest, in order.
        abstract_title: the heading of the abstract.
    """

    title: str
    authors: tuple[str, ...]
    abstract: tuple[Paragraph, ...]
    blocks: tuple[Block, ...]
    abstract_title: str = "Abstract"


B = TypeVar("B", bound=Block)


def map_text(text: Text, change: Callable[[Inline], Inline]) -> Text:
    """Return `text` with `change` applied to everything in it, from left to right."""
    result: list[Inline] = []
    for run in text:
        if isinstance(run, Strong | Emphasis | Link):
            run = replace(run, runs=map_text(run.runs, change))
        result.append(change(run))
    return tuple(result)


def block_texts(block: Block) -> list[tuple[str, Text]]:
    """Return the texts of a block in order, each with its place in the block in words."""
    match block:
        case Paragraph():
            return [("", block.text)]
        case Listing():
            return [("", item) for item in block.items]
        case Figure():
            return [("caption", block.caption)]
        case Table():
            cells = [
                (f"{plain_text(row[0])}: {plain_text(title)}" if i else plain_text(title), cell)
                for row in block.rows
                for i, (title, cell) in enumerate(zip(block.header, row, strict=True))
            ]
            notes = [("note", note) for note in block.notes]
            return [("caption", block.caption), *cells, *notes]
    return []


def map_block(block: B, change: Callable[[str, Inline], Inline]) -> B:
    """Return `block` with `change` applied to its texts; `change` also gets the place in words."""
    changed = iter(
        [map_text(text, partial(change, place)) for place, text in block_texts(block)],
    )
    found: Block = block
    match block:
        case Paragraph():
            found = replace(block, text=next(changed))
        case Listing():
            found = replace(block, items=tuple(changed))
        case Figure():
            found = replace(block, caption=next(changed))
        case Table():
            caption = next(changed)
            rows = tuple(tuple(next(changed) for _ in row) for row in block.rows)
            found = replace(block, caption=caption, rows=rows, notes=tuple(changed))
    return cast("B", found)


def map_document(document: Document, change: Callable[[Inline], Inline]) -> Document:
    """Return the document with `change` applied to everything in its texts."""

    def map_one(block: B) -> B:
        return map_block(block, lambda _, run: change(run))

    abstract, blocks = tuple(map(map_one, document.abstract)), tuple(map(map_one, document.blocks))
    return replace(document, abstract=abstract, blocks=blocks)


def inlines(document: Document) -> list[Inline]:
    """Return everything in the texts of a document, in order."""
    found: list[Inline] = []

    def collect(run: Inline) -> Inline:
        found.append(run)
        return run

    map_document(document, collect)
    return found


def printable_document(document: Document) -> Document:
    """Return the document with escapes for control characters, which records may hold."""

    def clean(run: Inline) -> Inline:
        match run:
            case str():
                return printable(run, _MAX_TEXT)
            case Code():
                return Code(printable(run.text))
            case Number():
                return replace(run, shown=printable(run.shown))
        return run

    def clean_block(block: Block) -> Block:
        match block:
            case Heading():
                return replace(block, text=printable(block.text))
            case Verbatim():
                return replace(block, text=printable_lines(block.text, _MAX_TEXT))
        return block

    document = map_document(document, clean)
    return replace(
        document,
        title=printable(document.title),
        authors=tuple(map(printable, document.authors)),
        blocks=tuple(map(clean_block, document.blocks)),
    )


def plain_text(text: Text) -> str:
    """Return the words of `text` alone."""
    parts = []
    for run in text:
        match run:
            case str():
                parts.append(run)
            case Number():
                parts.append(run.shown)
            case Strong() | Emphasis() | Link():
                parts.append(plain_text(run.runs))
            case Code():
                parts.append(run.text)
            case Math():
                parts.append(run.tex)
    return "".join(parts)


def figures_of(document: Document) -> list[Figure]:
    """Return the figures of a document, in order."""
    return [block for block in document.blocks if isinstance(block, Figure)]


def join_texts(parts: Sequence[Text], last: str = " and ", between: str = ", ") -> Text:
    """Return `parts` with `between` between them, and `last` before the last."""
    result: list[Inline] = []
    for i, part in enumerate(parts):
        if i:
            result.append(last if i == len(parts) - 1 else between)
        result.extend(part)
    return tuple(result)


def code_list(names: Iterable[str], **marks: str) -> Text:
    """Return names in a fixed-width font, joined as by `join_texts`."""
    return join_texts([(Code(name),) for name in names], **marks)
