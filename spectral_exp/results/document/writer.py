"""The walk through a document that all formats share; a subclass adds the syntax of its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import ClassVar

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
    Paragraph,
    Ref,
    References,
    Strong,
    Table,
    Text,
    Verbatim,
    plain_text,
)
from spectral_exp.results.document.numbering import number_document
from spectral_exp.results.document.trace import Trace

_NARROWEST, _WIDEST = 6, 48  # letters of a column that shares the width of a page


def read_template(name: str) -> str:
    """Return a file of the folder `templates`."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


class Writer(ABC):
    """Writes one document in one format.

    The base class decides what is written in which order, numbers it, and fills the template.
    Subclasses implement a method per block and per inline element.

    Attributes:
        template: the file in `templates` that holds the page.
        separator: what stands between two blocks.
        vector_format: the suffix of the drawings that the format prefers to PNG.
        strong, emphasis: bold words and words in italics, with %s for the words.
        traces: the source of each number by its id, for formats that show it.
    """

    template: ClassVar[str]
    separator: ClassVar[str] = "\n\n"
    vector_format: ClassVar[str] = "svg"
    strong: ClassVar[str]
    emphasis: ClassVar[str]

    def __init__(self, document: Document, traces: Mapping[str, Trace] | None = None) -> None:
        self.document = document
        self.traces = traces or {}
        self.names = number_document(document)

    def write(self) -> str:
        """Return the whole document."""
        return Template(read_template(self.template)).substitute(self.fields())

    def fields(self) -> dict[str, str]:
        """Return what the template's placeholders stand for."""
        document = self.document
        blocks = [self.block(i, block) for i, block in enumerate(document.blocks)]
        return {
            "title": self.escape(document.title),
            "authors": self.authors(document.authors) if document.authors else "",
            "abstract_title": document.abstract_title,
            "abstract": self.separator.join(self.block(-1, each) for each in document.abstract),
            "body": self.separator.join(filter(None, blocks)),
        }

    def block(self, index: int, block: Block) -> str:
        """Return one block; `index` is its place among the document's blocks."""
        match block:
            case Heading():
                return self.heading(block, self.names.sections.get(index, ""))
            case Paragraph():
                return self.paragraph(self.text(block.text), block.aside)
            case Equation():
                return self.equation(block.tex, block.key, self.names.number(block.key))
            case Listing():
                return self.listing([self.text(item) for item in block.items], block.ordered)
            case Verbatim():
                return self.verbatim(block.text)
            case Table():
                return self.table(block, self.names.labels[block.key])
            case Figure():
                return self.figure(block, self.names.labels[block.key])
            case References():
                return self.references(self.names.cited)
            case Appendix():
                return self.appendix()

    def text(self, text: Text) -> str:
        """Return the inline elements of a text, joined."""
        return "".join(map(self.inline, text))

    def inline(self, run: Inline) -> str:
        """Return one inline element."""
        match run:
            case str():
                return self.words(run)
            case Number():
                return self.number(run)
            case Math():
                return self.math(run.tex, run.display)
            case Code():
                return self.code(run.text)
            case Strong():
                return self.strong % self.text(run.runs)
            case Emphasis():
                return self.emphasis % self.text(run.runs)
            case Link():
                return self.link(self.text(run.runs), run.url)
            case Cite():
                return self.cite(run.keys)
            case Ref():
                return self.ref(run.key, self.names.labels[run.key])

    def citation_numbers(self, keys: Sequence[str]) -> list[str]:
        """Return the numbers of works in the list of references."""
        return [str(self.names.cited.index(key) + 1) for key in keys]

    def drawing(self, figure: Figure) -> str:
        """Return the suffix of the figure's file that this format includes."""
        return self.vector_format if self.vector_format in figure.files else "png"

    def words(self, text: str) -> str:
        """Return plain words."""
        return self.escape(text)

    @abstractmethod
    def escape(self, text: str) -> str:
        """Return `text` so that nothing in it is markup."""

    @abstractmethod
    def authors(self, names: Sequence[str]) -> str:
        """Return the line of authors, with what separates it from the abstract."""

    @abstractmethod
    def heading(self, heading: Heading, number: str) -> str:
        """Return a heading; `number` is empty for one without a number."""

    @abstractmethod
    def paragraph(self, words: str, aside: bool) -> str:
        """Return a paragraph; `aside` marks a remark of the generator."""

    @abstractmethod
    def equation(self, tex: str, key: str, number: str) -> str:
        """Return a numbered equation."""

    @abstractmethod
    def listing(self, items: Sequence[str], ordered: bool) -> str:
        """Return a list, numbered if it is `ordered`."""

    @abstractmethod
    def verbatim(self, text: str) -> str:
        """Return lines of code or output."""

    @abstractmethod
    def table(self, table: Table, label: str) -> str:
        """Return a table; `label` is its word and number, "Table 1"."""

    @abstractmethod
    def figure(self, figure: Figure, label: str) -> str:
        """Return a figure; `label` is its word and number, "Figure 1"."""

    @abstractmethod
    def references(self, keys: Sequence[str]) -> str:
        """Return the list of cited works."""

    def appendix(self) -> str:
        """Return the switch to lettered sections, if the format needs one."""
        return ""

    @abstractmethod
    def number(self, number: Number) -> str:
        """Return a measured number."""

    @abstractmethod
    def math(self, tex: str, display: bool) -> str:
        """Return a formula, on a line of its own if `display`."""

    @abstractmethod
    def code(self, text: str) -> str:
        """Return words in a fixed-width font."""

    @abstractmethod
    def link(self, words: str, url: str) -> str:
        """Return words that lead to an address."""

    @abstractmethod
    def cite(self, keys: Sequence[str]) -> str:
        """Return a citation of works."""

    @abstractmethod
    def ref(self, key: str, label: str) -> str:
        """Return a reference to a table, figure or equation."""


def column_shares(table: Table) -> Sequence[int]:
    """Return the relative widths of columns: as the table says, or by their longest cells."""
    columns = zip(table.header, *table.rows, strict=True)
    lengths = [max(len(plain_text(cell)) for cell in column) for column in columns]
    return table.widths or [min(_WIDEST, max(_NARROWEST, length)) for length in lengths]
