"""Delete a run directory as a whole, and nothing outside of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.errors import RunError, UserError
from spectral_exp.core.files import fsync_directory
from spectral_exp.runs.find import is_run_directory
from spectral_exp.runs.layout import HYDRA_FOLDER, HYDRA_OVERRIDES_NAME, RunPaths
from spectral_exp.runs.lock import refuse_if_running
from spectral_exp.runs.output_file import RUN_MARKERS
from spectral_exp.runs.record import read_config

_MARKERS = (*RUN_MARKERS, f"{HYDRA_FOLDER}/{HYDRA_OVERRIDES_NAME}")
_TRASH = ".spectral_exp_deleted_"


@dataclass(frozen=True)
class Deletion:
    """A run that can be deleted.

    Attributes:
        root: its real path.
        n_files: number of files and links.
        n_bytes: size of the files that exist nowhere else under another name.
    """

    root: Path
    n_files: int
    n_bytes: int


def plan_deletion(path: Path) -> Deletion:
    """Check that the run in `path` can be deleted, without changes.

    Raises:
        UserError: `path` is a link or no run directory, the run is in progress, or the folder
            holds another run, a link to something outside, another file system or a folder that
            cannot be read.
    """
    root = Path(os.path.realpath(path))
    if not _is_surely_run(path):
        raise UserError(f"{path} is not a run directory; only runs are deleted")
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not followed; name the run directory itself")
    refuse_if_running(root, here=True)
    try:
        return _measure(root)
    except OSError as error:
        raise UserError(
            f"{path} is not deleted: {error.filename} cannot be read: {error.strerror}"
        ) from error


def delete_run(deletion: Deletion) -> None:
    """Delete a run; it disappears at once under its name, then its files are removed.

    Nothing is written, so that runs on a full disk can be deleted. If this process is killed in
    between, the rest is in a hidden folder beside the run. The next deletion there removes it.

    Raises:
        UserError: the run is in progress, or its folder cannot be renamed; nothing has changed.
        RunError: the run is gone, and some of its files cannot be removed.
    """
    root = deletion.root
    trash = root.with_name(f"{_TRASH}{secrets.token_hex(4)}")
    refuse_if_running(root, here=True)
    try:
        root.rename(trash)
    except OSError as error:
        raise UserError(
            f"{root} is not deleted: its folder cannot be renamed: {error.strerror}"
        ) from error
    try:
        # After a power cut, the run must not be back under its name without some of its files.
        fsync_directory(root.parent)
        _remove(trash)
    except OSError as error:
        raise RunError(
            f"{root} is deleted, but its files in {trash} cannot be removed: {error.strerror}"
        ) from error
    for leftover in root.parent.glob(f"{_TRASH}*"):
        with contextlib.suppress(OSError):
            _remove(leftover)


def _remove(folder: Path) -> None:
    while os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):  # another deletion removes it as a leftover
            shutil.rmtree(folder)


def _is_surely_run(root: Path) -> bool:
    """Return whether training made the folder. Files named `config.json` are common elsewhere."""
    if not is_run_directory(root):
        return False
    if any((root / marker).is_file() for marker in _MARKERS):
        return True
    try:
        return "config" in read_config(RunPaths(root).config_file)[0]
    except UserError:
        return False


def _measure(root: Path) -> Deletion:
    """Count the files below `root` and their bytes; refuse what must not be deleted with it."""
    device = root.stat().st_dev
    n_files = 0
    names: dict[int, list[int]] = {}  # inode -> size, names elsewhere
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        if folder != root and is_run_directory(folder):
            raise UserError(f"{root} holds another run, {folder}; delete or move that one first")
        for name in os.listdir(folder):  # noqa: PTH208
            entry = folder / name
            state = entry.lstat()
            if state.st_dev != device:
                raise UserError(f"{root} holds another file system, {entry}; unmount it first")
            if stat.S_ISDIR(state.st_mode):
                waiting.append(entry)
                continue
            n_files += 1
            if stat.S_ISLNK(state.st_mode):
                _refuse_link_out(root, entry)
            elif stat.S_ISREG(state.st_mode):
                known = names.setdefault(state.st_ino, [state.st_size, state.st_nlink])
                known[1] -= 1
    n_bytes = sum(size for size, n_elsewhere in names.values() if n_elsewhere == 0)
    return Deletion(root, n_files, n_bytes)


def _refuse_link_out(root: Path, link: Path) -> None:
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(root):
        raise UserError(
            f"{root} holds a link to something outside, {link.relative_to(root)} -> {target}, "
            "which would stay; remove the link first"
        )
