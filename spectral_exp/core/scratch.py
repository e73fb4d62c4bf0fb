"""Temporary folders; those of killed processes are removed by the next process."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spectral_exp.core.file_locks import fcntl

_OWNED = "in_use"


@contextmanager
def scratch_folder(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """A temporary folder that is removed when the block ends.

    A file lock, which the operating system releases when this process ends, marks the folder as in
    use. Unlocked folders of the same user and `purpose` are removed first.

    Args:
        purpose: part of the folder's name.
        place: the folder to make it in, hidden there; None for that of the system.

    Raises:
        OSError: it cannot be made.
    """
    prefix = f"{'.' if place else ''}spectral_exp_{purpose}_"
    parent = place or Path(tempfile.gettempdir())
    _remove_leftovers(parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder, _hold_lock(Path(folder)):
        yield Path(folder)


@contextmanager
def _hold_lock(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / f"{_OWNED}.new", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Under its name the file is locked from the first moment.
        (folder / f"{_OWNED}.new").rename(folder / _OWNED)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path, prefix: str) -> None:
    if fcntl is None:
        return
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and _is_abandoned(folder / _OWNED):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(lock: Path) -> bool:
    """Whether the lock is free. Raises OSError if there is no lock file yet, or no longer."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
