"""A document as one HTML file: figures and style inside, no scripts, readable on a phone."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape

from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import install
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
    numbering,
)
from spectral_exp.results.document.trace import Trace

_STYLE = """
:root { color-scheme: light; }
body { max-width: 48rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; color: #1a1a1a; background: #fff;
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, serif; overflow-wrap: break-word; }
h1, h2, h3, table, figcaption, caption, .aside { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.4rem; }
h3 { font-size: 1.05rem; margin-top: 1.8rem; }
.abstract { border-left: 3px solid #bbb; padding-left: 1rem; }
.aside { color: #666; font-size: .92rem; }
.wide { overflow-x: auto; margin: 1.4rem 0; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption, figcaption { text-align: left; font-size: .88rem; color: #333; padding: .4rem 0; }
thead th { border-top: 1.5px solid #333; border-bottom: 1px solid #333; text-align: left; vertical-align: bottom; }
th, td { padding: .25rem .5rem; vertical-align: top; } tbody tr:last-child td { border-bottom: 1.5px solid #333; }
.r { text-align: right; white-space: nowrap; } thead th.r { text-align: right; white-space: normal; }
.small table { font-size: .76rem; }
.note { font: .84rem/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #444; margin: .3rem 0; }
figure { margin: 1.8rem 0; } figure svg, figure img { width: 100%; height: auto; display: block; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
code { font-size: .88em; } .eq { display: flex; align-items: center; gap: 1rem; overflow: auto hidden;
  margin: .8rem 0; padding: .2rem 0; }
.eq math { flex: 1; } a { color: #1f4e79; } a.n { color: inherit; text-decoration: none; }
a.n:hover, a.n:focus { background: #fff3c4; outline: none; } tr:target { background: #fff3c4; }
""".strip()


def html(document: Document, traces: Mapping[str, Trace]) -> str:
    """The whole document in one file. Numbers carry their source as a tooltip, and lead to the appendix.

    Raises:
        UserError: the package `latex2mathml`, which makes the formulas, is not installed.
    """
    writer = _Writer(numbering(document), traces)
    title = escape(document.title)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{_STYLE}\n</style>\n</head>',
        f"<body>\n<h1>{title}</h1>",
    ]
    if document.authors:
        parts.append(f"<p>{escape(', '.join(document.authors))}</p>")
    abstract = "\n".join(f"<p>{writer.text(paragraph.text)}</p>" for paragraph in document.abstract)
    parts.append(f'<div class="abstract">\n<h2>{document.abstract_title}</h2>\n{abstract}\n</div>')
    parts += [writer.block(i, block) for i, block in enumerate(document.blocks)]
    parts.append("</body>\n</html>\n")
    return "\n".join(part for part in parts if part)


def _mathml(tex: str, display: str) -> str:
    try:
        from latex2mathml.converter import convert
    except ImportError as error:
        raise UserError(f"HTML needs the package latex2mathml: {install('paper')}") from error
    return str(convert(tex, display=display))


class _Writer:
    def __init__(self, names: Numbering, traces: Mapping[str, Trace]) -> None:
        self.names, self.traces = names, traces

    def block(self, i: int, block: Block) -> str:
        if isinstance(block, Heading):
            number = self.names.sections.get(i, "")
            tag = f"h{block.level + 1}"
            return f"<{tag}>{number} {escape(block.text)}</{tag}>" if number else f"<{tag}>{escape(block.text)}</{tag}>"
        if isinstance(block, Paragraph):
            return f"{'<p class=aside>' if block.aside else '<p>'}{self.text(block.text)}</p>"
        if isinstance(block, Equation):
            number = self.names.number(block.key)
            return f'<div class="eq" id="{block.key}">{_mathml(block.tex, "block")}<span>({number})</span></div>'
        if isinstance(block, Listing):
            tag = "ol" if block.ordered else "ul"
            items = "\n".join(f"<li>{self.text(item)}</li>" for item in block.items)
            return f"<{tag}>\n{items}\n</{tag}>"
        if isinstance(block, Verbatim):
            return f"<pre>{escape(block.text)}</pre>"
        if isinstance(block, Table):
            return self._table(block)
        if isinstance(block, Figure):
            caption = f"<strong>{self.names.labels[block.key]}.</strong> {self.text(block.caption)}"
            name = self.names.labels[block.key]
            return f'<figure id="{block.key}">\n{_drawing(block, name)}\n<figcaption>{caption}</figcaption>\n</figure>'
        if isinstance(block, References):
            works = "\n".join(f'<li id="{key}">{_reference(key)}</li>' for key in self.names.cited)
            return f"<ol>\n{works}\n</ol>"
        assert isinstance(block, Appendix)
        return ""

    def _table(self, table: Table) -> str:
        def row(cells: tuple[Text, ...], tag: str) -> str:
            sides = [' class="r"' if side == "r" else "" for side in table.align]
            return "".join(f"<{tag}{s}>{self.text(cell)}</{tag}>" for s, cell in zip(sides, cells, strict=True))

        anchors = [f' id="{anchor}"' for anchor in table.anchors] or [""] * len(table.rows)
        rows = "\n".join(f"<tr{a}>{row(cells, 'td')}</tr>" for a, cells in zip(anchors, table.rows, strict=True))
        caption = f"<strong>{self.names.labels[table.key]}.</strong> {self.text(table.caption)}"
        kind = "wide small" if table.small else "wide"
        notes = "".join(f'\n<p class="note">{self.text(note)}</p>' for note in table.notes)
        return (
            f'<div class="{kind}" id="{table.key}">\n<table>\n'
            f"<caption>{caption}</caption>\n<thead><tr>{row(table.header, 'th')}</tr></thead>\n"
            f"<tbody>\n{rows}\n</tbody>\n</table>{notes}\n</div>"
        )

    def text(self, text: Text) -> str:
        return "".join(self._inline(run) for run in text)

    def _inline(self, run: Inline) -> str:
        if isinstance(run, str):
            return escape(run, quote=False)
        if isinstance(run, Number):
            trace = self.traces.get(run.id)
            shown = escape(run.shown, quote=False)
            return (
                f'<a class="n" id="{run.id}" href="#{trace.anchor}" title="{escape(trace.words)}">{shown}</a>'
                if trace
                else shown
            )
        if isinstance(run, Math):
            return _mathml(run.tex, "block" if run.display else "inline")
        if isinstance(run, Code):
            return f"<code>{escape(run.text, quote=False)}</code>"
        if isinstance(run, Strong):
            return f"<strong>{self.text(run.runs)}</strong>"
        if isinstance(run, Emphasis):
            return f"<em>{self.text(run.runs)}</em>"
        if isinstance(run, Link):
            return f'<a href="{escape(run.url)}">{self.text(run.runs)}</a>'
        if isinstance(run, Cite):
            places = [f'<a href="#{key}">{self.names.cited.index(key) + 1}</a>' for key in run.keys]
            return f"[{', '.join(places)}]"
        assert isinstance(run, Ref)
        return f'<a href="#{run.key}">{self.names.labels[run.key]}</a>'


def _reference(key: str) -> str:
    item = work(key)
    address = f' <a href="{escape(item.url)}">{escape(item.url)}</a>' if item.url else ""
    return escape(item.line, quote=False) + address


def _drawing(figure: Figure, name: str) -> str:
    if "svg" not in figure.files:
        encoded = base64.b64encode(figure.files["png"]).decode()
        return f'<img alt="{escape(name)}" src="data:image/png;base64,{encoded}">'
    svg = figure.files["svg"].decode()
    svg = svg[svg.index("<svg") :]
    # Several drawings in one page must not share their names.
    prefix = re.sub(r"\W", "-", figure.key)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    # The page decides how wide it is; the drawing keeps its shape through its viewBox.
    head, tail = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(name)}">{tail}'
