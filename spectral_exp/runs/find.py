"""Find run directories below folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.runs.layout import (
    CHECKPOINTS_FOLDER,
    COMPANION_FOLDER,
    CONFIG_NAME,
    LOCK_NAME,
    LOGS_FOLDER,
    METRICS_NAME,
    RESULTS_NAME,
    TENSORBOARD_FOLDER,
    TOKENIZER_FOLDER,
    VISUALIZATIONS_FOLDER,
    WANDB_FOLDER,
)

_RUN_FOLDERS = {
    CHECKPOINTS_FOLDER,
    COMPANION_FOLDER,
    LOGS_FOLDER,
    TENSORBOARD_FOLDER,
    TOKENIZER_FOLDER,
    VISUALIZATIONS_FOLDER,
    WANDB_FOLDER,
}

_MAX_FOLDERS = 200_000

LeftOut = tuple[Path, str]
"""A folder that is not used, and the reason."""


@dataclass
class Found:
    """Run directories, and folders that only look like one or cannot be read."""

    runs: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find_runs(folders: Sequence[str | Path]) -> Found:
    """Find the run directories in and below `folders`, at any depth.

    Links to folders are followed, each folder is visited once, and hidden folders are skipped.

    Raises:
        UserError: a folder does not exist or is not a folder.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    for folder in map(Path, folders):
        if not os.path.lexists(folder):
            raise UserError(
                f"there is no folder {folder}; name run directories, or folders that hold some"
            )
        if not folder.is_dir():
            kind = "a file" if folder.is_file() else "a broken link"
            raise UserError(f"{folder} is {kind}; name run directories, or folders that hold some")
    kernel_devices = _kernel_devices()
    # Folders are visited before links, so that a run keeps its own name if a link leads to it too.
    waiting, links = [Path(folder) for folder in folders], list[Path]()
    while waiting or links:
        folder = waiting.pop(0) if waiting else links.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            if state.st_dev in kernel_devices:
                found.left_out.append((folder, "it belongs to the kernel and holds no runs"))
                continue
            if len(seen) > _MAX_FOLDERS:
                found.left_out.append(
                    (folder, f"more than {_MAX_FOLDERS:,} folders were searched before")
                )
                break
            inner, inner_links = _search(folder, found)
        except OSError as error:
            found.left_out.append((folder, f"cannot be read: {error.strerror}"))
            continue
        waiting += inner
        links += inner_links
    found.runs.sort()
    found.left_out.sort()
    return found


def is_run_directory(folder: Path) -> bool:
    """Return whether `folder` is a run directory, of any state.

    Raises:
        UserError: it cannot be read.
    """
    with explain_os_error(f"read {folder}"):
        return folder.is_dir() and _is_run(folder, set(os.listdir(folder)))  # noqa: PTH208


def _is_run(folder: Path, names: set[str]) -> bool:
    """Return whether a folder with entries of these `names` is a run."""
    if names & {CONFIG_NAME, RESULTS_NAME}:
        return True
    return LOGS_FOLDER in names and (folder / LOGS_FOLDER / METRICS_NAME).is_file()


def _kernel_devices() -> set[int]:
    """Return the devices of /proc and similar, whose links would lead anywhere."""
    folders = [folder for folder in map(Path, ("/proc", "/sys", "/dev")) if folder.is_dir()]
    return {folder.stat().st_dev for folder in folders} - {Path("/").stat().st_dev}


def _search(folder: Path, found: Found) -> tuple[list[Path], list[Path]]:
    """Add a folder to `found` if it is a run; return its subfolders and its links to folders."""
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    is_run = _is_run(folder, names)
    resembles_run = is_run or bool(names & {CHECKPOINTS_FOLDER, LOCK_NAME})
    if is_run:
        found.runs.append(folder)
    elif resembles_run:
        found.left_out.append(
            (folder, f"it has neither {CONFIG_NAME} nor {LOGS_FOLDER}/{METRICS_NAME}")
        )
    inner, links = list[Path](), list[Path]()
    for entry in entries:
        if entry.name.startswith(".") or (resembles_run and entry.name in _RUN_FOLDERS):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link to itself
            found.left_out.append((folder / entry.name, f"cannot be read: {error.strerror}"))
            continue
        if is_folder:
            (links if entry.is_symlink() else inner).append(folder / entry.name)
    return inner, links
