"""Byte and character tokenizers, and loading of any saved tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.data.bpe import BpeTokenizer
from spectral_exp.data.cache import read_json
from spectral_exp.data.huggingface import HuggingFaceTokenizer
from spectral_exp.data.tokenizer_base import DESCRIPTION, Ids, Tokenizer, TokenizerSpec, utf8


class ByteTokenizer(Tokenizer):
    """The 256 byte values; encodes any UTF-8 text."""

    kind = "byte"

    def __init__(self) -> None:
        super().__init__([bytes([value]) for value in range(256)])

    def encode(self, text: str) -> Ids:
        """Return the UTF-8 bytes of the text."""
        return np.frombuffer(utf8(text), dtype=np.uint8)

    def _definition(self) -> dict[str, Any]:
        return {}


class CharTokenizer(Tokenizer):
    """One id for each of the given characters, in order of code point."""

    kind = "char"

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        super().__init__([utf8(character) for character in self.characters])
        points = np.frombuffer(self.characters.encode("utf-32-le"), dtype="<u4")
        # -1 marks unknown characters; the extra last element represents all larger code points.
        self._ids = np.full(int(points.max(initial=0)) + 2, -1, dtype=np.int32)
        self._ids[points] = np.arange(len(points))

    def encode(self, text: str) -> Ids:
        """Return the ids of the characters, or raise a UserError naming unknown ones."""
        utf8(text)  # raises a UserError for lone surrogates
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if ids.min(initial=0) < 0:
            unknown = sorted({chr(point) for point in points[ids < 0].tolist()})
            raise UserError(self._unknown_message(unknown))
        encoded: Ids = ids.astype(self.dtype)
        return encoded

    def _unknown_message(self, characters: list[str]) -> str:
        names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in characters[:10])
        more = f" and {len(characters) - 10} more" if len(characters) > 10 else ""
        return (
            f"the character tokenizer does not know {names}{more}: its {self.vocab_size} "
            "characters are those of its training text; remove the unknown ones or use "
            "tokenizer=byte"
        )

    def _definition(self) -> dict[str, Any]:
        return {"characters": self.characters}


class Byte(TokenizerSpec):
    """Byte tokenizer: vocabulary 256, no training, any language."""

    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return the kind; there are no settings."""
        return {"kind": "byte"}

    def build(self, text: str | None, cache: Path) -> ByteTokenizer:
        """Return the byte tokenizer."""
        return ByteTokenizer()


class Char(TokenizerSpec):
    """Character tokenizer: one id per character of the corpus, including the validation split."""

    needs_text = True
    whole_text = True

    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return the kind; the text determines the characters."""
        return {"kind": "char"}

    def build(self, text: str | None, cache: Path) -> CharTokenizer:
        """Return the tokenizer of the characters of `text`."""
        return CharTokenizer("".join(set(text or "")))


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load a tokenizer saved by `Tokenizer.save`, or raise a UserError if there is none."""
    folder = Path(folder)
    description = read_json(folder / DESCRIPTION)
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char" and isinstance(description.get("characters"), str):
        return CharTokenizer(description["characters"])
    if kind == "bpe":
        return BpeTokenizer.load(folder)
    if kind == "huggingface":
        return HuggingFaceTokenizer.load(folder)
    raise UserError(f"{folder} holds no readable tokenizer ({DESCRIPTION} is missing or damaged)")
