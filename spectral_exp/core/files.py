"""Replace whole files durably: after a power cut the old file or the new one is found."""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from spectral_exp.core.file_locks import fcntl
from spectral_exp.core.regular_file import RUN_FILE_FLAGS, open_regular

log = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that durably replaces `path` when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is synchronized and renamed. Then the
    folder is synchronized. A lock marks the temporary file as in use until the process ends.

    Raises:
        OSError: the file cannot be written, or `path` is a device, a FIFO or a folder.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # Windows renames no open file
                file.close()
            temporary.replace(path)
    except BaseException:
        discard(temporary)
        raise
    fsync_directory(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Durably replace `path` by a file with `content`; see `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(content)


def temporary_path(path: Path) -> Path:
    """Return a new name in the folder of `path`, for a file that will be renamed to `path`."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{unique}{TEMPORARY_SUFFIX}")


def discard(temporary: Path) -> None:
    """Remove a temporary file after a failure."""
    # The disk may refuse this too; the caller reports the first failure.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, name: str = "") -> None:
    """Remove temporary files that killed writers left in `folder`, of the file `name` or of all.

    Folders stay. Only for the sole writer of these files, while it writes none.
    """
    for leftover in folder.glob(f".{glob.escape(name)}*{TEMPORARY_SUFFIX}"):
        if not leftover.is_dir() or leftover.is_symlink():
            leftover.unlink(missing_ok=True)


def remove_abandoned_files(path: Path) -> None:
    """Remove the temporary files of `path` whose `atomic_writer` was killed.

    Files of writers that still run, on this or another machine, are locked and stay.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\{TEMPORARY_SUFFIX}")
    with suppress(OSError):
        for leftover in path.parent.iterdir():
            if name.fullmatch(leftover.name):
                _remove_unlocked(leftover)


def _remove_unlocked(file: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | RUN_FILE_FLAGS)
        try:
            if _lock(descriptor):
                file.unlink()
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; return False if it is in use or cannot be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def fsync_path(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(folder: Path) -> None:
    """Make renames, new names and removals in `folder` survive a power cut.

    Systems and file systems that cannot synchronize a folder are left as they are.
    """
    if os.name == "nt":  # directories cannot be opened there
        return
    try:
        fsync_path(folder)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def replace_symlink(link: Path, target: Path) -> None:
    """Durably replace `link` by a link to `target`, a file in the same folder, in one rename.

    If the file system refuses symbolic links, a text file with the target's name takes its place.
    `follow` reads both.
    """
    temporary = temporary_path(link)
    try:
        temporary.symlink_to(target.name)
    except (OSError, NotImplementedError) as error:
        log.debug("no symbolic link %s (%s): writing a pointer file", link, error)
        write_atomic(link, f"{target.name}\n".encode())
        return
    temporary.replace(link)
    fsync_directory(link.parent)


def follow(link: Path) -> Path | None:
    """Return the existing file that a link made by `replace_symlink` points to, or None."""
    try:
        name = str(link.readlink()) if link.is_symlink() else _read_pointer(link)
    except OSError:
        return None
    target = link.with_name(Path(name).name) if name.strip() else link
    return target if target != link and target.is_file() else None


def _read_pointer(link: Path) -> str:
    with open_regular(link) as file:
        return file.read(1024).partition(b"\n")[0].decode(errors="replace")
