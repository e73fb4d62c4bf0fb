"""A document as LaTeX for the plain article class."""

# ruff: noqa: RUF001 - the table below is of such letters.
from __future__ import annotations

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
    numbering,
    plain,
)

_PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2.5cm]{geometry}
\usepackage{lmodern}
\usepackage{amsmath,amssymb}
\usepackage{textcomp}
\usepackage{graphicx}
\usepackage{booktabs}
\usepackage{longtable}
\usepackage[hidelinks]{hyperref}
\usepackage{url}
% What was measured: its number in provenance.json, and how it is printed.
\newcommand{\measured}[2]{#2}
\setlength{\emergencystretch}{2em}
"""

# fmt: off
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "→": r"$\to$",
    "µ": r"$\mu$",
    "μ": r"$\mu$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "ε": r"$\epsilon$",
    "≈": r"$\approx$",
    "…": r"\ldots{}",
    "\u202f": r"\,",
    "\u00a0": "~",
    "“": "``",
    "”": "''",
    "’": "'",
    "‘": "`",
    "°": r"\textdegree{}",
    "∞": r"$\infty$",
    "Δ": r"$\Delta$",
}
# fmt: on


def latex(document: Document) -> str:
    """The whole document; figures are PDF files beside it, and references.bib holds the works."""
    labels = numbering(document).labels
    writer = _Writer({key: word.partition(" ")[0] for key, word in labels.items()})
    authors = r" \and ".join(escaped(name) for name in document.authors)
    head = [
        f"{_PREAMBLE}\\renewcommand{{\\abstractname}}{{{document.abstract_title}}}\n"
        f"\\title{{{escaped(document.title)}}}\n\\author{{{authors}}}\n\\date{{}}",
        r"\begin{document}" + "\n" + r"\maketitle",
        r"\begin{abstract}",
        *(writer.text(paragraph.text) for paragraph in document.abstract),
        r"\end{abstract}",
    ]
    body = [writer.block(block) for block in document.blocks]
    return "\n\n".join([*head, *(part for part in body if part), r"\end{document}"]) + "\n"


def escaped(text: str) -> str:
    """`text` with nothing in it that LaTeX takes for a command."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


class _Writer:
    """The blocks of one document; `words` says by key whether something is a table, a figure or an equation."""

    def __init__(self, words: dict[str, str]) -> None:
        self.words = words

    def block(self, block: Block) -> str:
        if isinstance(block, Heading):
            command = "section" if block.level == 1 else "subsection"
            # The bibliography brings its own heading.
            return "" if block.text == "References" else f"\\{command}{'*' * block.named}{{{escaped(block.text)}}}"
        if isinstance(block, Paragraph):
            words = self.text(block.text)
            return f"\\textit{{{words}}}" if block.aside else words
        if isinstance(block, Equation):
            return f"\\begin{{equation}}\\label{{{block.key}}}\n{block.tex}\n\\end{{equation}}"
        if isinstance(block, Listing):
            name = "enumerate" if block.ordered else "itemize"
            items = "\n".join(f"\\item {self.text(item)}" for item in block.items)
            return f"\\begin{{{name}}}\n{items}\n\\end{{{name}}}"
        if isinstance(block, Verbatim):
            # Alltt would need escapes, verbatim none; only its own end cannot stand in it.
            inside = block.text.replace(r"\end{verbatim}", r"\end {verbatim}")
            return f"{{\\footnotesize\n\\begin{{verbatim}}\n{inside}\n\\end{{verbatim}}\n}}"
        if isinstance(block, Table):
            return self._table(block)
        if isinstance(block, Figure):
            drawing = block.name("pdf" if "pdf" in block.files else "png")
            return (
                "\\begin{figure}[htbp]\n\\centering\n"
                f"\\includegraphics[width={block.width:g}\\linewidth]{{{drawing}}}\n"
                f"\\caption{{{self.text(block.caption)}}}\\label{{{block.key}}}\n\\end{{figure}}"
            )
        if isinstance(block, References):
            return "\\bibliographystyle{plain}\n\\bibliography{references}"
        assert isinstance(block, Appendix)
        return r"\appendix"

    def _table(self, table: Table) -> str:
        def row(cells: tuple[Text, ...]) -> str:
            return " & ".join(self.text(cell) for cell in cells) + r" \\"

        caption = f"\\caption{{{self.text(table.caption)}}}\\label{{{table.key}}}"
        lines = [row(cells) for cells in table.rows]
        notes = "".join(f"\n\n{{\\footnotesize {self.text(note)}\\par}}" for note in table.notes)
        if not table.small:
            rows = "\n".join([r"\toprule", row(table.header), r"\midrule", *lines, r"\bottomrule"])
            return (
                f"\\begin{{table}}[htbp]\n\\centering\\small\n{caption}\n\\resizebox{{\\ifdim\\width>\\linewidth"
                f"\\linewidth\\else\\width\\fi}}{{!}}{{%\n\\begin{{tabular}}{{{table.align}}}\n{rows}\n"
                f"\\end{{tabular}}}}{notes}\n\\end{{table}}"
            )
        # Text in wide columns has to break; columns share the width by how much they hold.
        widths = _shares(table)
        columns = "".join(f"p{{\\dimexpr {share:.3f}\\linewidth-2\\tabcolsep}}" for share in widths)
        head = [r"\toprule", row(table.header), r"\midrule"]
        # Only the first page has the caption: with each it would have a label once more.
        rows = "\n".join([f"{caption} \\\\", *head, r"\endfirsthead", *head, r"\endhead", *lines, r"\bottomrule"])
        return f"{{\\footnotesize\n\\begin{{longtable}}{{{columns}}}\n{rows}\n\\end{{longtable}}{notes}\n}}"

    def text(self, text: Text) -> str:
        return "".join(self._inline(run) for run in text)

    def _inline(self, run: Inline) -> str:
        if isinstance(run, str):
            return escaped(run)
        if isinstance(run, Number):
            return f"\\measured{{{run.id}}}{{{escaped(run.shown)}}}" if run.id else escaped(run.shown)
        if isinstance(run, Math):
            return f"\\[ {run.tex} \\]" if run.display else f"${run.tex}$"
        if isinstance(run, Code):
            # Long names may break where their parts meet.
            words = escaped(run.text)
            for mark in (r"\_", ".", "/", "="):
                words = words.replace(mark, mark + r"\allowbreak{}")
            return f"\\texttt{{{words}}}"
        if isinstance(run, Strong):
            return f"\\textbf{{{self.text(run.runs)}}}"
        if isinstance(run, Emphasis):
            return f"\\emph{{{self.text(run.runs)}}}"
        if isinstance(run, Link):
            address = "".join(f"\\{letter}" if letter in "%#&" else letter for letter in run.url)
            return f"\\href{{{address}}}{{{self.text(run.runs)}}}"
        if isinstance(run, Cite):
            return f"\\cite{{{','.join(run.keys)}}}"
        assert isinstance(run, Ref)
        return f"{self.words[run.key]}~\\ref{{{run.key}}}"


def _shares(table: Table) -> list[float]:
    columns = zip(*([table.header, *table.rows]), strict=True)
    lengths = list(table.widths) or [min(60, max(4, max(len(plain(cell)) for cell in column))) for column in columns]
    return [length / sum(lengths) for length in lengths]
