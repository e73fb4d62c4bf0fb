"""The files of a run that the page may ask for: plots, logs and small texts.

Requests name a file by an id from a list that the server makes. Files are opened one folder at a
time without following links, so nothing outside of the run is ever read.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import RUN_FILE_FLAGS, refuse_irregular
from spectral_exp.dashboard.identity import short_hash
from spectral_exp.runs.layout import VISUALIZATIONS_FOLDER
from spectral_exp.runs.plot_files import PNG_SIGNATURE

MAX_LISTED = 5000
MAX_IMAGE_BYTES = 32 << 20
MAX_TEXT_BYTES = 16 << 20

_MAX_DEPTH = 6
_PLOT = re.compile(r"(.+)_step_(\d{1,18})(?:_(\d{8}_\d{6}))?\.png")
_BINARY_SUFFIXES = (
    ".pt", ".zst", ".gz", ".xz", ".bz2", ".zip", ".pkl", ".pickle", ".npy", ".npz", ".safetensors",
)  # fmt: skip


class UnknownFileError(UserError):
    """A run has no such file, or it may not be shown."""


@dataclass(frozen=True)
class RunFile:
    """A regular file of a run."""

    name: str
    size: int
    modified_s: float

    @property
    def id(self) -> str:
        """Stands for the name in requests."""
        return short_hash(os.fsencode(self.name))

    @property
    def is_viewable(self) -> bool:
        """Whether its text may be asked for. Checkpoints and archives are never opened."""
        return self.size <= MAX_TEXT_BYTES and not self.name.lower().endswith(_BINARY_SUFFIXES)


@dataclass(frozen=True)
class PlotFile:
    """A plot of a run at one step."""

    plot: str
    step: int
    drawn: str
    name: str
    size: int


def list_files(run: Path) -> list[RunFile]:
    """Return the regular files of a run by name; links are left out. Stops at `MAX_LISTED`."""
    found = []
    for file in _walk(run, "", _MAX_DEPTH):
        found.append(file)
        if len(found) == MAX_LISTED:
            break
    return sorted(found, key=lambda file: file.name)


def list_plots(run: Path) -> list[PlotFile]:
    """Return the newest file of each plot and step, by plot and step."""
    newest: dict[tuple[str, int], PlotFile] = {}
    for file in _walk(run / VISUALIZATIONS_FOLDER, "", 0):
        if (match := _PLOT.fullmatch(file.name)) is None:
            continue
        name = f"{VISUALIZATIONS_FOLDER}/{file.name}"
        plot = PlotFile(match[1], int(match[2]), match[3] or "", name, file.size)
        before = newest.get((plot.plot, plot.step))
        if before is None or before.drawn < plot.drawn:
            newest[plot.plot, plot.step] = plot
    return [newest[key] for key in sorted(newest)]


def read_image(run: Path, plot: str, step: int) -> bytes:
    """Return a plot as PNG. Raises UnknownFileError if there is none."""
    chosen = next((one for one in list_plots(run) if (one.plot, one.step) == (plot, step)), None)
    if chosen is None:
        raise UnknownFileError(f"there is no plot {plot} of step {step}")
    return read_plot(run, chosen)


def read_plot(run: Path, plot: PlotFile) -> bytes:
    """Return a listed plot as PNG. Raises UnknownFileError if it is none."""
    content = _read(run, plot.name, MAX_IMAGE_BYTES)
    if not content.startswith(PNG_SIGNATURE):
        raise UnknownFileError(f"{plot.name} is not a PNG file")
    return content


def read_text(run: Path, file_id: str) -> tuple[RunFile, bytes]:
    """Return a file of a run and its content. Raises UnknownFileError if it may not be shown."""
    chosen = next((file for file in list_files(run) if file.id == file_id), None)
    if chosen is None:
        raise UnknownFileError("the run has no such file")
    if not chosen.is_viewable:
        raise UnknownFileError(f"{chosen.name} is not shown: it is too large, or no text")
    return chosen, _read(run, chosen.name, MAX_TEXT_BYTES)


def open_inside(run: Path, name: str) -> io.BufferedReader:
    """Open a regular file of a run for reading; no folder or file on the way is a link.

    Raises:
        OSError: it is missing, a link, or not a regular file.
    """
    *folders, last = PurePosixPath(name).parts
    if ".." in folders or last == ".." or PurePosixPath(name).is_absolute():
        raise OSError(errno.EACCES, "lies outside of the run", name)
    # The run directory itself may be reached by a link, which its owner has chosen.
    descriptor = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | RUN_FILE_FLAGS
            inner = os.open(folder, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        opened = os.open(last, os.O_RDONLY | RUN_FILE_FLAGS, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    try:
        refuse_irregular(opened, name)
    except OSError:
        os.close(opened)
        raise
    return io.BufferedReader(io.FileIO(opened))


def _read(run: Path, name: str, max_bytes: int) -> bytes:
    try:
        with open_inside(run, name) as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UnknownFileError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise UnknownFileError(f"{name} holds more than {max_bytes:,} bytes and is not shown")
    return content


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[RunFile]:
    """Yield the regular files in and below a folder."""
    try:
        if folder.is_symlink() and prefix == "" and folder.name == VISUALIZATIONS_FOLDER:
            return
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_file(follow_symlinks=False):
                state = entry.stat(follow_symlinks=False)
                yield RunFile(f"{prefix}{entry.name}", state.st_size, state.st_mtime)
            elif depth > 0 and entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", depth - 1)
        except OSError:
            continue
