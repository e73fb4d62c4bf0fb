"""Base of tokenizers whose definition is a `tokenizer.json` of the `tokenizers` library."""

from __future__ import annotations

import hashlib
import importlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import read_regular
from spectral_exp.core.wording import install
from spectral_exp.data.tokenizer_base import Tokenizer, write_changed

if TYPE_CHECKING:
    from typing_extensions import Self

_VOCABULARY = "tokenizer.json"
_MAX_BYTES = 256 << 20  # limit on the size of a vocabulary file


class JsonTokenizer(Tokenizer):
    """A tokenizer that the `tokenizers` library computes.

    Args:
        definition: content of a `tokenizer.json`.
        origin: name of its source in error messages.
    """

    def __init__(self, definition: str, origin: str = "the tokenizer") -> None:
        library = import_tokenizers()
        self._json = self._normalize(definition, origin)
        try:
            self._backend = library.Tokenizer.from_str(self._json)
        except Exception as error:  # the library raises no narrower type
            raise UserError(
                f"{origin} is not a tokenizer.json that the installed tokenizers library reads"
            ) from error
        self._backend.encode_special_tokens = True
        tokens = self._backend.get_vocab(with_added_tokens=True)
        super().__init__(*self._read_pieces(json.loads(self._json), tokens, origin))

    @staticmethod
    @abstractmethod
    def _normalize(definition: str, origin: str) -> str:
        """Return the definition as it is used. Raises UserError if it is not supported."""

    @staticmethod
    @abstractmethod
    def _read_pieces(
        value: Mapping[str, Any], tokens: Mapping[str, int], origin: str
    ) -> tuple[list[bytes], dict[int, str]]:
        """Return the bytes of each id, and the ids without text with their names.

        Args:
            value: the parsed definition.
            tokens: token -> id.
            origin: as of the constructor.
        """

    def save(self, folder: Path) -> None:
        """Write a `tokenizer.json` that other tools can read, then the description."""
        write_changed(folder / _VOCABULARY, self._json.encode())
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a tokenizer saved by `save`."""
        return cls(read_definition(folder / _VOCABULARY), str(folder / _VOCABULARY))

    def _definition(self) -> dict[str, Any]:
        return {"sha256": hashlib.sha256(self._json.encode()).hexdigest()}


def read_definition(file: Path) -> str:
    """Return the text of a vocabulary file. Raises UserError if it cannot be read."""
    try:
        return read_regular(file, _MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{file} cannot be read as a tokenizer.json ({reason})") from error


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each printable character of a byte-level vocabulary represents.

    Printable Latin-1 characters represent themselves; the other bytes have the code points from 256
    on, in order.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + n): byte for n, byte in enumerate(hidden)
    }


def import_tokenizers() -> Any:
    """Import the `tokenizers` library and its submodules, or raise a UserError naming the extra."""
    try:
        for part in ("models", "pre_tokenizers", "decoders", "trainers"):
            importlib.import_module(f"tokenizers.{part}")
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError(
            "tokenizer=bpe, gpt2 and hf need the tokenizers library: "
            f"{install('bpe')}, or use tokenizer=byte"
        ) from error
