"""Secrets inside text: assignments, headers, URLs, private keys and the known shapes of access tokens.

Every expression here takes time proportional to the length of the text, whatever it holds.
"""

from __future__ import annotations

import base64
import binascii
import re

from spectral_exp.core.secret_names import Secrecy, is_secret_name, secrecy

REDACTED = "<redacted>"

_SHORTEST_POSSIBLE = 6
_RANDOM_LENGTH = 16

# --- values ----------------------------------------------------------------------------------------------------------

_SPECIAL_TOKEN = re.compile(r"[<\[{|].{0,40}[>\]}|]", re.DOTALL)
_AMOUNT = re.compile(r"[-+]?[\d._,]+(e[-+]?\d+)?\s*[kmbtg]?i?b?", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{(oc\.env:\w+|[\w.]+)\}")
_NOTHING = {"auto", "basic", "bearer", "default", "digest", "none", "null", "oauth2", "required"}


def is_reference(value: str) -> bool:
    """Whether `value` only names where a secret comes from, as `${oc.env:HF_TOKEN}` does."""
    return _REFERENCE.fullmatch(value) is not None


def is_hidden_value(value: str, doubt: Secrecy) -> bool:
    """Whether a text that stands under a name of this secrecy has to be hidden."""
    if not value or value == REDACTED or is_reference(value) or doubt is Secrecy.NONE:
        return False
    return doubt is Secrecy.CERTAIN or _may_be_credential(value)


def looks_random(value: str) -> bool:
    """Whether a text has digits, capitals or signs among its letters, or is long: no ordinary word."""
    return len(value) >= _RANDOM_LENGTH or not (value.isalpha() and value[1:].islower())


_WORDS_ALONE = re.compile(r"[a-z]{1,20}([_-][a-z]{1,20})*")
"""As settings are named: learned, learned_embedding."""


def _may_be_credential(value: str) -> bool:
    if len(value) < _SHORTEST_POSSIBLE or any(map(str.isspace, value)):
        return False
    if (
        _WORDS_ALONE.fullmatch(value)
        or value.lower() in _NOTHING
        or _AMOUNT.fullmatch(value)
        or _SPECIAL_TOKEN.fullmatch(value)
    ):
        return False
    return value.isascii()


# --- shapes ----------------------------------------------------------------------------------------------------------

_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40})PRIVATE KEY( BLOCK)?-----.*?"
    r"(-----END \1PRIVATE KEY( BLOCK)?-----|\Z)",
    re.DOTALL,
)
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"gh[opsru]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|gl[a-z]{2,5}-[\w-]{20,}"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|sk-(?=[\w-]{0,200}\d)[\w-]{16,}|gsk_[A-Za-z0-9]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}"
    r"|lsv2_\w{20,}|xai-[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|xapp-[\w-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|dop_v1_[a-f0-9]{32,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|(?<!-)eyJ[\w-]{8,}\.eyJ[\w-]{4,}(?:\.[\w-]*)?"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
    r")"
)
_WEBHOOK = re.compile(
    r"(?<=://)(hooks\.slack\.com/(?:services|workflows)/"
    r"|(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/)[\w/-]+"
)
_URL_LOGIN = re.compile(r"(?<=://)(?:[^/@\s:\"'<>]{0,200}:[^@\s\"'<>]{0,500}|[^/@\s:\"'<>]{1,500})(?=@)")
_URL_QUERY = re.compile(r"([?&#;])([\w.%-]{1,80})=([^&;\s\"'<>#]+)")
_SIGNED = {"sig", "signature", "key", "code", "hmac", "x-amz-credential", "x-goog-credential"}
_BEARER = re.compile(r"\b(bearer)\s+([\w.~+/=-]{8,})", re.IGNORECASE)
_BASIC = re.compile(r"\b(basic)\s+([A-Za-z0-9+/_-]{6,}={0,2})(?![\w=])", re.IGNORECASE)
_BEARER_WORDS = {"authentication", "authorization", "credential", "credentials", "required"}


