"""What every tokenizer has in common: ids, the bytes behind them, and text made of them."""

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
    """The smallest unsigned integer type, little-endian, that holds every id of a vocabulary."""
    for name in ("<u1", "<u2", "<u4"):
        if vocab_size - 1 <= np.iinfo(name).max:
            return np.dtype(name)
    raise ValueError(f"a vocabulary of {vocab_size} tokens has no id type")


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text; a UserError when it holds half a surrogate pair, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, "
            "which no UTF-8 text has; pass valid Unicode text"
        ) from error


class Tokenizer(ABC):
    """Turns text into ids and back; each id stands for a fixed byte string.

    Args:
        pieces: the bytes of each id.
        special: ids that stand for no text, with the name to show for them.

    Attributes:
        vocab_size: number of ids.
        dtype: smallest unsigned type holding an id; `encode` returns it.
        token_bytes: (V,) int64, UTF-8 bytes of text each id accounts for; 0 for special ids.
        end_of_text: id that separates documents, or None when the vocabulary has none.
        fingerprint: hexadecimal SHA-256, equal exactly for tokenizers that encode everything alike.
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
        """The ids of a text, exactly invertible by `decode`."""

    @abstractmethod
    def _definition(self) -> dict[str, Any]:
        """All that defines this tokenizer, as JSON-able values."""

    def encode_many(self, texts: Iterable[str]) -> list[Ids]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; never raises: broken UTF-8 and ids outside the vocabulary become U+FFFD."""
        unknown = "\ufffd".encode()
        shown, size = self._shown, self.vocab_size
        values = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors alike
        return b"".join(shown[i] if 0 <= i < size else unknown for i in values).decode(
            "utf-8", errors="replace"
        )

    def token_text(self, token: int) -> str:
        """A short printable label of one id, for plots and tables: no blanks, no control characters."""
        piece = self._shown[token]
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in piece)
        return "".join(
            "\u2423" if c == " " else c if c.isprintable() else _escaped(c) for c in text
        )

    def byte_counts(self, id_counts: Bytes64) -> Bytes64:
        """How often each of the 256 byte values occurs in a text whose ids occur `id_counts` (V,) times."""
        counts = np.zeros(256, dtype=np.int64)
        for token in np.flatnonzero(id_counts):
            values = np.frombuffer(self._pieces[token], dtype=np.uint8)
            counts += id_counts[token] * np.bincount(values, minlength=256)
        return counts

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all that defines the tokenizer."""
        text = json.dumps({"kind": self.kind, **self._definition()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` needs into a folder, which is made when missing.

        A file that already holds this tokenizer is left alone; any other is replaced at once and durably.
        """
        content = json.dumps({"kind": self.kind, **self._definition()}, indent=1).encode()
        file = folder / DESCRIPTION
        if not (file.is_file() and file.read_bytes() == content):
            write_file(file, content)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class TokenizerSpec(ABC):
    """The settings of a tokenizer: what a config file names, before any text is seen.

    `needs_text` says whether `build` must be given text; `whole_text` whether that is the whole corpus rather than its
    training split.
    """

    needs_text: ClassVar[bool] = False
    whole_text: ClassVar[bool] = False

    @abstractmethod
    def identity(self, cache: Path) -> dict[str, str | int]:
        """Values that, with the text, determine the tokenizer: part of the key of tokenized data."""

    @abstractmethod
    def build(self, text: str | None, cache: Path) -> Tokenizer:
        """Make the tokenizer, from text where `needs_text`."""
