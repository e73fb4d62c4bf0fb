"""Comparison of a text with a run's record, before the text is used.

A run directory may come from an untrusted source, and its record may name any file of this machine.
Every file named in a record is therefore compared with the fingerprints in that record before its
content is tokenized, cached, printed or written to the run: a text by the total size of its files,
then by its SHA-256, a vocabulary by its fingerprint. Only regular files are opened.

A file without a recorded fingerprint must be named again on the command line. Network addresses are
never read from a record (see `spectral_exp.config.trust`).
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
"""Entries of a run's fingerprints that identify its text."""

TOKENIZER_ENTRY = "tokenizer"
"""Entry of a run's fingerprints that identifies its vocabulary."""


@dataclass(frozen=True)
class KnownText:
    """A run's record of its text.

    Attributes:
        run: name of the run in messages.
        fingerprints: as in `Dataset`; missing entries are not compared.
    """

    run: str
    fingerprints: Mapping[str, Any]

    def read(self, corpus: TextCorpus, cache: Path) -> bytes:
        """Return the text of `corpus`.

        Raises:
            UserError: it is not the recorded text; the message does not quote it.
        """
        entries = [
            *TEXT_ENTRIES[1:],
            *(["test_bytes"] if "test_bytes" in self.fingerprints else []),
        ]
        sizes = [self.fingerprints.get(entry) for entry in entries]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) == len(sizes) and not corpus.may_hold(sum(known)):
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
        """Raise a UserError if the checksum of the text of `corpus` is not the recorded one."""
        if self.fingerprints.get(TEXT_ENTRIES[0], sha256) != sha256:
            raise self._other_text(corpus)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise a UserError if `tokenizer` is not the recorded one."""
        if self.fingerprints.get(TOKENIZER_ENTRY, tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(
                f"{self.run} was trained with another tokenizer than its settings give now; "
                "restore its vocabulary, install its version of tokenizers, or start a new run"
            )

    def _other_text(self, corpus: TextCorpus) -> UserError:
        source = type(corpus).__name__
        if isinstance(corpus, TextFile):
            source = f"data.path={corpus.path}"
        return UserError(
            f"{self.run} was trained on other text than {source} holds now; restore the text, "
            "set data.path to its location, or start a new run"
        )