def hide_shapes(text: str) -> str:
    """`text` without what looks like a secret by itself, whatever its name."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    text = _KNOWN_TOKEN.sub(REDACTED, text)
    if "://" in text:
        text = _WEBHOOK.sub(rf"\g<1>{REDACTED}", text)
        text = _URL_LOGIN.sub(_hide_login, text)
    if "=" in text:
        text = _URL_QUERY.sub(_hide_parameter, text)
    text = _BEARER.sub(_hide_bearer, text)
    return _BASIC.sub(_hide_basic, text)


def _hide_login(match: re.Match[str]) -> str:
    # ssh://git@host names an account; a login without a password in front of a website is a token.
    scheme = match.string[: match.start() - 3].rpartition("://")[2]
    return REDACTED if ":" in match[0] or scheme.endswith(("http", "https")) else match[0]


def _hide_parameter(match: re.Match[str]) -> str:
    name = match[2]
    signed = name.lower() in _SIGNED or name.lower().endswith(("-signature", "_signature"))
    hidden = signed or is_hidden_value(match[3], secrecy(name))
    return f"{match[1]}{name}={REDACTED}" if hidden else match[0]


def _hide_bearer(match: re.Match[str]) -> str:
    return match[0] if match[2].lower() in _BEARER_WORDS else f"{match[1]} {REDACTED}"


def _hide_basic(match: re.Match[str]) -> str:
    try:
        login = base64.b64decode(match[2] + "==", altchars=b"-_" if "-" in match[2] else None)
    except (binascii.Error, ValueError):
        return match[0]
    return f"{match[1]} {REDACTED}" if b":" in login and login.isascii() else match[0]


# --- names -----------------------------------------------------------------------------------------------------------

_NAME = r"[A-Za-z_][\w./@-]{0,100}"
_VALUE = re.compile(
    r"\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*(?:\"|$)|'(?:[^'\\\n]|\\.|'')*(?:'|$)"
    r"|(?P<escaped>\\{1,8}[\"']).*?(?:(?P=escaped)|$)"
    r"|[{\[(]|[^\s,;\"'{}\[\]()][^\s;\"']*",
    re.DOTALL | re.MULTILINE,
)
_HEADER = re.compile(
    r"(?<![\w.])((?:proxy-)?authorization|(?:set-)?cookie)"
    r"((?:\\{0,8}[\"'])?\s*[:=]\s*(?:\\{0,8}[\"'])?)([^\"'}\n\\]+)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?<!\w)(?P<mark>\\{0,8}[\"'])?(?P<name>" + _NAME + r")(?(mark)(?P=mark))"
    r"(?P<sep>\s*(?:=>|:=|:(?!:|//)|(?<![=!<>])=(?!=))[ \t]*)"
)
_OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z][\w-]{0,60})([ \t]+)(?!-)([^\s\"']+|\"[^\"\n]*\"|'[^'\n]*')")
_PAIR = re.compile(
    r"(?P<mark>[\"'])(?P<name>-{0,2}[A-Za-z][\w-]{0,60})(?P=mark)(?P<sep>\s*,\s*)"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
)
_LOGIN_OPTION = re.compile(r"(?<![\w-])(-u|--user|--proxy-user)([ \t=]+)([^\s:\"']+:[^\s\"']+)")
_BLOCK = re.compile(r"([ \t]*(?:- +)?)(" + _NAME + r"):[ \t]*(?:[|>][+-]?)?[ \t]*\n?")
_BLOCK_LINE = re.compile(r"([ \t]*(?:- +)?(?:[\w./@-]{1,100}:[ \t]+)?)(\S.*?)([ \t]*\n?)")
_LITERAL = re.compile(
    r"(?<![\w])(?P<mark>\\{0,8}[\"'])?(?P<name>" + _NAME + r")(?(mark)(?P=mark)|\b)"
    r"(?P<sep>\]?(?:\s*:\s*[\w\[\]. |]{1,60})?\s*(?:=(?!=)|:)\s*[bru]?)"
    r"(?P<value>\"[^\"\\\n{}]+\"|'[^'\\\n{}]+')"
)
_OPENING = re.compile(r"\"\"\"|'''|\\{1,8}[\"']|[\"']")
_BRACKET = re.compile(r"[{}\[\]()]")
_LOOKED_INTO = 2000  # characters of a structure under a name that may be a secret's
_NEXT = re.compile(r",(?=\s|$|[\w./@+-]+\s*[=:])|&(?=[\w.-]+=)")


def hide_assigned(text: str) -> str:
    """`text` without the values that stand beside the names of secrets in it.

    Knows JSON, YAML, the `repr` of Python objects, command lines, headers and settings files, also
    when they are part of a longer text.
    """
    if not any(sign in text for sign in "=:,") and "-" not in text:
        return text
    text = _HEADER.sub(_hide_header, text)
    if "\n" in text:
        text = _hide_blocks(text)
    text = _hide_all(text)
    if "-" in text:
        text = _OPTION.sub(_hide_option, text)
        text = _LOGIN_OPTION.sub(rf"\g<1>\g<2>{REDACTED}", text)
    return _PAIR.sub(_hide_pair, text) if "," in text else text


def hide_literals(code: str) -> str:
    """Source code without the string literals that are assigned to the names of secrets."""

    def hidden(match: re.Match[str]) -> str:
        value = match["value"][1:-1]
        doubt = secrecy(match["name"])
        is_plain = is_secret_name(value) or not _may_be_credential(value) or not looks_random(value)
        if is_plain or not is_hidden_value(value, doubt):
            return match[0]
        return _with_value(match, match["value"][0] + REDACTED + match["value"][-1])

    return _LITERAL.sub(hidden, code)


def _hide_header(match: re.Match[str]) -> str:
    value = match[3]
    if value.strip() in ("", REDACTED, "None", "null"):
        return match[0]
    is_login = match[1].lower().endswith("authorization")
    simple = re.match(r"(?:[A-Za-z][\w-]*[ \t]+)?[^\s,;]+", value) if is_login else None
    whole = simple is None or re.match(r"(aws4|digest)", value, re.IGNORECASE) is not None
    rest = "" if whole or simple is None else value[simple.end() :]
    return f"{match[1]}{match[2]}{REDACTED}{rest}"


def _hide_blocks(text: str) -> str:
    """Hide the lines below a name, as YAML writes mappings, lists and long texts."""
    hidden = []
    doubt, indent = Secrecy.NONE, 0
    for line in text.splitlines(keepends=True):
        words = line.lstrip(" \t")
        depth = len(line) - len(words)
        is_inside = depth > indent or (depth == indent and words.startswith("- ")) or not words.strip()
        if doubt is not Secrecy.NONE and is_inside:
            hidden.append(_hide_line(line, doubt))
            continue
        block = _BLOCK.fullmatch(line)
        doubt = secrecy(block[2]) if block else Secrecy.NONE
        indent = len(block[1]) if block else 0
        hidden.append(line)
    return "".join(hidden)


def _hide_line(line: str, doubt: Secrecy) -> str:
    match = _BLOCK_LINE.fullmatch(line)
    if match is None or match[2].endswith(":"):
        return line
    hidden = is_hidden_value(match[2].strip("\"'"), doubt)
    return f"{match[1]}{REDACTED}{match[3]}" if hidden else line


def _hide_all(text: str) -> str:
    """Go from assignment to assignment; what is not hidden is searched itself."""
    pieces = []
    position = 0
    while match := _ASSIGNED.search(text, position):
        start = end = match.end()
        shown = None
        doubt = secrecy(match["name"])
        if doubt is not Secrecy.NONE and (value := _VALUE.match(text, start)):
            end = _value_end(text, match, value, doubt)
            shown = _hidden_value(text[start:end], match["mark"] or "", doubt)
        if shown is None:
            end = start
        elif text[start] in "{[(":
            end = _structure_end(text, start, len(text))
        pieces.append(text[position:start] + (shown or ""))
        position = end
    return "".join([*pieces, text[position:]])


def _value_end(text: str, match: re.Match[str], value: re.Match[str], doubt: Secrecy) -> int:
    start, found = value.start(), value[0]
    if found in ("{", "[", "("):
        return _structure_end(text, start, min(len(text), start + _LOOKED_INTO))
    if found[0] in "\"'\\":
        return value.end()
    line_start = text.rfind("\n", 0, match.start()) + 1
    before = text[line_start : match.start()].strip(" \t-")
    if not before and match["sep"].strip() == ":" and doubt is Secrecy.CERTAIN:
        line = text[start:].partition("\n")[0]
        return start + len(line.partition(" #")[0].rstrip())
    if cut := _NEXT.search(found):
        found = found[: cut.start()]
    # Brackets that were opened in front of the name.
    inside = found.rstrip(")]}>")
    n_closing = len(found) - len(inside) - sum(found.count(sign) for sign in "([{<")
    return start + len(found) - max(0, min(n_closing, len(found) - 1))


def _structure_end(text: str, start: int, limit: int) -> int:
    """The end of the mapping, list or call that begins at `start`, or `limit` if that comes first."""
    depth = 0
    for sign in _BRACKET.finditer(text, start, limit):
        depth += 1 if sign[0] in "{[(" else -1
        if depth == 0:
            return sign.end()
    return limit


def _hidden_value(value: str, mark: str, doubt: Secrecy) -> str | None:
    """What stands for a value, or None if it is no secret."""
    opening = _OPENING.match(value)
    if opening is not None:
        inside = value[opening.end() :].removesuffix(opening[0])
        closing = opening[0] if len(value) > len(inside) + opening.end() else ""
        return opening[0] + REDACTED + closing if is_hidden_value(inside, doubt) else None
    if value[0] in "{[(":
        parts = re.split(r"[\s,:{}\[\]()\"'\\=]+", value)
        hidden = any(is_hidden_value(part, doubt) and not _AMOUNT.fullmatch(part) for part in parts)
        return f"{mark}{REDACTED}{mark}" if hidden else None
    if value in ("None", "null", "true", "false", "True", "False", "???"):
        return None
    # In a sentence only what is no ordinary word: "unexpected token: something".
    if doubt is Secrecy.POSSIBLE and not looks_random(value):
        return None
    return REDACTED if is_hidden_value(value, doubt) else None


def _hide_option(match: re.Match[str]) -> str:
    value = match[3].strip("\"'")
    hidden = is_hidden_value(value, secrecy(match[1]))
    return f"{match[1]}{match[2]}{REDACTED}" if hidden else match[0]


def _hide_pair(match: re.Match[str]) -> str:
    doubt = secrecy(match["name"])
    certain = doubt is Secrecy.CERTAIN or match["name"].startswith("-")
    value = match["value"][1:-1]
    if not certain or not is_hidden_value(value, doubt) or is_secret_name(value):
        return match[0]
    return _with_value(match, match["value"][0] + REDACTED + match["value"][0])


def _with_value(match: re.Match[str], value: str) -> str:
    return match[0][: match.start("value") - match.start()] + value
