"""Make text from strangers safe to print: names, samples, settings and error texts of records.

A control character can move the cursor, hide a line, set a link or reorder what a reader sees. Each
is replaced by the escape that Python writes for it, such as `\\x1b`. Text that is escaped already
stays as it is.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 500
"""Maximum number of printed characters of a name, value or message."""

# C0 and C1 controls; format characters that are invisible or reorder text (soft hyphen, zero-width,
# bidirectional marks, embeddings and isolates, line and paragraph separators, byte order mark,
# interlinear and tag characters); lone surrogates.
_INVISIBLE = (
    "\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff"
)
_UNSAFE = re.compile(f"[\x00-\x1f{_INVISIBLE}]")
_UNSAFE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_INVISIBLE}]")


def printable(value: object, limit: int = MAX_CHARACTERS) -> str:
    """`value` as one line without control characters, cut after `limit` characters."""
    return _UNSAFE.sub(_escape, _cut(str(value), limit))


def printable_lines(text: str, limit: int = 1 << 20) -> str:
    """Do the same as `printable`, but keep line breaks and tabs."""
    return _UNSAFE_IN_LINES.sub(_escape, _cut(text, limit))


def printable_json(text: str) -> str:
    """JSON whose strings hold escapes for what `printable` would replace.

    Their values stay the same.
    """
    return _UNSAFE_IN_LINES.sub(_json_escape, text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
