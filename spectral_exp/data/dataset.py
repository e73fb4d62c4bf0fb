"""From a corpus and a tokenizer to memory-mapped training and validation ids, tokenized once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
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
from spectral_exp.data.tokenizer import load_tokenizer
from spectral_exp.data.tokenizer_base import Bytes64, Ids, Tokenizer, TokenizerSpec

# Part of every key: raised whenever the same settings would give other files.
_FORMAT = 1
_TOKENIZER = "tokenizer"
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Dataset:
    """Ids of the training and the validation text, with all that identifies them.

    Attributes:
        train: memory-mapped ids of the training text, smallest unsigned type that holds the vocabulary.
        val: the same of the validation text; the two share no text position.
        tokenizer: what made the ids.
        fingerprints: what a run records to prove which text it saw: `corpus`, `corpus_sha256`, `tokenizer`,
            `vocab_size`, and for each split `..._sha256` (of the file of ids), `..._bytes` (of text), `..._tokens`.
        unigram_bits_per_byte: entropy of the validation text's byte frequencies: what a model reaches that knows these
            frequencies and no context.
        entropy_bits_per_byte: entropy rate of the source where it is known exactly, else None.
    """

    train: Ids
    val: Ids
    tokenizer: Tokenizer
    fingerprints: dict[str, str | int]
    unigram_bits_per_byte: float
    entropy_bits_per_byte: float | None

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
    """Tokenize a corpus into the cache, or find it there.

    Any number of processes may call this at once; a damaged cache entry is built again.

    Args:
        corpus: where the text comes from.
        tokenizer: settings of the tokenizer; it is trained on the training split alone where it needs training.
        block_size: tokens of a training sequence; both splits must hold at least one more.
        cache_dir: cache folder; by default as `cache_folder` returns it.
        known: what a run recorded of the text; any other is refused before it is tokenized.

    Raises:
        UserError: for text that cannot be had or read, a text too short, a missing library, an unusable cache folder.
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
    for split, name in zip(_SPLITS, ("training", "validation"), strict=True):
        tokens = fingerprints[f"{split}_tokens"]
        if block_size >= tokens:  # not a SettingError: the setting is the model's, not the corpus's
            raise UserError(
                f"model.block_size={block_size} must be less than the {name} text's {tokens} tokens; "
                "use a longer text, a smaller model.block_size or another share for validation"
            )
    maker = load_tokenizer(folder / _TOKENIZER)
    return Dataset(
        train=np.memmap(folder / "train.bin", dtype=maker.dtype, mode="r"),
        val=np.memmap(folder / "val.bin", dtype=maker.dtype, mode="r"),
        tokenizer=maker,
        fingerprints=fingerprints,
        unigram_bits_per_byte=values["unigram_bits_per_byte"],
        entropy_bits_per_byte=values["entropy_bits_per_byte"],
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
        }
        # A source of known entropy may chance upon the text of another: its entry says so.
        return root / "datasets" / digest({**key, "source": type(corpus).__name__})[:32]

    stamp = corpus.stamp(root)
    recalled = _recall(root, stamp)
    if recalled is not None:
        known.check_text(corpus, recalled)
        if (values := load_entry(place(recalled))) is not None:
            return place(recalled), values
    text = known.read(corpus, root)
    sha256 = hashlib.sha256(text).hexdigest()
    folder = place(sha256)

    def fill(draft: Path) -> dict[str, Any]:
        train, val = (part.decode("utf-8") for part in corpus.split(text))
        maker = spec.build(
            (text.decode("utf-8") if spec.whole_text else train) if spec.needs_text else None, root
        )
        known.check_tokenizer(maker)
        return _write(draft, corpus, sha256, maker, [maker.encode(train)], [maker.encode(val)])

    with cache_errors(root):
        values = load_entry(folder) or build_entry(folder, fill)
    if corpus.stamp(root) == stamp:  # else the source changed while it was read
        _remember(root, stamp, sha256)
    return folder, values


def _prepare_stream(corpus: FineWebEdu, spec: TokenizerSpec, root: Path, known: KnownText) -> Entry:
    if spec.needs_text:
        raise UserError(
            "data=fineweb_edu is streamed and needs a tokenizer without training: use tokenizer=gpt2 or tokenizer=byte"
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
    maker = spec.build(None, root)
    known.check_tokenizer(maker)
    shards_folder, shards = corpus.shards(maker, root)
    excess = max(0, train_tokens(shards) - corpus.max_tokens)

    def fill(draft: Path) -> dict[str, Any]:
        val, *train = (read_shard(shards_folder, shard, maker.dtype) for shard in shards)
        return _write(draft, corpus, None, maker, _without_last(train, excess), [val])

    with cache_errors(root):
        return folder, build_entry(folder, fill)


def _without_last(parts: list[Ids], excess: int) -> list[Ids]:
    """The parts without the last `excess` ids of all."""
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
    maker: Tokenizer,
    train: Iterable[Ids],
    val: Iterable[Ids],
) -> dict[str, Any]:
    """Write both splits and the tokenizer into a new cache entry; returns the values to keep with it."""
    fingerprints: dict[str, str | int] = {"corpus": type(corpus).__name__}
    for split, parts in zip(_SPLITS, (train, val), strict=True):
        file = draft / f"{split}.bin"
        counts: Bytes64 = _write_ids(file, parts, maker)
        fingerprints[f"{split}_sha256"] = file_sha256(file)
        fingerprints[f"{split}_bytes"] = int(counts @ maker.token_bytes)
        fingerprints[f"{split}_tokens"] = int(counts.sum())
    maker.save(draft / _TOKENIZER)
    # A streamed corpus was never held as one text: its ids, with their tokenizer, stand for it.
    streamed = [fingerprints["train_sha256"], fingerprints["val_sha256"], maker.fingerprint]
    fingerprints["corpus_sha256"] = sha256 or digest(streamed)
    fingerprints["tokenizer"] = maker.fingerprint
    fingerprints["vocab_size"] = maker.vocab_size
    return {
        "fingerprints": fingerprints,
        "unigram_bits_per_byte": _entropy_bits(maker.byte_counts(counts)),
        "entropy_bits_per_byte": corpus.entropy_bits_per_byte,
    }


def _write_ids(file: Path, parts: Iterable[Ids], maker: Tokenizer) -> Bytes64:
    """Write ids one after the other; returns how often each occurs, (V,)."""
    counts = np.zeros(maker.vocab_size, dtype=np.int64)
    with file.open("wb") as out:
        for part in parts:
            out.write(np.ascontiguousarray(part, dtype=maker.dtype).data)
            counts += np.bincount(part, minlength=maker.vocab_size)
    return counts


def _entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    """Entropy in bits of the distribution that some counts describe."""
    p = counts[counts > 0] / max(1, int(counts.sum()))
    return float(-(p * np.log2(p)).sum()) + 0.0  # + 0.0 turns -0.0 of a single value into 0.0


def _source_file(root: Path, stamp: Stamp) -> Path:
    return root / "sources" / f"{digest(stamp)[:32]}.json"


def _recall(root: Path, stamp: Stamp) -> str | None:
    """The checksum of the text that had this stamp, if it was ever read."""
    value = read_json(_source_file(root, stamp))
    sha256 = value.get("sha256") if isinstance(value, dict) else None
    return sha256 if isinstance(sha256, str) else None


def _remember(root: Path, stamp: Stamp, sha256: str) -> None:
    file = _source_file(root, stamp)
    if not file.exists():
        with cache_errors(root):
            write_file(file, json.dumps({"sha256": sha256}).encode())
