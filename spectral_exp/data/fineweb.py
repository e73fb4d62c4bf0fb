"""FineWeb-Edu (Penedo et al. 2024), streamed into token shards.

An interrupted download continues after its last complete shard.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectral_exp.core.errors import UserError, explain_missing, require
from spectral_exp.data.cache import cache_errors, digest, file_sha256, read_json, write_file
from spectral_exp.data.corpus import Corpus
from spectral_exp.data.tokenizer_base import Ids, Tokenizer

REPOSITORY = "HuggingFaceFW/fineweb-edu"
_MANIFEST = "manifest.json"
_FORMAT = 1
_DOCUMENTS_AT_ONCE = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A complete file of tokens, with the position in the stream of the next one.

    Attributes:
        name: file name in the shards' folder.
        tokens: number of ids in the file.
        sha256: checksum of the file.
        documents: documents of the stream consumed up to the end of this shard, including earlier
            shards.
        digests: digests of this shard's documents; empty unless it is the validation shard.
    """

    name: str
    tokens: int
    sha256: str
    documents: int
    digests: list[str] = field(default_factory=list)


class FineWebEdu(Corpus):
    """Educational web pages: the first documents for validation, the following ones for training.

    Needs `pip install 'spectral-exp[fineweb]'` and a connection until the shards are complete. A
    training document equal to a validation document is skipped. Shards stay in the cache and a
    larger `max_tokens` extends them; their folder `fineweb_edu` may be deleted once the data set is
    complete.

    Args:
        max_tokens: number of training tokens.
        val_documents: number of validation documents, about a thousand tokens each.
        name: configuration of the data set, e.g. sample-10BT, sample-100BT.
        revision: git revision of the data set.
        shard_tokens: tokens per shard, and the most that an interruption loses.
    """

    def __init__(
        self,
        max_tokens: int = 100_000_000,
        val_documents: int = 1000,
        name: str = "sample-10BT",
        revision: str = "main",
        shard_tokens: int = 10_000_000,
    ) -> None:
        require(max_tokens >= 1, "max_tokens", max_tokens, ">= 1")
        require(val_documents >= 1, "val_documents", val_documents, ">= 1")
        require(shard_tokens >= 1, "shard_tokens", shard_tokens, ">= 1")
        self.max_tokens, self.val_documents = max_tokens, val_documents
        self.name, self.revision, self.shard_tokens = name, revision, shard_tokens

    def identity(self) -> dict[str, str | int]:
        """Return the settings that determine the text, except its length."""
        settings: dict[str, str | int] = {"name": self.name, "revision": self.revision}
        return {"source": REPOSITORY, **settings, "val_documents": self.val_documents}

    def documents(self, skip: int) -> Iterator[str]:
        """Yield the texts of the documents in the order of the stream, without the first `skip`."""
        with explain_missing("data=fineweb_edu needs the datasets library", "fineweb"):
            datasets = importlib.import_module("datasets")
        rows = datasets.load_dataset(
            REPOSITORY, name=self.name, split="train", revision=self.revision, streaming=True
        ).skip(skip)
        for row in rows:
            yield row["text"]

    def shards(self, tokenizer: Tokenizer, cache: Path) -> tuple[Path, list[Shard]]:
        """Download the missing shards up to `max_tokens`; return their folder and all shards in it.

        The first shard holds the validation documents, the others the training documents.
        """
        key = digest({**self.identity(), "format": _FORMAT, "tokenizer": tokenizer.fingerprint})
        folder = cache / "fineweb_edu" / key[:32]
        with cache_errors(cache):
            folder.mkdir(parents=True, exist_ok=True)
            done = _load_shards(folder, tokenizer.dtype.itemsize)
        stream = self._encode_stream(tokenizer, done[-1].documents if done else 0)
        while not done or train_tokens(done) < self.max_tokens:
            collected = self._collect(stream, done)
            if collected is None:
                break
            with cache_errors(cache):
                done.append(_store(folder, done, *collected))
            _log.info("FineWeb-Edu: %d of %d training tokens", train_tokens(done), self.max_tokens)
        if len(done) < 2:
            raise UserError(
                "FineWeb-Edu ended before the first training document; lower data.val_documents"
            )
        return folder, done

    def _encode_stream(self, tokenizer: Tokenizer, skip: int) -> Iterator[tuple[str, Ids]]:
        """Yield digest and ids of each document after the first `skip`, with a final separator."""
        documents = self.documents(skip)
        while True:
            try:
                texts = list(islice(documents, _DOCUMENTS_AT_ONCE))
            except UserError:
                raise
            except Exception as error:  # the network and the hub's client raise many types
                raise UserError(
                    f"the stream of FineWeb-Edu broke off ({type(error).__name__}: {error}); "
                    "run the same command again to continue from the last complete shard"
                ) from error
            if not texts:
                return
            for text, ids in zip(texts, _encode_with_separators(tokenizer, texts), strict=True):
                yield hashlib.sha256(text.encode()).hexdigest()[:32], ids

    def _collect(
        self, stream: Iterator[tuple[str, Ids]], done: list[Shard]
    ) -> tuple[Ids, int, list[str]] | None:
        """Collect the next shard, or return None at the end of the stream.

        The result holds the ids, the number of documents consumed up to the end of the shard, and
        the digests of the documents if it is the validation shard.
        """
        is_validation = not done
        held_out = set() if is_validation else set(done[0].digests)
        target = min(self.shard_tokens, self.max_tokens - train_tokens(done))
        consumed = 0 if is_validation else done[-1].documents
        parts: list[Ids] = []
        digests: list[str] = []
        n_tokens = 0
        for document, ids in stream:
            consumed += 1
            if document in held_out:
                continue
            parts.append(ids)
            n_tokens += len(ids)
            if is_validation:
                digests.append(document)
            if len(digests) >= self.val_documents if is_validation else n_tokens >= target:
                break
        return (np.concatenate(parts), consumed, digests) if parts else None


