r"""Formulas: one LaTeX source for Markdown, LaTeX, MathML and Typst.

The supported LaTeX: letters, digits and operators; `_` and `^`; commands of `typst_symbols.json`;
`\frac{}{}`, `\sqrt{}`, `\hat{}`, `\tilde{}`, `\bar{}`, `\mathrm{}`, `\text{}`, `\operatorname{}`,
`\mathcal{}`, `\mathbb{}`, `\mathbf{}`; `\left` and `\right` before a bracket; `\quad` and `\,`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.results.document.writer import read_template

_SYMBOLS: dict[str, str] = json.loads(read_template("typst_symbols.json"))
_FUNCTIONS = ("sin", "cos", "tanh", "exp", "log", "ln", "max", "min")
_WRAPPERS: dict[str, str] = json.loads(read_template("typst_wrappers.json"))
_WORDS = ("mathrm", "text", "operatorname")
_SPACES = {"quad": "quad", "qquad": "wide", ",": "thin", ";": "med", "!": ""}
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|[{}_^&]|\d+(?:\.\d+)?|.", re.DOTALL)


def to_typst(tex: str) -> str:
    """Return a formula as the content of Typst's `$...$`.

    Raises:
        UserError: an unknown command or unbalanced braces.
    """
    tokens = [token for token in _TOKEN.findall(tex) if not token.isspace()]
    words, rest = _sequence(tokens, 0, tex)
    if rest != len(tokens):
        raise UserError(f"the formula {tex!r} has a closing brace too many")
    return words


def commands() -> Iterator[str]:
    """Yield the names of all supported commands."""
    names = ("frac", "left", "right", "quad", "qquad")
    yield from (*_SYMBOLS, *_FUNCTIONS, *_WRAPPERS, *_WORDS, *names)


def _sequence(tokens: list[str], i: int, tex: str) -> tuple[str, int]:
    parts: list[str] = []
    while i < len(tokens) and tokens[i] != "}":
        if tokens[i] in "_^":
            mark = tokens[i]
            argument, i = _atom(tokens, i + 1, tex)
            if not parts:
                parts.append('""')
            parts[-1] += f"{mark}({argument})"
        elif tokens[i] == "'" and parts:
            parts[-1] += "'"
            i += 1
        elif tokens[i] in ("\\left", "\\right"):
            # Brackets that grow with their content.
            bracket, opens = _atom(tokens, i + 1, tex), tokens[i] == "\\left"
            parts.append(f"lr({bracket[0]}" if opens else f"{bracket[0]})")
            if opens and len(parts) > 1 and parts[-2].endswith('")'):
                parts[-2:] = [parts[-2] + parts[-1]]
            i = bracket[1]
        else:
            part, i = _atom(tokens, i, tex)
            if part == "\\(" and parts and parts[-1].endswith('")'):
                parts[-1] += part  # a space behind a word would be printed
            elif part:
                parts.append(part)
    return " ".join(parts), i


def _atom(tokens: list[str], i: int, tex: str) -> tuple[str, int]:
    if i >= len(tokens):
        raise UserError(f"the formula {tex!r} ends too early")
    token = tokens[i]
    if token == "{":
        inside, end = _sequence(tokens, i + 1, tex)
        if end >= len(tokens):
            raise UserError(f"the formula {tex!r} has an open brace")
        return inside, end + 1
    if token.startswith("\\"):
        return _command(token[1:], tokens, i + 1, tex)
    # Brackets need not balance here, but in Typst's formulas they do.
    return (f"\\{token}" if token in '()[]/"#$\\;,' else token), i + 1


def _command(name: str, tokens: list[str], i: int, tex: str) -> tuple[str, int]:
    if name in _SYMBOLS:
        return _SYMBOLS[name], i
    if name in _FUNCTIONS:
        return name, i
    if name in _SPACES:
        return _SPACES[name], i
    if name in ("{", "}"):
        return f"\\{name}", i
    if name in ("_", "%", "&", "#", "$"):
        return f'"{name}"', i
    if name == "frac":
        above, i = _atom(tokens, i, tex)
        below, i = _atom(tokens, i, tex)
        return f"frac({above}, {below})", i
    if name in _WRAPPERS:
        inside, i = _atom(tokens, i, tex)
        return f"{_WRAPPERS[name]}({inside})", i
    if name in _WORDS:
        # The tokens are single letters; a word is the text between braces, without spaces.
        word, i = _word(tokens, i, tex)
        return (f'op("{word}")' if name == "operatorname" else f'upright("{word}")'), i
    raise UserError(
        f"the formula {tex!r} uses \\{name}, which is not known{nearest(name, commands())}"
    )


def _word(tokens: list[str], i: int, tex: str) -> tuple[str, int]:
    if i >= len(tokens) or tokens[i] != "{" or "}" not in tokens[i:]:
        raise UserError(f"the formula {tex!r} lacks the braces around a word")
    end = tokens.index("}", i)
    return "".join(token.removeprefix("\\") for token in tokens[i + 1 : end]), end + 1
