"""A document as Typst source, and as PDF through the package `typst`: the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spectral_exp.core.errors import explain_missing
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.results.document.bibliography import work
from spectral_exp.results.document.formulas import to_typst
from spectral_exp.results.document.model import (
    Document,
    Figure,
    Heading,
    Number,
    Table,
    Text,
    figures_of,
)
from spectral_exp.results.document.trace import Trace
from spectral_exp.results.document.writer import Writer, column_shares

_MANY_COLUMNS = 8  # from which on a table is set smaller
_LONG_CODE = 16  # letters, above which code may break


def pdf(document: Document, traces: Mapping[str, Trace]) -> bytes:
    """Return the document as PDF; numbers lead to their rows in the appendix.

    Raises:
        UserError: the package `typst` is not installed.
    """
    with explain_missing("PDF needs the package typst", "paper"):
        import typst
    writer = _TypstWriter(document, traces)
    with scratch_folder("pdf") as folder:
        main = Path(folder, "main.typ")
        main.write_text(writer.write(), encoding="utf-8")
        for figure in figures_of(document):
            suffix = writer.drawing(figure)
            place = Path(folder, figure.file_name(suffix))
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(figure.files[suffix])
        # The machine's own fonts would make the bytes depend on it.
        compiled = typst.compile(
            str(main), root=str(folder), format="pdf", ignore_system_fonts=True
        )
    assert isinstance(compiled, bytes)
    return compiled


def typst_source(document: Document, traces: Mapping[str, Trace]) -> str:
    """Return the document as Typst source."""
    return _TypstWriter(document, traces).write()


class _TypstWriter(Writer):
    template = "document.typ"
    strong = "#strong[%s];"
    emphasis = "#emph[%s];"

    def fields(self) -> dict[str, str]:
        names = "".join(f"{_string(name)}, " for name in self.document.authors)
        return {**super().fields(), "author_list": names}

    def escape(self, text: str) -> str:
        return _string(text)

    def words(self, text: str) -> str:
        # As a string nothing in it is markup; the semicolon ends the expression.
        return f"#{_string(text)};" if text else ""

    def authors(self, names: Sequence[str]) -> str:
        return f"#align(center, {_string(', '.join(names))})\n\n"

    def heading(self, heading: Heading, number: str) -> str:
        off = ", numbering: none" if heading.named else ""
        return f"#heading(level: {heading.level}{off}, {_string(heading.text)})"

    def paragraph(self, words: str, aside: bool) -> str:
        return f"#emph[{words}]" if aside else words

    def equation(self, tex: str, key: str, number: str) -> str:
        return f"$ {to_typst(tex)} $ <{key}>"

    def listing(self, items: Sequence[str], ordered: bool) -> str:
        name = "enum" if ordered else "list"
        return f"#{name}({','.join(f'[{item}]' for item in items)})"

    def verbatim(self, text: str) -> str:
        return f"#raw(block: true, {_string(text)})"

    def table(self, table: Table, label: str) -> str:
        caption = self.text(table.caption)
        notes = "".join(
            f"#block(width: 100%, above: 0.7em, align(left, text(size: 8.5pt)[{self.text(note)}]))"
            for note in table.notes
        )
        grid = self._grid(table)
        figure = f"#figure(kind: table, caption: [{caption}], [#{grid}{notes}]) <{table.key}>"
        if not table.small:
            return figure
        breakable = "#show figure: set block(breakable: true)"
        small = "#show table: set text(size: 7.5pt)\n#set text(hyphenate: false)"
        return f"#[\n{breakable}\n{small}\n{figure}\n]"

    def _grid(self, table: Table) -> str:
        shares = [f"{share}fr" for share in column_shares(table)]
        columns = ", ".join(shares if table.small else ["auto"] * len(table.align))
        align = ", ".join("right" if side == "r" else "left" for side in table.align)
        header = "".join(f"[*{self.text(cell)}*], " for cell in table.header)
        anchors = table.anchors or ("",) * len(table.rows)
        rows = map(self._row, table.rows, anchors)
        grid = (
            f"table(columns: ({columns},), align: ({align},),\n"
            f"table.header(table.hline(stroke: 0.8pt), {header}table.hline(stroke: 0.5pt)),\n"
            + "\n".join(rows)
            + "\ntable.hline(stroke: 0.8pt))"
        )
        return grid if len(table.align) < _MANY_COLUMNS else f"text(size: 0.94em, {grid})"

    def _row(self, cells: tuple[Text, ...], anchor: str) -> str:
        # Metadata can be pointed to and shows nothing.
        first = f"#metadata(none)<{anchor}>" if anchor else ""
        texts = map(self.text, cells)
        return "".join(f"[{'' if j else first}{text}], " for j, text in enumerate(texts))

    def figure(self, figure: Figure, label: str) -> str:
        file = _string(figure.file_name(self.drawing(figure)))
        image = f"image({file}, width: {100 * figure.width:g}%)"
        return f"#figure({image}, caption: [{self.text(figure.caption)}]) <{figure.key}>"

    def references(self, keys: Sequence[str]) -> str:
        items = []
        for item in map(work, keys):
            address = f" #link({_string(item.url)})" if item.url else ""
            items.append(f"[#{_string(item.line)};{address}]")
        if not items:
            return ""
        numbering = '#set enum(numbering: "[1]")'
        return f"{numbering}\n#text(size: 9.5pt)[#enum({', '.join(items)})]"

    def appendix(self) -> str:
        return '#counter(heading).update(0)\n#set heading(numbering: "A.1")'

    def number(self, number: Number) -> str:
        trace = self.traces.get(number.id)
        shown = _string(number.shown)
        return f"#link(<{trace.anchor}>, {shown});" if trace else f"#{shown};"

    def math(self, tex: str, display: bool) -> str:
        formula = to_typst(tex)
        if display:
            return f"#math.equation(block: true, numbering: none, $ {formula} $);"
        return f"${formula}$"

    def code(self, text: str) -> str:
        if len(text) > _LONG_CODE:  # an invisible space after their joints lets long names break
            text = "".join(f"{letter}\u200b" if letter in "._/=:" else letter for letter in text)
        return f"#raw({_string(text)});"

    def link(self, words: str, url: str) -> str:
        return f"#link({_string(url)})[{words}];"

    def cite(self, keys: Sequence[str]) -> str:
        numbers = ", ".join(self.citation_numbers(keys))
        return f"#{_string(f'[{numbers}]')};"

    def ref(self, key: str, label: str) -> str:
        return f"#link(<{key}>, {_string(label.replace(' ', chr(160)))});"


def _string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
