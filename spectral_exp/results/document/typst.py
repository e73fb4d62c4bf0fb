"""A document as Typst source, and through the `typst` package as PDF: offline, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.core.wording import install
from spectral_exp.results.document.bibliography import work
from spectral_exp.results.document.formulas import to_typst
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
    figures_of,
    numbering,
    plain,
)
from spectral_exp.results.document.trace import Trace

_PREAMBLE = """
#set page(paper: "a4", margin: (x: 2.4cm, y: 2.6cm), numbering: "1")
#set text(font: "New Computer Modern", size: 10.5pt, lang: "en", hyphenate: true)
#set par(justify: true, leading: 0.6em, spacing: 0.95em)
#show math.equation: set text(font: "New Computer Modern Math")
#show raw: set text(font: "DejaVu Sans Mono", size: 1.04em)
#show raw.where(block: true): set text(size: 0.9em)
#show raw.where(block: true): it => block(fill: luma(246), inset: 7pt, radius: 2pt, width: 100%, it)
#show heading: set block(above: 1.5em, below: 0.8em)
#show heading.where(level: 1): set text(size: 13pt)
#show heading.where(level: 2): set text(size: 11pt)
#set heading(numbering: "1.1")
#set math.equation(numbering: "(1)")
#set list(indent: 0.6em, spacing: 0.7em)
#set enum(indent: 0.6em, spacing: 0.7em)
#show figure.where(kind: table): set figure.caption(position: top)
#show figure.caption: it => block(width: 94%, sticky: true, align(left, text(size: 9.5pt)[
  #strong[#it.supplement #context it.counter.display(it.numbering).] #it.body]))
