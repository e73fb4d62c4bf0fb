"""Base classes of tokenizers and of their settings."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from spectral_exp.core.errors import UserError
from spectral_exp.data.cache import write_file

Ids = npt.NDArray[np.unsignedinteger[Any]]
Bytes64 = npt.NDArray[np.int64]

DESCRIPTION = "tokenizer_kind.json"


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest little-endian unsigned type that holds every id of a vocabulary."""
    for name in ("<u1", "<u2", "<u4"):
        if vocab_size - 1 <= np.iinfo(name).max:
            return np.dtype(name)
    raise ValueError(f"a vocabulary of {vocab_size} tokens has no id type")


def utf8(text: str) -> bytes:
    """Return the UTF-8 bytes of a text, or raise a UserError if it holds a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at position "
            f"{error.start}, which UTF-8 cannot encode; pass valid Unicode text"
        ) from error


class Tokenizer(ABC):
    """Conversion between text and ids, each of which represents a fixed byte string.

    Args:
        pieces: the bytes of each id.
        special: ids without text, with their display names.

    Attributes:
        vocab_size: number of ids.
        dtype: smallest unsigned type that holds an id, and the type of encoded text.
        token_bytes: (V,) int64, number of UTF-8 bytes of each id; 0 for special ids.
        end_of_text: id that separates documents, or None if the vocabulary has none.
        fingerprint: hexadecimal SHA-256, equal for tokenizers with equal definitions.
    """

    kind: ClassVar[str]

    def __init__(self, pieces: Sequence[bytes], special: dict[int, str] | None = None) -> None:
        self._special = special or {}
        self._pieces = [
            b"" if i in self._special else bytes(piece) for i, piece in enumerate(pieces)
        ]
        self._shown = [
            self._special[i].encode() if i in self._special else p
            for i, p in enumerate(self._pieces)
        ]
        self.vocab_size = len(self._pieces)
        self.dtype = id_dtype(self.vocab_size)
        self.token_bytes: Bytes64 = np.array([len(piece) for piece in self._pieces], dtype=np.int64)
        self.end_of_text: int | None = None

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Return the ids of a text, from which `decode` restores it exactly."""

    @abstractmethod
    def _definition(self) -> dict[str, Any]:
        """Return the definition of this tokenizer as JSON-able values."""

    def encode_many(self, texts: Iterable[str]) -> list[Ids]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; invalid UTF-8 and ids outside the vocabulary become U+FFFD."""
        unknown = "\ufffd".encode()
        shown, size = self._shown, self.vocab_size
        values = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors
        text = b"".join(shown[i] if 0 <= i < size else unknown for i in values)
        return text.decode("utf-8", errors="replace")

    def token_text(self, token: int) -> str:
        """Return a short printable label of one id for plots and tables."""
        piece = self._shown[token]
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in piece)
        return "".join("\u2423" if c == " " else c if c.isprintable() else _escape(c) for c in text)

    def byte_counts(self, id_counts: Bytes64) -> Bytes64:
        """Return the number of occurrences of each byte value (256,), given those of ids (V,)."""
        counts = np.zeros(256, dtype=np.int64)
        for token in np.flatnonzero(id_counts):
            values = np.frombuffer(self._pieces[token], dtype=np.uint8)
            counts += id_counts[token] * np.bincount(values, minlength=256)
        return counts

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the tokenizer's definition."""
        text = json.dumps({"kind": self.kind, **self._definition()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Save the tokenizer for `load_tokenizer` into a folder, which is created if missing.

        A file that already holds this tokenizer is kept; any other is replaced atomically.
        """
        content = json.dumps({"kind": self.kind, **self._definition()}, indent=1).encode()
        write_changed(folder / DESCRIPTION, content)


def write_changed(file: Path, content: bytes) -> None:
    """Write a file atomically, unless it holds this content."""
    if not (file.is_file() and file.read_bytes() == content):
        write_file(file, content)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class TokenizerSpec(ABC):
    """The settings of a tokenizer, from which `build` creates it.

    `needs_text` is true if `build` requires text; `whole_text` is true if that is the whole corpus
    and not only its training split.
    """

    needs_text: ClassVar[bool] = False
    whole_text: ClassVar[bool] = False

    @abstractmethod
    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return values that, with the text, determine the tokenizer; part of the cache key."""

    @abstractmethod
    def build(self, text: str | None, cache: Path) -> Tokenizer:
        """Build the tokenizer, from `text` if `needs_text`."""
