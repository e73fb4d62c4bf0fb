"""Markdown, from the package's own text and from authors' notes, as the parts of a document.

Inside a line: `code`, **bold**, *emphasis*, $formula$, [words](address), [@work] or
[@work; @other], [#key] of a table, figure or equation, and {{name}}, which stands for a value.
Between lines: paragraphs, lists, `### headings`, fenced code, $$ formulas $$, and numbered
equations, $$ formula $$ {#eq:key}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.results.document.model import (
    Block,
    Cite,
    Code,
    Emphasis,
    Equation,
    Heading,
    Inline,
    Link,
    Listing,
    Math,
    Paragraph,
    Ref,
    Strong,
    Text,
    Verbatim,
)

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?<!\\)\$(?P<math>[^$\n]+)\$"
    r"|\{\{(?P<value>[^{}]+)\}\}"
    r"|\[@(?P<cite>[^\]]+)\]"
    r"|\[#(?P<ref>[^\]]+)\]"
    r"|\[(?P<link>[^\]]+)\]\((?P<url>[^)\s]+)\)"
    r"|\*\*(?P<strong>.+?)\*\*"
    r"|(?<![\w*])\*(?P<emphasis>[^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"
)


_PLACEHOLDER = re.compile(r"\{\{([^{}]+)\}\}")
_KEY = re.compile(r"\$\$\s*\{#(?P<key>[\w:-]+)\}$")


def prose(template: str, **values: Inline | Text) -> Text:
    """Return a line of Markdown with `values` for its {{name}}s."""
    return inline(template, values)


def placeholders(template: str) -> list[str]:
    """Return the names that stand in double braces, each once."""
    names = (" ".join(name.split()) for name in _PLACEHOLDER.findall(template))
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Section:
    """The text below a `## name`; the text before the first one has no name.

    Attributes:
        name: in lower case, with single spaces.
        line: the number of the heading's line.
        text: without empty lines around it.
    """

    name: str
    line: int
    text: str


def split_sections(source: str) -> list[Section]:
    """Return the sections of a Markdown text; the first has no name and may be empty."""
    found: list[tuple[str, int, list[str]]] = [("", 0, [])]
    is_fenced = False
    for number, line in enumerate(source.splitlines(), start=1):
        is_fenced ^= line.strip().startswith("```")
        if line.startswith("## ") and not is_fenced:
            found.append((" ".join(line[3:].split()).lower(), number, []))
        else:
            found[-1][2].append(line)
    return [Section(name, number, "\n".join(lines).strip()) for name, number, lines in found]


def inline(source: str, values: Mapping[str, Inline | Text]) -> Text:
    """Return the text of one line or paragraph.

    Raises:
        UserError: a {{name}} is not among `values`.
    """
    result: list[Inline] = []
    end = 0
    for match in _INLINE.finditer(source):
        if match.start() > end:
            result.append(_unescape(source[end : match.start()]))
        result.extend(_run(match, values))
        end = match.end()
    if end < len(source):
        result.append(_unescape(source[end:]))
    return tuple(result)


def _run(match: re.Match[str], values: Mapping[str, Inline | Text]) -> Text:
    kind, content = match.lastgroup, match[match.lastgroup or 0]
    if kind == "code":
        return (Code(content),)
    if kind == "math":
        return (Math(content),)
    if kind == "cite":
        return (Cite(tuple(key.strip().removeprefix("@") for key in content.split(";"))),)
    if kind == "ref":
        return (Ref(content.strip()),)
    if kind == "strong":
        return (Strong(inline(content, values)),)
    if kind == "emphasis":
        return (Emphasis(inline(content, values)),)
    if kind == "url":
        return (Link(inline(match["link"], values), content),)
    name = " ".join(content.split())
    if name not in values:
        raise UserError(f"{{{{{name}}}}} names no measured value{nearest(name, values)}")
    value = values[name]
    return value if isinstance(value, tuple) else (value,)


def _unescape(text: str) -> str:
    return re.sub(r"\\([\\`*$\[\]{}#_])", r"\1", text)


def blocks(source: str, values: Mapping[str, Inline | Text], level: int = 2) -> tuple[Block, ...]:
    """Return the blocks of Markdown of several lines; `###` becomes a heading of `level`.

    Raises:
        UserError: the Markdown holds a table, an image, HTML or an open fence.
    """
    result: list[Block] = []
    lines = source.splitlines()
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        if not line:
            i += 1
        elif line.startswith("```"):
            i, block = _fence(lines, i)
            result.append(block)
        elif line.startswith("$$"):
            i, formula = _formula(lines, i)
            result.append(formula)
        elif line.startswith("#"):
            result.append(Heading(line.lstrip("#").strip(), level))
            i += 1
        elif _ITEM.match(line):
            i, listing = _list(lines, i, values)
            result.append(listing)
        else:
            end = i
            while end < len(lines) and lines[end].strip() and not _STARTS.match(lines[end].strip()):
                end += 1
            paragraph = " ".join(part.strip() for part in lines[i : max(end, i + 1)])
            _refuse(paragraph)
            result.append(Paragraph(inline(paragraph, values)))
            i = max(end, i + 1)
    return tuple(result)


_ITEM = re.compile(r"(?:[-*+]|(?P<number>\d+)\.)\s+")
_STARTS = re.compile(r"```|\$\$|#{1,6}\s|(?:[-*+]|\d+\.)\s+")


def _refuse(paragraph: str) -> None:
    for pattern, what in ((r"^\|", "a table"), (r"!\[", "an image"), (r"^<[a-zA-Z/!]", "HTML")):
        if re.search(pattern, paragraph):
            raise UserError(
                f"the notes hold {what}, which the paper cannot take over: {paragraph[:60]!r}"
            )


def _fence(lines: list[str], i: int) -> tuple[int, Verbatim]:
    for end in range(i + 1, len(lines)):
        if lines[end].strip() == "```":
            return end + 1, Verbatim("\n".join(lines[i + 1 : end]))
    raise UserError(
        f"the code that begins at line {i + 1} of the notes' section has no closing ```"
    )


def _formula(lines: list[str], i: int) -> tuple[int, Paragraph | Equation]:
    text = ""
    for end in range(i, len(lines)):
        text += " " + lines[end].strip()
        if text.count("$$") == 2:
            key = _KEY.search(text)
            tex = text[: key.start() if key else None].replace("$$", "").strip()
            block = Equation(tex, key["key"]) if key else Paragraph((Math(tex, display=True),))
            return end + 1, block
    raise UserError(
        f"the formula that begins at line {i + 1} of the notes' section has no closing $$"
    )


def _list(lines: list[str], i: int, values: Mapping[str, Inline | Text]) -> tuple[int, Listing]:
    first = _ITEM.match(lines[i].strip())
    items: list[str] = []
    while i < len(lines) and lines[i].strip():
        line = lines[i].strip()
        match = _ITEM.match(line)
        if match:
            items.append(line[match.end() :])
        elif lines[i][:1].isspace():
            items[-1] += " " + line
        else:
            break
        i += 1
    return i, Listing(
        tuple(inline(item, values) for item in items), bool(first and first["number"])
    )
