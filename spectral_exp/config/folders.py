"""Checks of the place of run directories, before one exists."""

from __future__ import annotations

import tempfile
from pathlib import Path

from spectral_exp.core.errors import UserError


def refuse_unwritable(folder: Path) -> None:
    """Raise a UserError unless a run directory can be made at `folder`; leaves nothing behind."""
    existing = _nearest_existing(folder)
    try:
        Path(tempfile.mkdtemp(dir=existing)).rmdir()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {existing}: {error.strerror}; choose another place with "
            "outputs=DIR (or hydra.run.dir=DIR)"
        ) from error


def temporary_folder(near: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder; near the runs if the machine has no place for temporary files."""
    try:
        return tempfile.TemporaryDirectory()
    except OSError:
        return tempfile.TemporaryDirectory(dir=_nearest_existing(near))


def _nearest_existing(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that exists."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return existing
