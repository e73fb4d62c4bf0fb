"""The rule on files that a record names: a text is used only if it is the one that the run recorded.

A run directory may come from a stranger, and its record may name any file of this machine. So whatever a record names
is compared with the fingerprints in that record before anything of it is tokenized, kept in the cache, printed or
written into the run: a text by the sum of its files' sizes, then by its SHA-256, a vocabulary by its fingerprint. Only
regular files are opened. The owner of a run, whose text is still there, notices nothing of this.

A file that a record names without its fingerprint has to be named again on the command line, by the person who knows
it. Addresses of other machines are never taken from a record (see `spectral_exp.config.trust`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.data.corpus import NotUtf8Error, TextCorpus, TextFile
from spectral_exp.data.tokenizer_base import Tokenizer

TEXT_ENTRIES = ("corpus_sha256", "train_bytes", "val_bytes")
"""Entries of a run's fingerprints by which its text is known again."""

TOKENIZER_ENTRY = "tokenizer"
"""The entry by which its vocabulary is."""


@dataclass(frozen=True)
class KnownText:
    """What a run recorded of its text.

    Attributes:
        run: how messages name the run.
        fingerprints: as in `Dataset`; what is missing is not compared.
    """

    run: str
    fingerprints: Mapping[str, Any]

    def read(self, corpus: TextCorpus, cache: Path) -> bytes:
        """The text of `corpus`. Raises UserError if it is another one, without a word of what it holds."""
        sizes = [
            n for entry in TEXT_ENTRIES[1:] if isinstance(n := self.fingerprints.get(entry), int)
        ]
        if len(sizes) == 2 and not corpus.may_hold(sum(sizes)):
            raise self._other_text(corpus)
        try:
            text = corpus.read(cache)
        except NotUtf8Error:
            if not self.fingerprints:
                raise
            raise self._other_text(corpus) from None
        self.check_text(corpus, hashlib.sha256(text).hexdigest())
        return text

    def check_text(self, corpus: TextCorpus, sha256: str) -> None:
        """Raise a UserError if the text of `corpus`, which has this checksum, is another one."""
        if self.fingerprints.get(TEXT_ENTRIES[0], sha256) != sha256:
            raise self._other_text(corpus)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise a UserError if `tokenizer` is another one."""
        if self.fingerprints.get(TOKENIZER_ENTRY, tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(
                f"{self.run} was trained with another tokenizer than its settings give now; put its vocabulary back, "
                "install the version of tokenizers that it was made with, or start a new run"
            )

    def _other_text(self, corpus: TextCorpus) -> UserError:
        place = (
            f"data.path={corpus.path}" if isinstance(corpus, TextFile) else type(corpus).__name__
        )
        return UserError(
            f"{self.run} was trained on other text than {place} holds now; put the text back, name where it lies with "
            "data.path=..., or start a new run"
        )
