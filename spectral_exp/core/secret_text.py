"""Find secrets that are assigned to names in text: JSON, YAML, headers, settings files, Python.

`hide_assigned` replaces them in several passes. The main one, `_hide_assignments`, walks through
all assignments of a text: `password: X`, `"token": "X"`, `API_KEY=X`, `secret = Str("X")`. The name
before the sign decides how likely the value is a secret (`secret_names`), and the form of the value
decides where it ends: a structure, a call, a quoted text or a word. The other passes find values
without such a sign.

Every expression here takes time linear in the length of any text.
"""

from __future__ import annotations

import re

from spectral_exp.core.secret_commands import hide_arguments
from spectral_exp.core.secret_context import hide_named_around
from spectral_exp.core.secret_names import (
    Secrecy,
    counts_tokens,
    describes_secret,
    is_secret_name,
    secrecy,
)
from spectral_exp.core.secret_values import (
    REDACTED,
    is_amount,
    is_hidden_number,
    is_hidden_value,
    is_hidden_word,
    is_placeholder,
    looks_random,
    replace_group,
)

# --- assignments: a name, a sign and the beginning of a value -------------------------------------

_NAME = r"[A-Za-z_][\w./@-]{0,100}"
_TYPE = (
    r"(?:typing\.)?(?:Any|Final|None|Optional|Path|Sec\w{0,20}|bool|bytes|dict|float|int|list"
    r"|object|str|string|tuple)\b(?:\[[\w., |\[\]]{0,60}\])?"
)
_ASSIGNED = re.compile(
    r"(?:(?<!\w)|(?<=\bb))(?P<mark>\\{0,8}[\"']|&(?:quot|apos|#34|#39);)?(?P<name>"
    + _NAME
    + r")(?(mark)(?P=mark)\s?\]?|\}?)"
    rf"(?P<sep>\s*(?:=>|:=|:\s{{0,4}}{_TYPE}(?:\s?\|\s?{_TYPE}){{0,4}}\s{{0,4}}=(?!=)"
    r"|:(?!:|//)|(?<![=!<>])=(?!=))(?:[ \t]|\\{1,8}t)*)"
)
"""`password: `, `"token": `, `key=`, `secret: str = `, `name => `; the value follows."""
_ANNOTATION = re.compile(rf"{_TYPE}(?:\s?\|\s?{_TYPE}){{0,4}}\s{{0,4}}(?=[,)=\n]|$)")
"""A type in the place of a value: `def login(password: str, user)`."""
_VALUE = re.compile(
    r"(?:[bBrRuUfF]{1,2}|\$)?(?:\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*(?:\"|$)|'(?:[^'\\\n]|\\.|'')*(?:'|$)|`[^`\n]*`)"
    r"|[bBrRuUfF]{0,2}(?P<escaped>\\{1,8}[\"']).*?(?:(?P=escaped)|$)"
    r"|\$\([^()\n]{0,200}\)|\{\{[^{}\n]{0,80}\}\}|<[A-Za-z _.-]{1,60}>"
    r"|(?P<call>[A-Za-z_][\w.]{0,80}[(\[])"
    r"|(?P<entity>&(?:quot|apos|#34|#39);).{0,500}?(?:(?P=entity)|$)"
    r"|[{\[(]|[^\s,;\"'{}\[\]()]",
    re.DOTALL | re.MULTILINE,
)
"""The beginning of a value; a quoted text or a reference as a whole."""
_OPENING = re.compile(
    r"(?:[bBrRuUfF]{1,2}|\$)?(\"\"\"|&(?:quot|apos|#34|#39);|'''|\\{1,8}[\"']|[\"'`])"
)
"""The quotation mark before a value, with the prefix of a Python literal: `b"`, `\\"`, `&quot;`."""
_CLOSING = re.compile(r"[\s,;:)\]}]*")
"""The rest of a text that ends after an opening quotation mark."""
_WORD_END = re.compile(
    r"[\s;\"']|,(?=[\s\"']|$|[\w./@+-]+\s*[=:])|&(?=[\w.-]+=)"
    r"|\\{1,8}[nrt](?=[\w.-]+(?:\s*[=:]|$)|[\[#\s\\]|$)"
)
"""The end of an unquoted value: white space, a quotation mark, or a sign before the next name."""
_DOTTED = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+")
"""A variable or an attribute: `args.password`."""

