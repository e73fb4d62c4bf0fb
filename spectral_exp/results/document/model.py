"""What a paper is made of: blocks, the text inside them, and numbers that know where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.core.foreign_text import printable, printable_lines
from spectral_exp.results.finding import Source as Source

_MAX_TEXT = 20_000  # characters of one piece of text


@dataclass(frozen=True)
class Number:
    """A number as it is printed, with its exact value and its source; `id` is given by `numbered`."""

    shown: str
    value: float | int | str
    source: Source
    id: str = ""


@dataclass(frozen=True)
class Math:
    """A formula in the LaTeX that `formulas` knows; on a line of its own if `display`."""

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
    """Text that leads to an address."""

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
    """A paragraph. `aside` marks a remark of the generator, for example that a section has no data."""

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
        key: what `Ref` names it by.
        caption: above it; says what the numbers are.
        header: of the columns.
        rows: cells; the first one of a row names it.
        align: one letter for each column: l or r.
        notes: below it.
        small: whether to print it in small type; such a table may take several pages.
        anchors: one for each row that others point to, or empty.
        widths: of the columns of a small table, relative to each other; empty for the widths of what they hold.
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


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        key: what `Ref` names it by.
        caption: below it.
        files: its drawings by suffix: svg, pdf, png.
        width: share of the text's width.
        source: what it was drawn from.
    """

    key: str
    caption: Text
    files: Mapping[str, bytes]
    source: Source
    width: float = 1.0

    def name(self, suffix: str) -> str:
        """The file in which the drawing is kept, relative to the paper."""
        return f"figures/{self.key.removeprefix('fig:')}.{suffix}"


@dataclass(frozen=True)
class References:
    """The works that were cited, in the order of their first citation."""


@dataclass(frozen=True)
class Appendix:
    """From here on sections are lettered."""


Block: TypeAlias = "Heading | Paragraph | Equation | Listing | Verbatim | Table | Figure | References | Appendix"


@dataclass(frozen=True)
class Document:
    """A whole paper.

    Attributes:
        title: of the paper.
        authors: their names; may be empty.
        abstract: paragraphs.
        blocks: the rest, in order.
        abstract_title: what stands above the abstract.
    """

    title: str
    authors: tuple[str, ...]
    abstract: tuple[Paragraph, ...]
    blocks: tuple[Block, ...]
    abstract_title: str = "Abstract"


T = TypeVar("T", bound=Block)


def map_text(text: Text, change: Callable[[Inline], Inline]) -> Text:
    """`text` with `change` applied to everything in it, from left to right."""
    result: list[Inline] = []
    for run in text:
        if isinstance(run, Strong | Emphasis | Link):
            run = replace(run, runs=map_text(run.runs, change))
        result.append(change(run))
    return tuple(result)


def texts(block: Block) -> list[tuple[str, Text]]:
    """All texts of a block in their order, each with the words that say where in the block it stands."""
    if isinstance(block, Paragraph):
        return [("", block.text)]
    if isinstance(block, Listing):
        return [("", item) for item in block.items]
    if isinstance(block, Figure):
        return [("caption", block.caption)]
    if isinstance(block, Table):
        cells = [
            (f"{plain(row[0])}: {plain(title)}" if i else plain(title), cell)
            for row in block.rows
            for i, (title, cell) in enumerate(zip(block.header, row, strict=True))
        ]
        return [("caption", block.caption), *cells, *(("note", note) for note in block.notes)]
    return []


def map_block(block: Block, change: Callable[[str, Inline], Inline]) -> Block:
    """`block` with `change` applied to all its text; `change` is told where in the block it stands."""
    changed = iter([map_text(text, lambda run, p=place: change(p, run)) for place, text in texts(block)])  # type: ignore[misc]
    if isinstance(block, Paragraph):
        return replace(block, text=next(changed))
    if isinstance(block, Listing):
        return replace(block, items=tuple(changed))
    if isinstance(block, Figure):
        return replace(block, caption=next(changed))
    if isinstance(block, Table):
        caption = next(changed)
        rows = tuple(tuple(next(changed) for _ in row) for row in block.rows)
        return replace(block, caption=caption, rows=rows, notes=tuple(changed))
    return block


def printable_document(document: Document) -> Document:
    """The document with escapes for control characters in all that is printed of it, whatever records say."""

    def clean(run: Inline) -> Inline:
        if isinstance(run, str):
            return printable(run, _MAX_TEXT)
        if isinstance(run, Code):
            return Code(printable(run.text))
        return replace(run, shown=printable(run.shown)) if isinstance(run, Number) else run

    def clean_block(block: T) -> T:
        if isinstance(block, Heading):
            return replace(block, text=printable(block.text))
        if isinstance(block, Verbatim):
            return replace(block, text=printable_lines(block.text, _MAX_TEXT))
        return map_block(block, lambda _, run: clean(run))  # type: ignore[return-value]

    return replace(
        document,
        title=printable(document.title),
        authors=tuple(map(printable, document.authors)),
        abstract=tuple(map(clean_block, document.abstract)),
        blocks=tuple(map(clean_block, document.blocks)),
    )


