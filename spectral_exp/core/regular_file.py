"""Opening files of a folder that others may have filled: never waits, and never reads more than there is."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

# A FIFO without a writer blocks whoever opens it, and a terminal may become the one that controls this process.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "Is a directory"),
    (stat.S_ISFIFO, errno.EINVAL, "Is a FIFO, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "Is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "Is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "Is a device, not a file"),
)


def open_regular(path: str | Path) -> io.BufferedReader:
    """A regular file, opened for reading; links are followed.

    Raises:
        OSError: there is none, it cannot be read, or it is a folder, a FIFO, a socket or a device.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, "Has no name that a file can have", repr(path)) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return io.BufferedReader(io.FileIO(descriptor))
    os.close(descriptor)
    for is_kind, number, words in _KINDS:
        if is_kind(mode):
            raise OSError(number, words, str(path))
    raise OSError(errno.EINVAL, "Is not a file", str(path))


def read_regular(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file, as long as its size says: files of the kernel, which have none, read as empty.

    Raises:
        OSError: as `open_regular`, or the file is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"Holds {size:,} bytes where at most {max_bytes:,} are read", str(path))
        return file.read(size)