# --- structures and calls as values ---------------------------------------------------------------

_BRACKET = re.compile(r"[{}\[\]()]")
_PART = re.compile(r"[^\s,:{}\[\]()\"'\\=]+")
"""A key or a value in a structure."""
_KEY_END = re.compile(r"[\"'\\]{0,9}\s{0,4}(?::|=(?![=\"'\\}\]),\s]))")
"""The sign after a key."""
_QUOTED = re.compile(r"(\\{0,8}[\"'])((?:(?!\1)[^\n]){1,500})(?=\1)")
_MAX_STRUCTURE = 1000  # characters of a structure that are searched for a secret

# --- other forms ----------------------------------------------------------------------------------

_HEADER = re.compile(
    r"(?<![\w.])((?:proxy-)?authorization|(?:set-)?cookie)"
    r"((?:\\{0,8}[\"'])?\s*[:=]\s*(?:\\{0,8}[\"'])?)([^\"'}\n\\]+)",
    re.IGNORECASE,
)
"""A header: `Authorization: Basic X`, `Set-Cookie: a=X; b=Y`."""
_TEMPLATE = re.compile(r"^\s*(?:\w+\s+)?\{[A-Za-z_.]*$")
"""A header in a format string: `Bearer {token`, of which only the beginning is matched."""
_PAIR = re.compile(
    r"(?P<open>\(\s{0,40})?(?P<mark>\\{0,8}[\"'])(?P<name>-{0,2}[A-Za-z][\w-]{0,60})(?P=mark)"
    r"\s*,\s*(?P<quote>\\{0,8}[\"'])(?P<value>(?:(?!(?P=quote))[^\n]){1,500})(?P=quote)"
)
"""Two texts with a comma: `("password", "X")`, `"--token", "X"`."""
_BLOCK = re.compile(r"([ \t]*(?:- +)?)(" + _NAME + r"):[ \t]*(?:[|>][+-]?)?[ \t]*\n?")
"""A name at the end of a line, whose values follow on deeper lines of YAML."""
_BLOCK_LINE = re.compile(r"([ \t]*(?:- +)?(?:[\w./@-]{1,100}:[ \t]+)?)(\S.*?)([ \t]*\n?)")
_LITERAL = re.compile(
    r"(?<![\w])(?P<mark>\\{0,8}[\"'])?(?P<name>" + _NAME + r")(?(mark)(?P=mark)|\b)"
    r"(?P<sep>\]?(?:\s*:\s*[\w\[\]. |]{1,60})?\s*(?:=(?!=)|:)\s*[bru]?)"
    r"(?P<quote>[\"'])(?P<value>(?:(?!(?P=quote))[^\\\n{}])+)(?P=quote)"
)
"""A name and a literal of a programming language: `PASSWORD = "X"`, `"token": b'X'`."""
_LONGEST_INDENT = 200


def hide_assigned(text: str) -> str:
    """Replace the values in a text that belong to the names of secrets.

    The text may be or contain JSON, YAML, XML, the `repr` of Python objects, command lines, headers
    and settings files.
    """
    text = hide_named_around(text)
    if "-" in text or " " in text:
        text = hide_arguments(text)
    if "=" in text or ":" in text:
        text = _HEADER.sub(_hide_header, text)
        if "\n" in text:
            text = _hide_yaml_blocks(text)
        text = _hide_assignments(text)
    return _PAIR.sub(_hide_pair, text) if "," in text else text


def hide_literals(code: str) -> str:
    """Replace the string literals in source code that are assigned to the names of secrets."""
    code = _LITERAL.sub(_hide_literal, code)
    return _PAIR.sub(_hide_literal, code)


def _hide_literal(match: re.Match[str]) -> str:
    value = match["value"]
    is_setting = match.re is _LITERAL or match["open"] is not None
    if not is_setting or is_secret_name(value) or not _is_random_secret(value, match["name"]):
        return match[0]
    return replace_group(match, "value")


def _is_random_secret(value: str, name: str) -> bool:
    return is_hidden_value(value, min(secrecy(name), Secrecy.POSSIBLE))


