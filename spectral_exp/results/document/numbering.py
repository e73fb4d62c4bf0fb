"""The numbers of a document's sections, floats and works, and the places of measured numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.results.document.model import (
    Appendix,
    B,
    Block,
    Cite,
    Document,
    Equation,
    Figure,
    Heading,
    Inline,
    Number,
    Ref,
    Table,
    inlines,
    map_block,
)


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
        """Return the bare number of a table, figure or equation."""
        return self.labels[key].rpartition(" ")[2]


def number_document(document: Document) -> Numbering:
    """Number sections, tables, figures, equations and citations.

    Raises:
        UserError: a reference names no table, figure or equation, or two of them have one key.
    """
    labels = _number_floats(document.blocks)
    cited: dict[str, None] = {}
    for run in inlines(document):
        if isinstance(run, Cite):
            cited.update(dict.fromkeys(run.keys))
        elif isinstance(run, Ref) and run.key not in labels:
            raise UserError(
                f"[#{run.key}] refers to nothing in the document{nearest(run.key, labels)}; known:"
                f" {', '.join(labels)}"
            )
    return Numbering(labels, _number_sections(document.blocks), tuple(cited))


def _number_floats(blocks: Sequence[Block]) -> dict[str, str]:
    """Return the labels of tables, figures and equations by their keys."""
    labels: dict[str, str] = {}
    counts = Counter[str]()
    for block in blocks:
        if isinstance(block, Table | Figure | Equation):
            word = type(block).__name__
            if block.key in labels:
                raise UserError(f"the key {block.key} is used twice; rename one")
            counts[word] += 1
            labels[block.key] = f"{word} {counts[word]}"
    return labels


def _number_sections(blocks: Sequence[Block]) -> dict[int, str]:
    """Return the numbers of headings by their places among the blocks."""
    sections, section, subsection, lettered = {}, 0, 0, False
    for i, block in enumerate(blocks):
        if isinstance(block, Appendix):
            section, lettered = 0, True
        elif isinstance(block, Heading) and not block.named:
            is_section = block.level == 1
            section, subsection = (section + 1, 0) if is_section else (section, subsection + 1)
            first = chr(ord("A") + section - 1) if lettered else str(section)
            sections[i] = first if is_section else f"{first}.{subsection}"
    return sections


@dataclass(frozen=True)
class Entry:
    """A measured number and where it stands.

    Attributes:
        number: the number, with its id.
        place: the section, table or figure.
        part: the row and the column of a table, the caption or a note; empty for a paragraph.
        table: the key of the table, or empty.
    """

    number: Number
    place: str
    part: str = ""
    table: str = ""

    @property
    def where(self) -> str:
        """The whole place in words."""
        return f"{self.place}, {self.part}" if self.part else self.place


def number_entries(document: Document) -> tuple[Document, list[Entry]]:
    """Return the document with an id for every measured number, and the numbers in order."""
    entries: list[Entry] = []
    names = number_document(document)

    def visit(place: str, block: B) -> B:
        def add_id(part: str, run: Inline) -> Inline:
            if not isinstance(run, Number):
                return run
            run = replace(run, id=f"n{len(entries) + 1}")
            entries.append(Entry(run, place, part, block.key if isinstance(block, Table) else ""))
            return run

        return map_block(block, add_id)

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
