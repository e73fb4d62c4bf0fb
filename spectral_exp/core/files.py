"""Durable file operations: whole files or none, renames that survive a power cut, no links followed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spectral_exp.core.regular_file import open_regular

log = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"


# A link is not followed, and a pipe would wait for its other end.
RUN_FILE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_run_file(path: Path, flags: int) -> int:
    """Open a file of a run, new files with the rights that the umask leaves; returns the descriptor.

    A run may come from somebody else: what lies in place of its file, a link or a pipe, is refused.

    Raises:
        OSError: the file cannot be opened, or is no regular file.
    """
    refuse_link(path)
    descriptor = os.open(path, flags | RUN_FILE_FLAGS, 0o666)
    try:
        refuse_irregular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def refuse_link(path: Path) -> None:
    """Raise an OSError if `path` is a link, also where the system cannot refuse to follow one."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed inside a run", str(path))


def refuse_irregular(descriptor: int, path: Path) -> None:
    """Raise an OSError if the open `path` is a pipe, a device or the like."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path`, durably, when the block ends; if the block raises, `path` stays what it was.

    Bytes go to a temporary file in the same folder, which is synchronised and renamed; then the folder is synchronised.

    Raises:
        OSError: it cannot be written, or `path` is a device, a pipe or a folder, which no file may replace.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        discard(temporary)
        raise
    fsync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """A name in the folder of `path` that nobody else uses, for what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def discard(temporary: Path) -> None:
    """Remove a temporary file after a failure."""
    # The disk may be too broken even for this; what brought us here says so.
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, name: str = "") -> None:
    """Remove what killed writers left in `folder` of the file `name`, or of all files.

    For the only writer of these files, at a moment when it writes none.
    """
    for leftover in folder.glob(f".{name}*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def fsync_directory(folder: Path) -> None:
    """Make renames, new names and removals in `folder` survive a power cut, as far as its file system can."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # file systems that do not know the operation
            raise
    finally:
        os.close(descriptor)


def replace_symlink(link: Path, target: Path) -> None:
    """Let `link` point to `target`, a file in the same folder, durably and without a moment in which it points nowhere.

    Where symbolic links are refused a small text file holding the target's name takes its place; `follow` reads both.
    """
    temporary = temporary_path(link)
    try:
        temporary.symlink_to(target.name)
    except (OSError, NotImplementedError) as error:
        log.debug("no symbolic link %s (%s): writing a pointer file", link, error)
        with atomic_writer(link) as file:
            file.write(f"{target.name}\n".encode())
        return
    temporary.replace(link)
    fsync_directory(link.parent)


def follow(link: Path) -> Path | None:
    """The existing file that a link made by `replace_symlink` points to, or None."""
    try:
        name = str(link.readlink()) if link.is_symlink() else _read_pointer(link)
    except OSError:
        return None
    target = link.with_name(Path(name).name) if name.strip() else link
    return target if target != link and target.is_file() else None


def _read_pointer(link: Path) -> str:
    with open_regular(link) as file:
        return file.read(1024).partition(b"\n")[0].decode(errors="replace")