def _hide_header(match: re.Match[str]) -> str:
    value = match[3]
    if not is_hidden_word(value.strip(), Secrecy.CERTAIN) or _TEMPLATE.search(value):
        return match[0]
    is_login = match[1].lower().endswith("authorization")
    simple = re.match(r"(?:[A-Za-z][\w-]*[ \t]+)?[^\s,;]+", value) if is_login else None
    whole = simple is None or re.match(r"(aws4|digest)", value, re.IGNORECASE) is not None
    rest = "" if whole or simple is None else value[simple.end() :]
    return f"{match[1]}{match[2]}{REDACTED}{rest}"


def _hide_yaml_blocks(text: str) -> str:
    """Replace secrets in the lines below a name: mappings, lists and long texts of YAML."""
    hidden = []
    level, indent = Secrecy.NONE, 0
    for line in text.splitlines(keepends=True):
        words = line.lstrip(" \t")
        depth = len(line) - len(words)
        is_inside = (
            depth > indent or (depth == indent and words.startswith("- ")) or not words.strip()
        )
        if level is not Secrecy.NONE and is_inside:
            hidden.append(_hide_yaml_line(line, level))
            continue
        block = _BLOCK.fullmatch(line)
        level = secrecy(block[2]) if block else Secrecy.NONE
        indent = len(block[1]) if block else 0
        hidden.append(line)
    return "".join(hidden)


def _hide_yaml_line(line: str, level: Secrecy) -> str:
    match = _BLOCK_LINE.fullmatch(line)
    if match is None or match[2].endswith(":"):
        return line
    hidden = is_hidden_word(match[2].strip("\"'"), level)
    return f"{match[1]}{REDACTED}{match[3]}" if hidden else line


def _hide_assignments(text: str) -> str:
    """Replace the secret values of assignments; search other values for assignments in turn."""
    pieces = []
    position = 0
    while match := _ASSIGNED.search(text, position):
        start = end = match.end()
        shown = None
        level = _secrecy_of_name(match)
        value = _VALUE.match(text, start) if level is not Secrecy.NONE else None
        if value and not _ANNOTATION.match(text, start):
            end, shown = _redact_value(text, match, value, level)
        if shown is None:
            end = start
        pieces.append(text[position:start] + (shown or ""))
        position = end
    return "".join([*pieces, text[position:]])


def _secrecy_of_name(match: re.Match[str]) -> Secrecy:
    name, start = match["name"], match.start("name")
    before = match.string[max(0, start - 1) : start]
    level = secrecy(name)
    if before == "\\" and name[0] in "nrt":  # the end of a line inside JSON
        level = max(level, secrecy(name[1:]))
    return level


def _redact_value(
    text: str, match: re.Match[str], value: re.Match[str], level: Secrecy
) -> tuple[int, str | None]:
    """Return the end of a value, and its replacement, or None if it is not a secret."""
    start, found, mark = value.start(), value[0], match["mark"] or ""
    if found in ("{", "[", "("):
        if not _is_secret_structure(_beginning(text, start, start), level):
            return start, None
        return _structure_end(text, start, len(text)), f"{mark}{REDACTED}{mark}"
    if _is_no_value(found, text[start : start + 2]):
        return start, None
    if call := value["call"]:
        shown = _beginning(text, start, value.end() - 1)
        hidden = _hide_literals_of_call(shown, level)
        if hidden != shown:
            return start + len(shown), hidden
        if REDACTED in shown or _is_expression(call, match["sep"], level):
            return start, None
    elif opening := _OPENING.match(found):
        return value.end(), _redact_quoted(found, opening, level)
    end = _word_end(text, match, start, level)
    word = text[start:end]
    is_count = word.isdecimal() and counts_tokens(match["name"])
    # In a sentence, an ordinary word is not a secret: "unexpected token: something".
    if is_count or _names_secret(word, match["name"]) or not is_hidden_word(word, level):
        return end, None
    return end, f"{mark}{REDACTED}{mark}" if is_amount(word) else REDACTED


def _beginning(text: str, start: int, bracket: int) -> str:
    """Return the part of a structure or call that is searched for a secret."""
    return text[start : _structure_end(text, bracket, min(len(text), start + _MAX_STRUCTURE))]


def _is_secret_structure(beginning: str, level: Secrecy) -> bool:
    return not is_placeholder(beginning) and _holds_secret(beginning, level)


