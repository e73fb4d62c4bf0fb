"""Open files in folders that a stranger may have filled, without waiting for a FIFO or device."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

# Opening a FIFO waits for its other end, and a terminal may become the one that controls this
# process.
_FLAGS = (
    getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
RUN_FILE_FLAGS = _FLAGS | getattr(os, "O_NOFOLLOW", 0)
"""Flags with which a file inside a run is opened."""

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "Is a directory"),
    (stat.S_ISFIFO, errno.EINVAL, "Is a FIFO, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "Is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "Is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "Is a device, not a file"),
)


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading; links are followed.

    Raises:
        OSError: the file is missing or unreadable, or is a folder, a FIFO, a socket or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except ValueError as error:  # a NUL in the name
        cause = "Has no name that a file can have"
        raise FileNotFoundError(errno.ENOENT, cause, repr(path)) from error
    try:
        refuse_irregular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return io.BufferedReader(io.FileIO(descriptor))


def read_regular(path: str | Path, max_bytes: int) -> bytes:
    """Return the content of a regular file. Kernel files, whose size is 0, read as empty.

    Raises:
        OSError: as `open_regular`, or the file is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            cause = f"Holds {size:,} bytes where at most {max_bytes:,} are read"
            raise OSError(errno.EFBIG, cause, str(path))
        return file.read(size)


def open_run_file(path: Path, flags: int) -> int:
    """Open a file of a run and return the descriptor; the umask applies to a new file.

    Raises:
        OSError: the file cannot be opened, or is a link or no regular file.
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
    """Raise an OSError if `path` is a link, also on systems without O_NOFOLLOW."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed inside a run", str(path))


def refuse_irregular(descriptor: int, path: str | Path) -> None:
    """Raise an OSError if the open `path` is a folder, a FIFO, a socket or a device."""
    mode = os.fstat(descriptor).st_mode
    for is_kind, number, words in _KINDS:
        if is_kind(mode):
            raise OSError(number, words, str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Is not a file", str(path))
