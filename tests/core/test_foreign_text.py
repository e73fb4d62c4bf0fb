"""Text of unknown origin is printed without anything that a terminal, a page or a reader's eye
would act upon."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.foreign_text import printable, printable_json, printable_lines

any_text = st.text(
    st.characters(codec=None, categories=None, exclude_categories=())
)  # surrogates too


def is_safe(character: str) -> bool:
    return (
        unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}
        and character not in "\u202e\u2066\u200b\ufeff"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]8;;http://x\x07", r"\x1b]8;;http://x\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\u202eexe\u2066", r"\u202eexe\u2066"),
        ("wa\u200bve", r"wa\u200bve"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("Größe \U0001f30a 波", "Größe \U0001f30a 波"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(any_text)
def test_printed_text_is_safe_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert all(map(is_safe, shown))
    assert printable(shown) == shown
    assert all(is_safe(c) or c in "\n\t" for c in printable_lines(text))


@given(st.dictionaries(any_text, any_text))
def test_json_keeps_its_values(content: dict[str, str]) -> None:
    text = printable_json(json.dumps(content, indent=1, ensure_ascii=False))
    assert all(is_safe(c) or c == "\n" for c in text)
    assert json.loads(text) == json.loads(json.dumps(content))


def test_long_text_is_cut() -> None:
    assert printable("a" * 1000, 5) == "aaaaa... (1,000 characters)"