def plain(text: Text) -> str:
    """The words of `text` alone."""
    parts = []
    for run in text:
        if isinstance(run, str):
            parts.append(run)
        elif isinstance(run, Number):
            parts.append(run.shown)
        elif isinstance(run, Strong | Emphasis | Link):
            parts.append(plain(run.runs))
        elif isinstance(run, Code):
            parts.append(run.text)
        elif isinstance(run, Math):
            parts.append(run.tex)
    return "".join(parts)


@dataclass(frozen=True)
class Numbering:
    """The numbers that things have in a document.

    Attributes:
        labels: "Table 1", "Figure 2", "Equation 3" by key.
        sections: the number of each heading by its place among the blocks: "2.1", "A".
        cited: keys of the works cited, in the order of their first citation.
    """

    labels: Mapping[str, str]
    sections: Mapping[int, str]
    cited: tuple[str, ...]

    def number(self, key: str) -> str:
        """The bare number of a table, figure or equation."""
        return self.labels[key].rpartition(" ")[2]


def numbering(document: Document) -> Numbering:
    """Number sections, tables, figures, equations and citations.

    Raises:
        UserError: a reference to what is not there.
        KeyError: a key used twice, which is a mistake of ours.
    """
    kinds: tuple[tuple[type[Table] | type[Figure] | type[Equation], str], ...] = (
        (Table, "Table"),
        (Figure, "Figure"),
        (Equation, "Equation"),
    )
    labels: dict[str, str] = {}
    counts = dict.fromkeys((word for _, word in kinds), 0)
    sections, section, subsection, lettered = {}, 0, 0, False
    for i, block in enumerate(document.blocks):
        if isinstance(block, Appendix):
            section, lettered = 0, True
        elif isinstance(block, Heading) and not block.named:
            section, subsection = (section + 1, 0) if block.level == 1 else (section, subsection + 1)
            first = chr(ord("A") + section - 1) if lettered else str(section)
            sections[i] = first if block.level == 1 else f"{first}.{subsection}"
        for kind, word in kinds:
            if isinstance(block, Table | Figure | Equation) and isinstance(block, kind):
                if block.key in labels:
                    raise KeyError(f"{block.key} is the key of two things")
                counts[word] += 1
                labels[block.key] = f"{word} {counts[word]}"
    cited: dict[str, None] = {}
    for run in inlines(document):
        if isinstance(run, Cite):
            cited.update(dict.fromkeys(run.keys))
        elif isinstance(run, Ref) and run.key not in labels:
            raise UserError(
                f"[#{run.key}] refers to nothing in the document{nearest(run.key, labels)}; known: {', '.join(labels)}"
            )
    return Numbering(labels, sections, tuple(cited))


def inlines(document: Document) -> list[Inline]:
    """Everything in the texts of a document, in order."""
    found: list[Inline] = []

    def note(_: str, run: Inline) -> Inline:
        found.append(run)
        return run

    for block in (*document.abstract, *document.blocks):
        map_block(block, note)
    return found


@dataclass(frozen=True)
class Entry:
    """A number of the document.

    Attributes:
        number: the number, with its id.
        place: the section, table or figure it stands in.
        part: where in that: the row and the column of a table.
        table: the key of the table it stands in, or empty.
    """

    number: Number
    place: str
    part: str = ""
    table: str = ""

    @property
    def where(self) -> str:
        """The whole place in words."""
        return f"{self.place}, {self.part}" if self.part else self.place


def numbered(document: Document) -> tuple[Document, list[Entry]]:
    """The document with an id for every number, and all of them with their places, in order."""
    entries: list[Entry] = []
    names = numbering(document)

    def visit(place: str, block: T) -> T:
        def change(part: str, run: Inline) -> Inline:
            if not isinstance(run, Number):
                return run
            run = replace(run, id=f"n{len(entries) + 1}")
            entries.append(Entry(run, place, part, block.key if isinstance(block, Table) else ""))
            return run

        return map_block(block, change)  # type: ignore[return-value]

    abstract = tuple(visit(document.abstract_title, paragraph) for paragraph in document.abstract)
    blocks: list[Block] = []
    section = ""
    for i, block in enumerate(document.blocks):
        if isinstance(block, Heading):
            number = names.sections.get(i)
            section = f"Section {number} ({block.text})" if number else block.text
        place = names.labels[block.key] if isinstance(block, Table | Figure) else section
        blocks.append(visit(place, block))
    return replace(document, abstract=abstract, blocks=tuple(blocks)), entries


def figures_of(document: Document) -> list[Figure]:
    """The figures of a document, in order."""
    return [block for block in document.blocks if isinstance(block, Figure)]


def joined(parts: Sequence[Text], last: str = " and ", between: str = ", ") -> Text:
    """`parts` with `between` between them, and `last` before the last."""
    result: list[Inline] = []
    for i, part in enumerate(parts):
        if i:
            result.append(last if i == len(parts) - 1 else between)
        result.extend(part)
    return tuple(result)
