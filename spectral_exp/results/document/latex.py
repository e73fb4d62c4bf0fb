"""A document as LaTeX for the plain article class."""

from __future__ import annotations

import json
from collections.abc import Sequence

from spectral_exp.results.document.model import (
    Document,
    Figure,
    Heading,
    Number,
    Table,
    Text,
)
from spectral_exp.results.document.writer import Writer, column_shares, read_template

_LETTERS = str.maketrans(json.loads(read_template("latex_letters.json")))


def latex(document: Document) -> str:
    """Return the whole document; figures are PDF files beside it, works are in references.bib."""
    return _LatexWriter(document).write()


def escape_latex(text: str) -> str:
    """Return `text` with nothing in it that LaTeX takes for a command."""
    return text.translate(_LETTERS)


class _LatexWriter(Writer):
    template = "document.tex"
    vector_format = "pdf"
    strong = r"\textbf{%s}"
    emphasis = r"\emph{%s}"

    def escape(self, text: str) -> str:
        return escape_latex(text)

    def authors(self, names: Sequence[str]) -> str:
        return r" \and ".join(map(escape_latex, names))

    def heading(self, heading: Heading, number: str) -> str:
        if heading.text == "References":  # the bibliography brings its own heading
            return ""
        command = "section" if heading.level == 1 else "subsection"
        return f"\\{command}{'*' * heading.named}{{{escape_latex(heading.text)}}}"

    def paragraph(self, words: str, aside: bool) -> str:
        return f"\\textit{{{words}}}" if aside else words

    def equation(self, tex: str, key: str, number: str) -> str:
        return _environment("equation", f"\\label{{{key}}}\n{tex}")

    def listing(self, items: Sequence[str], ordered: bool) -> str:
        name = "enumerate" if ordered else "itemize"
        return _environment(name, "\n" + "\n".join(f"\\item {item}" for item in items))

    def verbatim(self, text: str) -> str:
        # Nothing needs an escape in this environment; only its own end cannot stand in it.
        inside = text.replace(r"\end{verbatim}", r"\end {verbatim}")
        return f"{{\\footnotesize\n{_environment('verbatim', chr(10) + inside)}\n}}"

    def table(self, table: Table, label: str) -> str:
        caption = f"\\caption{{{self.text(table.caption)}}}\\label{{{table.key}}}"
        notes = "".join(f"\n\n{{\\footnotesize {self.text(note)}\\par}}" for note in table.notes)
        head = [r"\toprule", self._row(table.header), r"\midrule"]
        rows = [*map(self._row, table.rows), r"\bottomrule"]
        if not table.small:
            body = _environment("tabular", f"{{{table.align}}}\n" + "\n".join([*head, *rows]))
            return (
                f"\\begin{{table}}[htbp]\n\\centering\\small\n{caption}\n"
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
                f"\n{body}}}{notes}\n\\end{{table}}"
            )
        # Text in wide columns has to break; columns share the width by how much they hold.
        shares = column_shares(table)
        columns = "".join(
            f"p{{\\dimexpr {share / sum(shares):.3f}\\linewidth-2\\tabcolsep}}" for share in shares
        )
        # Only the first page has the caption: on every page it would repeat its label.
        lines = [f"{caption} \\\\", *head, r"\endfirsthead", *head, r"\endhead", *rows]
        body = _environment("longtable", f"{{{columns}}}\n" + "\n".join(lines))
        return f"{{\\footnotesize\n{body}{notes}\n}}"

    def _row(self, cells: tuple[Text, ...]) -> str:
        return " & ".join(map(self.text, cells)) + r" \\"

    def figure(self, figure: Figure, label: str) -> str:
        file = figure.file_name(self.drawing(figure))
        return (
            "\\begin{figure}[htbp]\n\\centering\n"
            f"\\includegraphics[width={figure.width:g}\\linewidth]{{{file}}}\n"
            f"\\caption{{{self.text(figure.caption)}}}\\label{{{figure.key}}}\n\\end{{figure}}"
        )

    def references(self, keys: Sequence[str]) -> str:
        return "\\bibliographystyle{plain}\n\\bibliography{references}"

    def appendix(self) -> str:
        return r"\appendix"

    def number(self, number: Number) -> str:
        shown = escape_latex(number.shown)
        return f"\\measured{{{number.id}}}{{{shown}}}" if number.id else shown

    def math(self, tex: str, display: bool) -> str:
        return f"\\[ {tex} \\]" if display else f"${tex}$"

    def code(self, text: str) -> str:
        words = escape_latex(text)
        for mark in (r"\_", ".", "/", "="):  # long names may break where their parts meet
            words = words.replace(mark, mark + r"\allowbreak{}")
        return f"\\texttt{{{words}}}"

    def link(self, words: str, url: str) -> str:
        address = "".join(f"\\{letter}" if letter in "%#&" else letter for letter in url)
        return f"\\href{{{address}}}{{{words}}}"

    def cite(self, keys: Sequence[str]) -> str:
        return f"\\cite{{{','.join(keys)}}}"

    def ref(self, key: str, label: str) -> str:
        return f"{label.partition(' ')[0]}~\\ref{{{key}}}"


def _environment(name: str, content: str) -> str:
    return f"\\begin{{{name}}}{content}\n\\end{{{name}}}"
