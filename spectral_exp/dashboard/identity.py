"""Keys of runs, groups and files that reveal no path and are the same after a restart."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from spectral_exp.runs.run import Run

N_COLORS = 10


@functools.lru_cache(maxsize=1 << 16)
def run_key(path: Path) -> str:
    """Return the key of a run directory."""
    return short_hash(os.fsencode(path.resolve()))


def short_hash(content: bytes) -> str:
    """Return 16 hexadecimal digits that stand for `content`."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def experiment_of(run: Run) -> tuple[str, str, str]:
    """Return what runs that differ only in their seed have in common.

    A run without settings is an experiment of its own.
    """
    return run.name, run.config_hash, "" if run.settings else run.run_id


def experiment_hash(run: Run) -> str:
    """Return a hash of the experiment of a run."""
    return short_hash(repr(experiment_of(run)).encode())


def color_of(hashed: str) -> int:
    """Return the index of the colour of an experiment or group."""
    return int(hashed[:8], 16) % N_COLORS