#show figure: set block(above: 1.6em, below: 1.6em)
#set table(stroke: none, inset: (x: 4pt, y: 3.2pt))
#show table: set text(size: 9pt)
#show table: set par(justify: false, leading: 0.5em)
"""


def pdf(document: Document, traces: Mapping[str, Trace]) -> bytes:
    """The document as PDF; numbers lead to their rows in the appendix.

    Raises:
        UserError: the package `typst` is not installed.
    """
    try:
        import typst
    except ImportError as error:
        raise UserError(f"PDF needs the package typst: {install('paper')}") from error
    with scratch_folder("pdf") as folder:
        main = Path(folder, "main.typ")
        main.write_text(source(document, traces), encoding="utf-8")
        for figure in figures_of(document):
            place = Path(folder, figure.name(_drawing(figure)))
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(figure.files[_drawing(figure)])
        # The fonts that Typst brings along: those of the machine would make the bytes depend on it.
        compiled = typst.compile(str(main), root=str(folder), format="pdf", ignore_system_fonts=True)
    assert isinstance(compiled, bytes)
    return compiled


def source(document: Document, traces: Mapping[str, Trace]) -> str:
    """The document as Typst source."""
    writer = _Writer(numbering(document), traces)
    authors = ", ".join(_string(name) for name in document.authors)
    head = [
        # No date: the same runs shall give the same bytes.
        f"#set document(title: {_string(document.title)}, author: ({authors}{',' if authors else ''}), date: none)",
        _PREAMBLE.strip(),
        f'#align(center, block(text(size: 15pt, weight: "bold", {_string(document.title)})))',
    ]
    if document.authors:
        head.append(f"#align(center, {_string(', '.join(document.authors))})")
    abstract = "\n\n".join(writer.text(paragraph.text) for paragraph in document.abstract)
    head.append(
        f"#pad(x: 1.1cm, y: 0.6em)[#align(center)[*{document.abstract_title}*]\n#set text(size: 10pt)\n{abstract}\n]"
    )
    return "\n\n".join([*head, *(writer.block(block) for block in document.blocks)]) + "\n"


def _drawing(figure: Figure) -> str:
    return "svg" if "svg" in figure.files else "png"


def _string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class _Writer:
    def __init__(self, names: Numbering, traces: Mapping[str, Trace]) -> None:
        self.names, self.traces = names, traces

    def block(self, block: Block) -> str:
        if isinstance(block, Heading):
            off = ", numbering: none" if block.named else ""
            return f"#heading(level: {block.level}{off}, {_string(block.text)})"
        if isinstance(block, Paragraph):
            words = self.text(block.text)
            return f"#emph[{words}]" if block.aside else words
        if isinstance(block, Equation):
            return f"$ {to_typst(block.tex)} $ <{block.key}>"
        if isinstance(block, Listing):
            items = ",\n".join(f"[{self.text(item)}]" for item in block.items)
            return f"#{'enum' if block.ordered else 'list'}({items})"
        if isinstance(block, Verbatim):
            return f"#raw(block: true, {_string(block.text)})"
        if isinstance(block, Table):
            return self._table(block)
        if isinstance(block, Figure):
            image = f"image({_string(block.name(_drawing(block)))}, width: {100 * block.width:g}%)"
            return f"#figure({image}, caption: [{self.text(block.caption)}]) <{block.key}>"
        if isinstance(block, References):
            return self._references()
        assert isinstance(block, Appendix)
        return '#counter(heading).update(0)\n#set heading(numbering: "A.1")'

    def _table(self, table: Table) -> str:
        header = "".join(f"[*{self.text(cell)}*], " for cell in table.header)
        rows = []
        for i, row in enumerate(table.rows):
            # Metadata can be pointed to and shows nothing.
            anchor = f"#metadata(none)<{table.anchors[i]}>" if table.anchors else ""
            rows.append("".join(f"[{anchor if not j else ''}{self.text(cell)}], " for j, cell in enumerate(row)))
        columns = (
            ", ".join(f"{share}fr" for share in _shares(table))
            if table.small
            else ", ".join("auto" for _ in table.align)
        )
        align = ", ".join("right" if side == "r" else "left" for side in table.align)
        grid = (
            f"table(columns: ({columns},), align: ({align},),\n"
            f"table.header(table.hline(stroke: 0.8pt), {header}table.hline(stroke: 0.5pt)),\n"
            + "\n".join(rows)
            + "\ntable.hline(stroke: 0.8pt))"
        )
        grid = grid if len(table.align) < 8 else f"text(size: 0.94em, {grid})"
        notes = "".join(
            f"#block(width: 100%, above: 0.7em, align(left, text(size: 8.5pt)[{self.text(note)}]))"
            for note in table.notes
        )
        figure = f"#figure(kind: table, caption: [{self.text(table.caption)}], [#{grid}{notes}]) <{table.key}>"
        if not table.small:
            return figure
        small = "#show figure: set block(breakable: true)\n#show table: set text(size: 7.5pt)"
        return f"#[\n{small}\n#set text(hyphenate: false)\n{figure}\n]"

    def _references(self) -> str:
        items = []
        for key in self.names.cited:
            item = work(key)
            address = f" #link({_string(item.url)})" if item.url else ""
            items.append(f"[#{_string(item.line)};{address}]")
        return f'#set enum(numbering: "[1]")\n#text(size: 9.5pt)[#enum({", ".join(items)})]' if items else ""

    def text(self, text: Text) -> str:
        return "".join(self._inline(run) for run in text)

    def _inline(self, run: Inline) -> str:
        if isinstance(run, str):
            # As a string nothing in it is markup; the semicolon ends the expression.
            return f"#{_string(run)};" if run else ""
        if isinstance(run, Number):
            trace = self.traces.get(run.id)
            return f"#link(<{trace.anchor}>, {_string(run.shown)});" if trace else f"#{_string(run.shown)};"
        if isinstance(run, Math):
            return (
                f"#math.equation(block: true, numbering: none, $ {to_typst(run.tex)} $);"
                if run.display
                else (f"${to_typst(run.tex)}$")
            )
        if isinstance(run, Code):
            # An invisible space after their joints lets long names break.
            broken = (
                "".join(f"{letter}\u200b" if letter in "._/=:" else letter for letter in run.text)
                if len(run.text) > 16
                else run.text
            )
            return f"#raw({_string(broken)});"
        if isinstance(run, Strong):
            return f"#strong[{self.text(run.runs)}];"
        if isinstance(run, Emphasis):
            return f"#emph[{self.text(run.runs)}];"
        if isinstance(run, Link):
            return f"#link({_string(run.url)})[{self.text(run.runs)}];"
        if isinstance(run, Cite):
            return f"#{_string('[' + ', '.join(str(self.names.cited.index(key) + 1) for key in run.keys) + ']')};"
        assert isinstance(run, Ref)
        return f"#link(<{run.key}>, {_string(self.names.labels[run.key].replace(' ', chr(160)))});"


def _shares(table: Table) -> list[int]:
    """Widths of columns in proportion to what they hold, so that no column is starved."""
    if table.widths:
        return list(table.widths)
    columns = zip(*([table.header, *table.rows]), strict=True)
    return [min(48, max(6, max(len(plain(cell)) for cell in column))) for column in columns]
