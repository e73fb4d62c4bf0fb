"""Any tokenizer file of the `tokenizers` library whose tokens restore the text byte for byte."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.data.tokenizer_base import Ids, TokenizerSpec, utf8
from spectral_exp.data.tokenizer_json import JsonTokenizer, byte_alphabet, read_definition

log = logging.getLogger(__name__)

_MARK = "\u2581"
"""Stands for a space in vocabularies of SentencePiece."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MAX_HOLES = 1 << 16
_PROBES = (
    "The quick brown fox, don't you?", "two  blanks   three", " begins with a blank", "ends ",
    "tab\tline\nblank line\n\n\r\nreturn", "0123 4567.89 -1e-5", "{[(<def f(x): return x_1>)]}",
)  # fmt: skip
_SHOWN = 20  # characters of a text in messages


class HuggingFaceTokenizer(JsonTokenizer):
    """A vocabulary of any kind whose tokens, joined, are the text.

    Special tokens are never read from a text, and no space is put before it.

    Args:
        definition: content of a `tokenizer.json`.
        origin: name of its source in error messages.

    Raises:
        UserError: it does not restore text exactly; the message names the condition.
    """

    kind = "huggingface"

    def __init__(self, definition: str, origin: str = "the tokenizer") -> None:
        super().__init__(definition, origin)
        self._origin = origin
        ends = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
        named = {name: i for i, name in self._special.items()}
        self.end_of_text = next((named[name] for name in ends if name in named), None)
        for probe in _PROBES:
            self.encode(probe)

    def encode(self, text: str) -> Ids:
        """Return the ids of the text.

        Raises:
            UserError: the ids do not restore the text.
        """
        expected = utf8(text)
        ids = self._backend.encode(text, add_special_tokens=False).ids
        found = b"".join([self._pieces[i] for i in ids])
        if found != expected:
            raise UserError(self._describe_difference(expected, found, ids))
        return np.array(ids, dtype=self.dtype)

    @staticmethod
    def _normalize(definition: str, origin: str) -> str:
        return _without_additions(definition, origin)

    @staticmethod
    def _read_pieces(
        value: Mapping[str, Any], tokens: Mapping[str, int], origin: str
    ) -> tuple[list[bytes], dict[int, str]]:
        return _pieces(value, tokens, origin)

    def _describe_difference(self, expected: bytes, found: bytes, ids: list[int]) -> str:
        place = next(
            (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
            min(len(expected), len(found)),
        )
        before, after = (
            text[place : place + _SHOWN].decode(errors="replace") for text in (expected, found)
        )
        unknown = next((self._special[i] for i in ids if i in self._special), None)
        reason = f"; the vocabulary has no token for it and gives {unknown}" if unknown else ""
        return (
            f"{self._origin} does not restore text (round trip): at byte {place} of a text, "
            f"{before!r} comes back as {after!r}{reason}; its losses would not be those of the "
            "text, so choose a tokenizer that keeps every byte, or tokenizer=byte"
        )


class HuggingFace(TokenizerSpec):
    """A tokenizer of any kind in the format of the `tokenizers` library.

    Args:
        path: a `tokenizer.json`.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def identity(self, cache: Path) -> dict[str, str | int]:
        """Return the checksum of the file."""
        digest = hashlib.sha256(self._read().encode()).hexdigest()
        return {"kind": "huggingface", "sha256": digest}

    def build(self, text: str | None, cache: Path) -> HuggingFaceTokenizer:
        """Load the vocabulary without training."""
        return HuggingFaceTokenizer(self._read(), self.path)

    def _read(self) -> str:
        file = Path(self.path).expanduser()
        if not file.is_file():  # not a SettingError: raised while data is prepared
            raise UserError(f"tokenizer.path={self.path} must be an existing tokenizer.json")
        return read_definition(file)


def _without_additions(definition: str, origin: str) -> str:
    """Return the definition without dropout, truncation, padding and spaces put before a text."""
    try:
        value = json.loads(definition)
        model = value["model"]
        if "dropout" in model:
            model["dropout"] = None
        added = value.get("added_tokens") or []
        value.update(truncation=None, padding=None, post_processor=None, added_tokens=added)
        removed = _remove_prefix(value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{origin} is not a tokenizer.json of the tokenizers library") from error
    if removed:
        log.info("%s: no space is put before a text, which would not restore it", origin)
    return json.dumps(value, ensure_ascii=False)


def _remove_prefix(value: dict[str, Any]) -> bool:
    """Remove what puts a space before a text; return whether there was anything."""
    removed = False
    normalizer = value.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    kept = [part for part in parts if part and part.get("type") != "Prepend"]
    if len(kept) < len([part for part in parts if part]):
        removed = True
        value["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    for section in ("pre_tokenizer", "decoder"):
        node = value.get(section) or {}
        for part in node.get("pretokenizers", node.get("decoders", [node])):
            if part.get("add_prefix_space"):
                removed, part["add_prefix_space"] = True, False
            if part.get("prepend_scheme", "never") != "never":
                removed, part["prepend_scheme"] = True, "never"
                part.pop("add_prefix_space", None)
    return removed


def _pieces(
    value: Mapping[str, Any], tokens: Mapping[str, int], origin: str
) -> tuple[list[bytes], dict[int, str]]:
    """Return the bytes of each id, and the ids without text.

    Raises:
        UserError: the vocabulary is empty, or most of its ids are unused.
    """
    size = max(tokens.values(), default=-1) + 1
    if not 0 < size <= len(tokens) + _MAX_HOLES:
        raise UserError(f"{origin} has {len(tokens)} tokens with ids up to {size - 1} (vocabulary)")
    added = {token["id"]: token for token in value["added_tokens"]}
    unknown = value["model"].get("unk_token")
    if isinstance(number := value["model"].get("unk_id"), int):
        unknown = next((text for text, i in tokens.items() if i == number), unknown)
    special = {i: token["content"] for i, token in added.items() if token.get("special")}
    if unknown in tokens:
        special[tokens[unknown]] = unknown
    is_byte_level = "ByteLevel" in _types(value.get("decoder"))
    has_bytes = bool(value["model"].get("byte_fallback"))
    to_byte = byte_alphabet()
    pieces = [b""] * size
    for text, i in tokens.items():
        if i in added:
            pieces[i] = str(added[i]["content"]).encode()
        elif has_bytes and (byte := _BYTE.fullmatch(text)):
            pieces[i] = bytes([int(byte.group(1), 16)])
        elif is_byte_level:
            pieces[i] = b"".join(bytes([to_byte[c]]) if c in to_byte else c.encode() for c in text)
        else:
            pieces[i] = text.replace(_MARK, " ").encode()
    used = set(tokens.values())
    special |= {i: f"<unused {i}>" for i in range(size) if i not in used}
    return pieces, special


def _types(node: Any) -> set[str]:
    """Return the types of a decoder and of its parts."""
    if not isinstance(node, Mapping):
        return set()
    parts = node.get("decoders") or []
    return {str(node.get("type"))}.union(*(_types(part) for part in parts))