def train_tokens(shards: list[Shard]) -> int:
    """Return the number of training tokens; the first of `shards` is the validation text."""
    return sum(shard.tokens for shard in shards[1:])


def read_shard(folder: Path, shard: Shard, dtype: npt.DTypeLike) -> Ids:
    """Return a shard's ids as a read-only memory map."""
    return np.memmap(folder / shard.name, dtype=dtype, mode="r")


def _encode_with_separators(tokenizer: Tokenizer, texts: list[str]) -> list[Ids]:
    """Encode each text and a separator: the end-of-text token if it exists, or an empty line."""
    if tokenizer.end_of_text is None:
        return tokenizer.encode_many([text + "\n\n" for text in texts])
    end = np.array([tokenizer.end_of_text], dtype=tokenizer.dtype)
    return [np.concatenate([ids, end]) for ids in tokenizer.encode_many(texts)]


def _store(folder: Path, done: list[Shard], ids: Ids, documents: int, digests: list[str]) -> Shard:
    """Write a shard, then the manifest that lists it.

    An interruption in between loses only the shard.
    The name contains the content's checksum, so processes with other settings never overwrite each
    other's shards.
    """
    data = ids.tobytes()
    sha256 = hashlib.sha256(data).hexdigest()
    kind = "train" if done else "val"
    shard = Shard(f"{kind}_{len(done):05d}_{sha256[:16]}.bin", len(ids), sha256, documents, digests)
    write_file(folder / shard.name, data)
    manifest = {"format": _FORMAT, "shards": [asdict(one) for one in [*done, shard]]}
    write_file(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    return shard


def _load_shards(folder: Path, itemsize: int) -> list[Shard]:
    """Return the complete shards before the first one that is missing or damaged."""
    manifest: Any = read_json(folder / _MANIFEST)
    try:
        shards = [Shard(**values) for values in manifest["shards"]]
    except (TypeError, KeyError):
        return []
    for index, shard in enumerate(shards):
        file = folder / shard.name
        size = file.stat().st_size if file.is_file() else -1
        if size != shard.tokens * itemsize or file_sha256(file) != shard.sha256:
            _log.warning("the shard %s is damaged; downloading it and later shards again", file)
            return shards[:index]
    return shards
