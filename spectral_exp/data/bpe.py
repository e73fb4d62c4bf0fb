"""Byte-level byte-pair encoding (Sennrich et al. 2016) with GPT-2's byte alphabet.

The `tokenizers` library trains and encodes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError, require
from spectral_exp.data.cache import cache_errors, write_file
from spectral_exp.data.tokenizer_base import Ids, TokenizerSpec, utf8
from spectral_exp.data.tokenizer_json import (
    JsonTokenizer,
    byte_alphabet,
    import_tokenizers,
    read_definition,
)

GPT2_NAME = "openai-community/gpt2"
_CHUNK_CHARACTERS = 1 << 16
_BATCH = 256
# White space after a visible character. No alternative of GPT-2's pre-tokenization pattern
# continues from a visible character into white space, so a token always ends there and cutting the
# text does not change its ids. The pattern lists only characters that every regular expression
# engine counts as white space.
_SAFE_CUT = re.compile(r"(?<=\S)[ \t\r\n]")


def chunks(text: str, size: int = _CHUNK_CHARACTERS) -> Iterator[str]:
    """Cut a text at positions that no token spans, into pieces of at least `size` characters."""
    start = 0
    while len(text) - start > size:
        cut = _SAFE_CUT.search(text, start + size)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


class BpeTokenizer(JsonTokenizer):
    """A byte-level BPE vocabulary in the format of the `tokenizers` library.

    Text is never encoded to special tokens; their names in a text are ordinary characters.

    Args:
        definition: content of a `tokenizer.json`.
        origin: name of its source in error messages.
    """

    kind = "bpe"

    def __init__(self, definition: str, origin: str = "the tokenizer") -> None:
        super().__init__(definition, origin)
        self.end_of_text = self._backend.token_to_id("<|endoftext|>")

    def encode(self, text: str) -> Ids:
        """Return the ids of the text; a long text is encoded in pieces that no token spans."""
        parts = self.encode_many(chunks(text))
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def encode_many(self, texts: Iterable[str]) -> list[Ids]:
        """Return the ids of each text, computed in parallel."""
        result: list[Ids] = []
        remaining = iter(texts)
        while batch := list(islice(remaining, _BATCH)):
            for text in batch:
                utf8(text)  # raises a UserError for lone surrogates
            encoded = self._backend.encode_batch_fast(batch, add_special_tokens=False)
            result += [np.array(one.ids, dtype=self.dtype) for one in encoded]
        return result

    @staticmethod
    def _normalize(definition: str, origin: str) -> str:
        """Return the definition without dropout, truncation and padding.

        Raises:
            UserError: the definition is not a byte-level BPE like GPT-2's.
        """
        try:
            value = json.loads(definition)
            model, before, after = (
                value["model"],
                value["pre_tokenizer"] or {},
                value["decoder"] or {},
            )
            added = value.get("added_tokens") or []
            vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
            is_supported = (
                model.get("type", "BPE") == "BPE"
                and not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"))
                and value.get("normalizer") is None
                and (before.get("type"), after.get("type")) == ("ByteLevel", "ByteLevel")
                and not before.get("add_prefix_space")
                and before.get("use_regex", True)
                and all(token["special"] for token in added)
                and sorted(vocabulary.values()) == list(range(len(vocabulary)))
                and all(character in model["vocab"] for character in byte_alphabet())
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{origin} is not a tokenizer.json of the tokenizers library"
            ) from error
        if not is_supported:
            raise UserError(
                f"{origin} must be a byte-level BPE like GPT-2's; "
                "other tokenizers cannot count or restore every byte exactly"
            )
        model["dropout"] = None
        value.update(truncation=None, padding=None, added_tokens=added)
        return json.dumps(value, ensure_ascii=False)

    @staticmethod
    def _read_pieces(
        value: Mapping[str, Any], tokens: Mapping[str, int], origin: str
    ) -> tuple[list[bytes], dict[int, str]]:
        special = {token["id"]: token["content"] for token in value["added_tokens"]}
        to_byte = byte_alphabet()
        pieces = [b""] * len(tokens)
        for text, i in tokens.items():
            if i not in special:
                pieces[i] = bytes(to_byte[character] for character in text)
        return pieces, special


class Bpe(TokenizerSpec):
    """Byte-level BPE trained on the training split.

    Args:
        vocab_size: number of tokens, including the 256 bytes; a short text may yield fewer.
    """

    needs_text = True

    def __init__(self, vocab_size: int = 1024) -> None:
        reason = "the 256 byte values are always tokens"
        require(vocab_size >= 256, "vocab_size", vocab_size, ">= 256", reason)
        self.vocab_size = vocab_size

    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return the vocabulary size and the version of the tokenizers library."""
        return {
            "kind": "bpe",
            "vocab_size": self.vocab_size,
            "tokenizers": str(import_tokenizers().__version__),
        }

    def build(self, text: str | None, cache: Path) -> BpeTokenizer:
        """Train on `text`; equal texts give equal tokenizers."""
        library = import_tokenizers()
        backend = library.Tokenizer(library.models.BPE())
        backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=True
        )
        backend.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(chunks(text or ""), trainer)
        return BpeTokenizer(backend.to_str())


class Gpt2(TokenizerSpec):
    """The GPT-2 vocabulary of 50257 tokens, or any byte-level BPE of the same kind.

    Args:
        path: a local `tokenizer.json`; null uses openai-community/gpt2, downloaded once into the
            cache.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return the checksum of the vocabulary file."""
        return {
            "kind": "gpt2",
            "sha256": hashlib.sha256(self._read_definition(cache).encode()).hexdigest(),
        }

    def build(self, text: str | None, cache: Path) -> BpeTokenizer:
        """Load the vocabulary without training."""
        return BpeTokenizer(self._read_definition(cache), self.path or str(_gpt2_place(cache)))

    def _read_definition(self, cache: Path) -> str:
        if self.path is not None:
            file = Path(self.path).expanduser()
            if not file.is_file():  # not a SettingError: raised while data is prepared
                raise UserError(
                    f"tokenizer.path={self.path} must be an existing tokenizer.json, "
                    "or null for GPT-2's own"
                )
            return read_definition(file)
        place = _gpt2_place(cache)
        if not place.is_file():
            content = _fetch_gpt2(place)
            with cache_errors(cache):
                write_file(place, content.encode())
        return read_definition(place)


def _gpt2_place(cache: Path) -> Path:
    return cache / "tokenizers" / "gpt2.json"


def _fetch_gpt2(place: Path) -> str:
    library = import_tokenizers()
    try:
        return str(library.Tokenizer.from_pretrained(GPT2_NAME).to_str())
    except Exception as error:  # the hub's client raises many types, depending on its version
        raise UserError(
            f"the GPT-2 vocabulary could not be fetched ({type(error).__name__}); without a "
            f"connection, download https://huggingface.co/{GPT2_NAME}/resolve/main/tokenizer.json "
            f"on another machine and copy it to {place}, or name it with tokenizer.path=FILE"
        ) from error
