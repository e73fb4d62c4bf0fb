"""A document as one HTML file: figures and style inside, no scripts, readable on a phone."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from spectral_exp.core.errors import explain_missing
from spectral_exp.results.document.bibliography import work
from spectral_exp.results.document.model import (
    Document,
    Figure,
    Heading,
    Number,
    Table,
    Text,
)
from spectral_exp.results.document.trace import Trace
from spectral_exp.results.document.writer import Writer, read_template


def html(document: Document, traces: Mapping[str, Trace]) -> str:
    """Return the whole document in one file.

    Numbers carry their source as a tooltip and lead to the appendix.

    Raises:
        UserError: the package `latex2mathml`, which makes the formulas, is not installed.
    """
    return _HtmlWriter(document, traces).write()


class _HtmlWriter(Writer):
    template = "document.html"
    separator = "\n"
    strong = "<strong>%s</strong>"
    emphasis = "<em>%s</em>"

    def fields(self) -> dict[str, str]:
        return {**super().fields(), "style": read_template("style.css").strip()}

    def escape(self, text: str) -> str:
        return escape(text)

    def words(self, text: str) -> str:
        return escape(text, quote=False)

    def authors(self, names: Sequence[str]) -> str:
        return f"<p>{escape(', '.join(names))}</p>\n"

    def heading(self, heading: Heading, number: str) -> str:
        tag = f"h{heading.level + 1}"
        return f"<{tag}>{number}{' ' if number else ''}{escape(heading.text)}</{tag}>"

    def paragraph(self, words: str, aside: bool) -> str:
        return f"<p{' class=aside' if aside else ''}>{words}</p>"

    def equation(self, tex: str, key: str, number: str) -> str:
        formula = _mathml(tex, "block")
        return f'<div class="eq" id="{key}">{formula}<span>({number})</span></div>'

    def listing(self, items: Sequence[str], ordered: bool) -> str:
        tag = "ol" if ordered else "ul"
        return _list(tag, [f"<li>{item}</li>" for item in items])

    def verbatim(self, text: str) -> str:
        return f"<pre>{escape(text)}</pre>"

    def table(self, table: Table, label: str) -> str:
        anchors = [f' id="{anchor}"' for anchor in table.anchors] or [""] * len(table.rows)
        rows = "\n".join(
            f"<tr{anchor}>{self._row(table, cells, 'td')}</tr>"
            for anchor, cells in zip(anchors, table.rows, strict=True)
        )
        kind = "wide small" if table.small else "wide"
        notes = "".join(f'\n<p class="note">{self.text(note)}</p>' for note in table.notes)
        return (
            f'<div class="{kind}" id="{table.key}">\n<table>\n'
            f"<caption>{self._caption(label, table.caption)}</caption>\n"
            f"<thead><tr>{self._row(table, table.header, 'th')}</tr></thead>\n"
            f"<tbody>\n{rows}\n</tbody>\n</table>{notes}\n</div>"
        )

    def _row(self, table: Table, cells: tuple[Text, ...], tag: str) -> str:
        classes = [' class="r"' if side == "r" else "" for side in table.align]
        texts = map(self.text, cells)
        return "".join(
            f"<{tag}{class_}>{text}</{tag}>" for class_, text in zip(classes, texts, strict=True)
        )

    def _caption(self, label: str, caption: Text) -> str:
        return f"<strong>{label}.</strong> {self.text(caption)}"

    def figure(self, figure: Figure, label: str) -> str:
        if self.drawing(figure) == "svg":
            drawing = _inline_svg(figure, label)
        else:
            encoded = base64.b64encode(figure.files["png"]).decode()
            drawing = f'<img alt="{escape(label)}" src="data:image/png;base64,{encoded}">'
        caption = self._caption(label, figure.caption)
        return (
            f'<figure id="{figure.key}">\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>'
        )

    def references(self, keys: Sequence[str]) -> str:
        return _list("ol", [f'<li id="{key}">{self._reference(key)}</li>' for key in keys])

    def _reference(self, key: str) -> str:
        item = work(key)
        return self.words(item.line) + (
            " " + self.link(escape(item.url), item.url) if item.url else ""
        )

    def number(self, number: Number) -> str:
        shown = self.words(number.shown)
        trace = self.traces.get(number.id)
        if trace is None:
            return shown
        title = escape(trace.words)
        return f'<a class="n" id="{number.id}" href="#{trace.anchor}" title="{title}">{shown}</a>'

    def math(self, tex: str, display: bool) -> str:
        return _mathml(tex, "block" if display else "inline")

    def code(self, text: str) -> str:
        return f"<code>{self.words(text)}</code>"

    def link(self, words: str, url: str) -> str:
        return f'<a href="{escape(url)}">{words}</a>'

    def cite(self, keys: Sequence[str]) -> str:
        numbers = zip(keys, self.citation_numbers(keys), strict=True)
        return f"[{', '.join(self.ref(key, number) for key, number in numbers)}]"

    def ref(self, key: str, label: str) -> str:
        return f'<a href="#{key}">{label}</a>'


def _list(tag: str, items: Sequence[str]) -> str:
    return "\n".join([f"<{tag}>", "\n".join(items), f"</{tag}>"])


def _mathml(tex: str, display: str) -> str:
    with explain_missing("HTML needs the package latex2mathml", "paper"):
        from latex2mathml.converter import convert
    return str(convert(tex, display=display))


def _inline_svg(figure: Figure, name: str) -> str:
    svg = figure.files["svg"].decode()
    svg = svg[svg.index("<svg") :]
    # Several drawings in one page must not share their names.
    prefix = re.sub(r"\W", "-", figure.key)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    # The page decides how wide it is; the drawing keeps its shape through its viewBox.
    head, tail = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(name)}">{tail}'
