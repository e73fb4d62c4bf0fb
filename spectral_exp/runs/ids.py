"""Experiment ids, and the folders of a new run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.git import git_hash
from spectral_exp.runs.layout import CLAIMS_FOLDER, RunPaths

log = logging.getLogger(__name__)

# With timestamp, hash and the suffix of a temporary file, it stays below the usual limit of 255.
_MAX_NAME_BYTES = 160

# Longer than the hour that local time repeats when daylight saving ends.
_STALE_CLAIM_S = 2 * 3600.0

_claimed_here: set[str] = set()


def generate_experiment_id(name: str, parent: str | Path | None = None) -> str:
    """Return a new id `{name}_{YYYYMMDD_HHMMSS}_{git hash}`, unique on this machine.

    If several processes of a user request an id in the same second, the later ones get the next
    free seconds.

    Args:
        name: experiment name; characters other than letters, digits, `_`, `.` and `-` become "-".
        parent: folder of the runs; ids of existing folders are skipped.

    Raises:
        SettingError: the name has no usable character, or is too long.
    """
    clean = clean_name(name)
    commit = git_hash()
    second = datetime.now()
    while True:
        stamped = f"{clean}_{second:%Y%m%d_%H%M%S}"
        experiment_id = f"{stamped}_{commit}"
        taken = parent is not None and os.path.lexists(Path(parent) / experiment_id)
        if not taken and _claim(stamped):
            return experiment_id
        second += timedelta(seconds=1)


def clean_name(name: str) -> str:
    """Return the name of an experiment as ids contain it.

    Raises:
        SettingError: the name has no usable character, or is too long.
    """
    clean = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    require(bool(clean), "name", repr(name), "a name with at least one letter, digit or underscore")
    allowed = f"at most {_MAX_NAME_BYTES} bytes long"
    require(len(clean.encode()) <= _MAX_NAME_BYTES, "name", repr(name), allowed)
    return clean


def _claim(stamped: str) -> bool:
    """Reserve a name and second for this process; return False if they are taken."""
    if stamped in _claimed_here:
        return False
    try:
        folder = _claims_folder()
        with (folder / stamped).open("x"):
            pass
    except FileExistsError:
        return False
    except OSError as error:
        # Without a folder for claims, ids are unique within this process only.
        log.debug("%s is reserved only within this process: %s", stamped, error)
    _claimed_here.add(stamped)
    return True


def _claims_folder() -> Path:
    """Return this user's folder of claims, after removing old ones. Raises OSError if unusable."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / CLAIMS_FOLDER.format(user=user)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "owned by another user", str(folder))
    oldest = time.time() - _STALE_CLAIM_S
    for claim in folder.iterdir():
        # Another process may remove it first.
        with contextlib.suppress(FileNotFoundError):
            if claim.stat().st_mtime < oldest:
                claim.unlink()
    return folder


def create_experiment_directory(base_dir: str | Path, experiment_id: str) -> dict[str, Path]:
    """Create the folders of a run if they do not exist.

    Returns:
        Paths under the keys `root`, `checkpoints`, `logs` and `visualizations`.

    Raises:
        UserError: the folders cannot be created or written.
    """
    is_usable = experiment_id not in {"", ".", ".."} and Path(experiment_id).name == experiment_id
    require(is_usable, "experiment_id", repr(experiment_id), "a plain folder name")
    paths = RunPaths(Path(base_dir) / experiment_id)
    folders = {
        "root": paths.root,
        "checkpoints": paths.checkpoints,
        "logs": paths.logs,
        "visualizations": paths.visualizations,
    }
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise UserError(
            f"cannot create the run directory {paths.root}: {error.strerror} ({error.filename}); "
            "choose a folder you may write to, or free space on its disk"
        ) from error
    return folders
