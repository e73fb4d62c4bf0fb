"""Classify values: decide whether a value is a secret, given the `Secrecy` of its name."""

from __future__ import annotations

import re

from spectral_exp.core.secret_names import WORDS, Secrecy

REDACTED = "<redacted>"

_SHORTEST_CREDENTIAL = 6
_SHORTEST_GENERATED = 10
_LENGTH_OF_HASHES = 20
_LONGEST_WORD = 24
_LONGEST_CAPITALS = 11
_SHORTEST_NUMBER = 8  # digits of a number that is a key; shorter numbers are counts

_PLACEHOLDER = re.compile(
    r"\$\{[\w.:]+\}|\$[A-Z_][A-Z0-9_]*|\$\([^()]*\)|%[A-Z_]{2,}%|%s|%\(\w+\)s"
    r"|\{\{[^{}]*\}\}|\{(\d|[A-Za-z_][A-Za-z_.]*)(![rs])?\}"
    r"|<[A-Za-z _.-]{1,60}>|[*•]+|[xX]{3,}|\.{3}|\?{3}"
    r"|(?i:(your|insert|replace)[_-][\w-]*)"
)
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}([.+a-z]+\d{0,4})?")
_SPECIAL_TOKEN = re.compile(r"[<\[{|].{0,40}[>\]}|]", re.DOTALL)
_CONSTANTS = frozenset(
    ("None", "null", "nil", "true", "false", "True", "False", "~", "???", "!!null")
)
_NUMBER = re.compile(r"[-+]?\d[\d._]*")
_AMOUNT = re.compile(r"[-+]?[\d._,]+(e[-+]?\d+)?\s*[kmbtg]?i?b?", re.IGNORECASE)
_PART = re.compile(r"[A-Za-z0-9]+")
_ORDINARY = re.compile(
    r"[A-Za-z]?[a-z]*(?:[A-Z][a-z]{2,}|At|By|Db|Fn|Id|In|Io|Of|On|To)*\d{0,4}"
    r"|[A-Z]+\d{0,4}|\d{1,9}[A-Za-z]{0,2}"
)
"""Words, possibly in capitals or joined, and a number: gpt2, LayerNorm, 8B."""
_MIXED = re.compile(r"(?=.{8})(?=(?:.*\d){2})[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")
_WORD_WITH_DIGITS = re.compile(r"(?=.{7}|.{4}\d\d)(?=\D*\d)[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS_BEGIN_OR_END = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_CASE_CHANGES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[a-z])")


def replace_group(match: re.Match[str], group: str | int) -> str:
    """Return the text of `match` with `REDACTED` in place of one of its groups."""
    start, end = (position - match.start() for position in match.span(group))
    return match[0][:start] + REDACTED + match[0][end:]


def is_placeholder(value: str) -> bool:
    """Return whether `value` is a reference to a secret, as `${oc.env:HF_TOKEN}`, or a mask."""
    return _PLACEHOLDER.fullmatch(value) is not None


def is_hidden_value(value: str, level: Secrecy) -> bool:
    """Return whether a text under a name of this secrecy is a secret."""
    if level is Secrecy.NONE or not value or value == REDACTED or is_placeholder(value):
        return False
    if level is Secrecy.PASSWORD:
        return True
    if value.lower() in WORDS["states"] or _VERSION.fullmatch(value):
        return False
    if level is Secrecy.CERTAIN:
        return True
    return _is_credential(value) if level is Secrecy.POSSIBLE else _is_generated(value)


def is_hidden_number(value: float | str, level: Secrecy) -> bool:
    """Return whether a number under a name of this secrecy is a secret."""
    if level is Secrecy.PASSWORD:
        return True
    digits = str(value).lstrip("+-").replace("_", "")
    is_long = digits.isdecimal() and len(digits) >= _SHORTEST_NUMBER
    return level is Secrecy.CERTAIN and is_long


def is_hidden_word(value: str, level: Secrecy) -> bool:
    """Return whether an unquoted text, which may be a number or a constant, is a secret."""
    if value in _CONSTANTS or value.lower() in WORDS["function_words"]:
        return False
    if _NUMBER.fullmatch(value):
        return is_hidden_number(value, level)
    return is_hidden_value(value, level)


def is_amount(value: str) -> bool:
    """Return whether `value` is a number, possibly with a unit: 12, 1e-3, 10B."""
    return _AMOUNT.fullmatch(value) is not None


def looks_random(value: str) -> bool:
    """Return whether a text contains more than ordinary words and numbers."""
    return _MIXED.fullmatch(value) is not None or any(
        len(part) > (_LONGEST_CAPITALS if part.isupper() else _LONGEST_WORD)
        or not _ORDINARY.fullmatch(part)
        for part in _PART.findall(value)
    )


def _is_credential(value: str) -> bool:
    if len(value) < _SHORTEST_CREDENTIAL or not value.isascii() or any(map(str.isspace, value)):
        return False
    if is_amount(value) or _SPECIAL_TOKEN.fullmatch(value):
        return False
    return looks_random(value) or _WORD_WITH_DIGITS.fullmatch(value) is not None


def _is_generated(value: str) -> bool:
    """Return whether letters, digits and capitals alternate as in generated values."""
    if not _is_credential(value) or _UUID.fullmatch(value):
        return False
    return any(
        len(_DIGITS_BEGIN_OR_END.findall(part)) >= 4
        or len(_CASE_CHANGES.findall(part)) >= 6
        or (len(part) >= _LENGTH_OF_HASHES and not _ORDINARY.fullmatch(part))
        for part in _PART.findall(value)
        if len(part) >= _SHORTEST_GENERATED
    )