def _redact_quoted(found: str, opening: re.Match[str], level: Secrecy) -> str | None:
    """Return a quoted value with its marks and without its secret, or None if it has none."""
    inside = found[opening.end() :].removesuffix(opening[1])
    is_closed = len(found) > len(inside) + opening.end()
    if not is_hidden_value(inside, level) or _CLOSING.fullmatch(inside):
        return None
    return opening[0] + REDACTED + (opening[1] if is_closed else "")


def _is_no_value(found: str, begin: str) -> bool:
    """Return whether this is a placeholder, a name in backquotes or the end of a line."""
    if begin in ("\\n", "\\r") or found.startswith("re.") or is_placeholder(found):
        return True
    return found[0] == "`" and is_secret_name(found.strip("`"))


def _word_end(text: str, match: re.Match[str], start: int, level: Secrecy) -> int:
    line_start = text.rfind("\n", max(0, match.start() - _LONGEST_INDENT), match.start()) + 1
    is_first = line_start > 0 or match.start() <= _LONGEST_INDENT
    before = text[line_start : match.start()].strip(" \t-") if is_first else "x"
    if not before and match["sep"].strip() == ":" and level >= Secrecy.CERTAIN:
        line_end = text.find("\n", start)
        line = text[start : line_end if line_end >= 0 else len(text)]
        return start + len(line.partition(" #")[0].rstrip())
    end = _WORD_END.search(text, start + 1)
    found = text[start : end.start() if end else len(text)]
    if text[start + len(found) : start + len(found) + 1] in ("'", '"'):
        found = found.rstrip("\\")
    # Closing brackets that were opened before the name do not belong to the value.
    inside = found.rstrip(")]}>")
    n_closing = len(found) - len(inside) - sum(found.count(sign) for sign in "([{<")
    return start + len(found) - max(0, min(n_closing, len(found) - 1))


def _structure_end(text: str, start: int, limit: int) -> int:
    """Return the end of the structure or call that begins at `start`, at most `limit`."""
    depth = 0
    for sign in _BRACKET.finditer(text, start, limit):
        depth += 1 if sign[0] in "{[(" else -1
        if depth == 0:
            return sign.end()
    return limit


def _holds_secret(structure: str, level: Secrecy) -> bool:
    """Return whether a value in a structure is a secret; keys are ignored."""
    describes = False
    for part in _PART.finditer(structure):
        if _KEY_END.match(structure, part.end()):
            describes = describes_secret(part[0])
        elif is_amount(part[0]):
            if not describes and is_hidden_number(part[0], level):
                return True
        elif is_hidden_word(part[0], level):
            return True
    return False


def _hide_literals_of_call(call: str, level: Secrecy) -> str:
    """Replace the quoted secrets in a call or subscript."""
    inner_level = level if call.startswith("Secret") else min(level, Secrecy.POSSIBLE)

    def hide(match: re.Match[str]) -> str:
        is_secret = is_hidden_value(match[2], inner_level) and not is_secret_name(match[2])
        return match[1] + REDACTED if is_secret else match[0]

    return _QUOTED.sub(hide, call)


def _is_expression(call: str, sep: str, level: Secrecy) -> bool:
    """Return whether code computes the value: `password = ask(user)`, `token=tokens[3]`."""
    if level < Secrecy.CERTAIN or is_secret_name(call[:-1]):
        return True
    if call[-1] == "[" and call[:1].isupper():  # a type: Sequence[str]
        return True
    return not looks_random(call) and ("." in call or (sep.rstrip().endswith("=") and sep != "="))


def _names_secret(word: str, name: str) -> bool:
    """Return whether a value is a variable for the secret: `password=password`, `args.password`."""
    last = word.rpartition(".")[2]
    return word == name or (_DOTTED.fullmatch(word) is not None and is_secret_name(last))


def _hide_pair(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    level = secrecy(name)
    # In a plain list, both items may be names.
    level = level if match["open"] or name.startswith("-") else min(level, Secrecy.POSSIBLE)
    is_sure = secrecy(name) >= Secrecy.CERTAIN or match["open"] or name.startswith("-")
    if not is_sure or is_secret_name(value) or not is_hidden_value(value, level):
        return match[0]
    return replace_group(match, "value")
