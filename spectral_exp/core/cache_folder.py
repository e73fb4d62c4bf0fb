"""The folder for data that can be computed again: tokenized text and the index of runs."""

from __future__ import annotations

import os
from pathlib import Path

from spectral_exp.core.errors import UserError

CACHE_VARIABLE = "SPECTRAL_EXP_CACHE"


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    It is $SPECTRAL_EXP_CACHE, else spectral_exp in $XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        UserError: none of them is set and there is no home folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    caches = os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(caches) if caches else Path.home() / ".cache") / "spectral_exp"
    except RuntimeError as error:
        raise UserError(
            f"there is no home folder for the cache; set {CACHE_VARIABLE} to a writable folder"
        ) from error
