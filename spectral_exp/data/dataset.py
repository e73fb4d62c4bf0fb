"""Memory-mapped training and validation ids of a corpus, tokenized once into the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectral_exp.core.cache_folder import cache_folder
from spectral_exp.core.errors import UserError, require
from spectral_exp.data.cache import (
    build_entry,
    cache_errors,
    digest,
    file_sha256,
    load_entry,
    read_json,
    write_file,
)
from spectral_exp.data.corpus import Corpus, Stamp, TextCorpus
from spectral_exp.data.fineweb import FineWebEdu, read_shard, train_tokens
from spectral_exp.data.known_text import KnownText
from spectral_exp.data.repeats import repeated_share
from spectral_exp.data.tokenizer import load_tokenizer
from spectral_exp.data.tokenizer_base import Bytes64, Ids, Tokenizer, TokenizerSpec

# Part of every cache key; increased when equal settings produce different files.
_FORMAT = 2
_TOKENIZER = "tokenizer"
SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""Part of a text -> its name in messages."""


@dataclass(frozen=True)
class Dataset:
    """Ids of the parts of a text, with their tokenizer and fingerprints.

    Attributes:
        train: memory-mapped ids of the training text, in the smallest unsigned type that holds the
            vocabulary.
        val: ids of the validation text, which does not overlap the training text.
        tokenizer: tokenizer of the ids.
        fingerprints: the record of the text in a run: `corpus`, `corpus_sha256`, `tokenizer`,
            `vocab_size`, and for each split `..._sha256` (of the file of ids), `..._bytes` (of
            text), `..._tokens`.
        test: ids of the test text, which overlaps neither of the others; None if there is none.
        unigram_bits_per_byte: entropy of the validation text's byte frequencies, the score of a
            model without context.
        entropy_bits_per_byte: exact entropy rate of the source, or None if unknown.
        repeated_shares: "val" and, if there is one, "test" -> the share of its passages of 128
            tokens that stand in the training text too.
    """

    train: Ids
    val: Ids
    tokenizer: Tokenizer
    fingerprints: dict[str, str | int]
    unigram_bits_per_byte: float
    entropy_bits_per_byte: float | None
    repeated_shares: Mapping[str, float]
    test: Ids | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer."""
        return self.tokenizer.vocab_size


def prepare(
    corpus: Corpus,
    tokenizer: TokenizerSpec,
    *,
    block_size: int,
    cache_dir: Path | str | None = None,
    known: KnownText | None = None,
) -> Dataset:
    """Return the tokenized corpus, from the cache if present.

    Any number of processes may call this at once; a damaged cache entry is built again.

    Args:
        corpus: source of the text.
        tokenizer: settings of the tokenizer; training, if needed, uses the training split.
        block_size: tokens of a training sequence; both splits must hold at least one more.
        cache_dir: cache folder; `cache_folder()` by default.
        known: the record of the text in a run; a different text raises before it is tokenized.

    Raises:
        UserError: the text is unavailable, unreadable or too short, a library is missing, or the
            cache folder is unusable.
    """
    require(block_size >= 1, "block_size", block_size, ">= 1")
    root = Path(cache_dir) if cache_dir else cache_folder()
    if isinstance(corpus, TextCorpus):
        folder, values = _prepare_text(corpus, tokenizer, root, known or KnownText("", {}))
    elif isinstance(corpus, FineWebEdu):
        folder, values = _prepare_stream(corpus, tokenizer, root, known or KnownText("", {}))
    else:
        raise TypeError(f"{type(corpus).__name__} is neither a TextCorpus nor FineWebEdu")
    fingerprints = values["fingerprints"]
    for split, name in SPLITS.items():
        tokens = fingerprints.get(f"{split}_tokens")
        if (
            tokens is not None and block_size >= tokens
        ):  # not a SettingError: the setting belongs to the model
            raise UserError(
                f"model.block_size={block_size} must be less than the {name} text's "
                f"{tokens} tokens; use a longer text, a smaller model.block_size or other "
                "shares for validation and test"
            )
    saved = load_tokenizer(folder / _TOKENIZER)
    splits = [split for split in SPLITS if f"{split}_tokens" in fingerprints]
    ids = _map_ids(folder, splits, saved)
    return Dataset(
        train=ids["train"],
        val=ids["val"],
        test=ids.get("test"),
        tokenizer=saved,
        fingerprints=fingerprints,
        unigram_bits_per_byte=values["unigram_bits_per_byte"],
        entropy_bits_per_byte=values["entropy_bits_per_byte"],
        repeated_shares=values["repeated_shares"],
    )


Entry = tuple[Path, dict[str, Any]]


def _prepare_text(corpus: TextCorpus, spec: TokenizerSpec, root: Path, known: KnownText) -> Entry:
    identity = spec.identity(root)

    def place(sha256: str) -> Path:
        key = {
            "corpus": sha256,
            "val_fraction": repr(corpus.val_fraction),
            "tokenizer": identity,
            "format": _FORMAT,
            **({"test_fraction": repr(corpus.test_fraction)} if corpus.test_fraction else {}),
        }
        # Equal texts of sources with different known entropies need separate entries.
        return root / "datasets" / digest({**key, "source": type(corpus).__name__})[:32]

    stamp = corpus.stamp(root)
    recorded = _load_checksum(root, stamp)
    if recorded is not None:
        known.check_text(corpus, recorded)
        if (values := load_entry(place(recorded))) is not None:
            return place(recorded), values
    text = known.read(corpus, root)
    sha256 = hashlib.sha256(text).hexdigest()
    folder = place(sha256)

    def fill(draft: Path) -> dict[str, Any]:
        parts = {split: part.decode("utf-8") for split, part in corpus.split(text).items()}
        training_text = text.decode("utf-8") if spec.whole_text else parts["train"]
        tokenizer = spec.build(training_text if spec.needs_text else None, root)
        known.check_tokenizer(tokenizer)
        ids = {split: [tokenizer.encode(part)] for split, part in parts.items()}
        return _write(draft, corpus, sha256, tokenizer, ids)

    with cache_errors(root):
        values = load_entry(folder) or build_entry(folder, fill)
    if corpus.stamp(root) == stamp:  # else the source changed while it was read
        _save_checksum(root, stamp, sha256)
    return folder, values


def _prepare_stream(corpus: FineWebEdu, spec: TokenizerSpec, root: Path, known: KnownText) -> Entry:
    if spec.needs_text:
        raise UserError(
            "data=fineweb_edu is streamed and needs a tokenizer without training: "
            "use tokenizer=gpt2 or tokenizer=byte"
        )
    key = {
        **corpus.identity(),
        "max_tokens": corpus.max_tokens,
        "tokenizer": spec.identity(root),
        "format": _FORMAT,
    }
    folder = root / "datasets" / digest(key)[:32]
    values = load_entry(folder)
    if values is not None:
        return folder, values
    tokenizer = spec.build(None, root)
    known.check_tokenizer(tokenizer)
    shards_folder, shards = corpus.shards(tokenizer, root)
    excess = max(0, train_tokens(shards) - corpus.max_tokens)

    def fill(draft: Path) -> dict[str, Any]:
        val, *train = (read_shard(shards_folder, shard, tokenizer.dtype) for shard in shards)
        parts = {"train": _drop_last(train, excess), "val": [val]}
        return _write(draft, corpus, None, tokenizer, parts)

    with cache_errors(root):
        return folder, build_entry(folder, fill)


def _drop_last(parts: list[Ids], excess: int) -> list[Ids]:
    """Return the parts without the last `excess` ids overall."""
    total = sum(map(len, parts)) - excess
    kept = []
    for part in parts:
        kept.append(part[: max(0, total)])
        total -= len(part)
    return kept


def _write(
    draft: Path,
    corpus: Corpus,
    sha256: str | None,
    tokenizer: Tokenizer,
    ids: Mapping[str, Iterable[Ids]],
) -> dict[str, Any]:
    """Write all parts and the tokenizer to a new cache entry and return the values to store."""
    fingerprints: dict[str, str | int] = {"corpus": type(corpus).__name__}
    byte_counts = {}
    for split, parts in ids.items():
        file = draft / f"{split}.bin"
        counts: Bytes64 = _write_ids(file, parts, tokenizer)
        byte_counts[split] = tokenizer.byte_counts(counts)
        fingerprints[f"{split}_sha256"] = file_sha256(file)
        fingerprints[f"{split}_bytes"] = int(counts @ tokenizer.token_bytes)
        fingerprints[f"{split}_tokens"] = int(counts.sum())
    tokenizer.save(draft / _TOKENIZER)
    # A streamed corpus is never held as one text: its ids and their tokenizer identify it.
    streamed = [fingerprints["train_sha256"], fingerprints["val_sha256"], tokenizer.fingerprint]
    fingerprints["corpus_sha256"] = sha256 or digest(streamed)
    fingerprints["tokenizer"] = tokenizer.fingerprint
    fingerprints["vocab_size"] = tokenizer.vocab_size
    written = _map_ids(draft, ids, tokenizer)
    train = written.pop("train")
    return {
        "fingerprints": fingerprints,
        "unigram_bits_per_byte": _entropy_bits(byte_counts["val"]),
        "entropy_bits_per_byte": corpus.entropy_bits_per_byte,
        "repeated_shares": {split: repeated_share(train, part) for split, part in written.items()},
    }


def _map_ids(folder: Path, splits: Iterable[str], tokenizer: Tokenizer) -> dict[str, Ids]:
    """Return the memory-mapped ids of each split."""
    files = {split: folder / f"{split}.bin" for split in splits}
    return {
        # An empty file cannot be mapped.
        split: np.memmap(file, dtype=tokenizer.dtype, mode="r")
        if file.stat().st_size
        else np.empty(0, dtype=tokenizer.dtype)
        for split, file in files.items()
    }


def _write_ids(file: Path, parts: Iterable[Ids], tokenizer: Tokenizer) -> Bytes64:
    """Write the ids in order and return the number of occurrences of each, (V,)."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    with file.open("wb") as out:
        for part in parts:
            out.write(np.ascontiguousarray(part, dtype=tokenizer.dtype).data)
            counts += np.bincount(part, minlength=tokenizer.vocab_size)
    return counts


def _entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    """Return the entropy in bits of the distribution given by counts."""
    p = counts[counts > 0] / max(1, int(counts.sum()))
    return float(-(p * np.log2(p)).sum()) + 0.0  # + 0.0 avoids -0.0 for a single value


def _source_file(root: Path, stamp: Stamp) -> Path:
    return root / "sources" / f"{digest(stamp)[:32]}.json"


def _load_checksum(root: Path, stamp: Stamp) -> str | None:
    """Return the recorded checksum of the text with this stamp, or None."""
    value = read_json(_source_file(root, stamp))
    sha256 = value.get("sha256") if isinstance(value, dict) else None
    return sha256 if isinstance(sha256, str) else None


def _save_checksum(root: Path, stamp: Stamp, sha256: str) -> None:
    file = _source_file(root, stamp)
    if not file.exists():
        with cache_errors(root):
            write_file(file, json.dumps({"sha256": sha256}).encode())
