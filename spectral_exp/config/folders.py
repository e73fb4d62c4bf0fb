"""Checks of the folder for run directories, before one exists."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.scratch import scratch_folder

_MAX_PATH = 200  # characters of a path that a message quotes


def refuse_unwritable(folder: Path) -> None:
    """Raise a UserError unless a run directory can be made at `folder`; leave nothing behind."""
    existing = folder
    try:
        existing = _nearest_existing(folder)
        if existing == folder.absolute():  # a run, which must not change yet
            if not os.access(existing, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        Path(tempfile.mkdtemp(dir=existing)).rmdir()
    except OSError as error:
        shown = [printable(path, _MAX_PATH) for path in (folder, existing)]
        raise UserError(
            f"{shown[0]} cannot be written: {shown[1]}: {error.strerror}; choose another folder "
            "with outputs=DIR (or hydra.run.dir=DIR)"
        ) from error


@contextmanager
def trial_folder(near: Path) -> Iterator[Path]:
    """Make a temporary folder; near the runs if the machine's temporary folder is unusable."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder("trial"))
        except OSError:
            folder = stack.enter_context(scratch_folder("trial", _nearest_existing(near)))
        yield folder


def _nearest_existing(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that exists."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return existing
