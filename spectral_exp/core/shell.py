"""Text as a word of a shell command that a person copies from a terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable


def shell_word(text: str) -> str:
    """Return `text` as one word for bash or zsh, in printable characters only.

    Control characters, and bytes of a file name that are not UTF-8, become escapes in `$'...'`.
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escape, text)) + "'"


def shell_command(words: Iterable[str]) -> str:
    """Return `words` as one line for bash or zsh."""
    return " ".join(map(shell_word, words))


def _escape(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
