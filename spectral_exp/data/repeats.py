"""How much of a text stands word for word in the training text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spectral_exp.data.tokenizer_base import Ids

Hashes = npt.NDArray[np.uint64]

WINDOW = 128
"""Tokens of a compared passage, a power of two: longer than most phrases and notices."""

_MOST_PASSAGES = 10_000
_CHUNK = 1 << 16  # of ids that are hashed at once, so that they stay in the processor's cache
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio
_SHIFT = np.uint64(29)
_FILTER = np.uint64((1 << 18) - 1)


def repeated_share(train: Ids, part: Ids) -> float:
    """Return the share of the passages of `part` that stand in `train` too, 0 to 1.

    The passages are the successive windows of `WINDOW` ids, or 10,000 of them, evenly spread. They
    are compared by hashes of 64 bits.

    Args:
        train: ids of the training text, (N,), possibly memory-mapped.
        part: ids of another text, (M,).
    """
    n_passages = len(part) // WINDOW
    if n_passages == 0:
        return 0.0
    spread = np.linspace(0, n_passages - 1, min(n_passages, _MOST_PASSAGES)).astype(np.int64)
    passages = _hash_windows(part[: n_passages * WINDOW].reshape(-1, WINDOW)[spread])[:, 0]
    # Most windows of the training text are ruled out by a few bits of their hashes.
    may_match = np.zeros(int(_FILTER) + 1, dtype=bool)
    may_match[passages & _FILTER] = True
    found: list[Hashes] = []
    for start in range(0, len(train) - WINDOW + 1, _CHUNK):
        hashes = _hash_windows(train[start : start + _CHUNK + WINDOW - 1])
        candidates = hashes[may_match[hashes & _FILTER]]
        found.append(candidates[np.isin(candidates, passages)])
    return float(np.isin(passages, np.concatenate(found)).mean()) if found else 0.0


def _hash_windows(ids: npt.NDArray[Any]) -> Hashes:
    """Return a hash of every window along the last axis, (..., N) -> (..., N - WINDOW + 1).

    The hash of a window is made of those of its two halves.
    """
    hashes = _mix(ids.astype(np.uint64) + np.uint64(1))
    half = 1
    while half < WINDOW:
        hashes = _mix(hashes[..., :-half] * _FACTOR + hashes[..., half:])
        half *= 2
    return hashes


def _mix(hashes: Hashes) -> Hashes:
    hashes = hashes * _FACTOR
    return hashes ^ (hashes >> _SHIFT)
