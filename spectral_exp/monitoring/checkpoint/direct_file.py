"""Write a new file in large pieces past the page cache, for a tenth of the processor time."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path

_BLOCK = (
    4096  # alignment, in file and memory, that every usual file system accepts for direct writing
)
_PIECE_BYTES = 8 << 20
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A new file, written from beginning to end: `with DirectFile(path) as file: ...`.

    Where the file system refuses direct writing (tmpfs, some network file systems) the same pieces
    go through the page cache. Nothing is durable before `sync`.

    Raises:
        OSError: from every method, as the storage refuses.
    """

    def __init__(self, path: Path) -> None:
        flags = (
            os.O_WRONLY
            | os.O_CREAT
            | os.O_EXCL
            | getattr(os, "O_CLOEXEC", 0)
            | getattr(os, "O_BINARY", 0)
        )
        self._direct = bool(_O_DIRECT)
        try:
            self._descriptor = os.open(path, flags | _O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            # Some file systems make the file before they refuse the flag.
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._direct = False
            self._descriptor = os.open(path, flags, 0o666)
        self._view = memoryview(mmap.mmap(-1, _PIECE_BYTES))  # begins at a page
        self._filled = 0
        self.size = 0
        """Bytes given to `write` so far."""

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(self, *error: object) -> None:
        # The buffer goes with its last view: one of them may be in the traceback of a failed write.
        os.close(self._descriptor)

    def reserve(self, n_bytes: int) -> None:
        """Reserve the space for the whole file, so that a full disk is reported at once."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._descriptor, 0, n_bytes)
        except OSError as error:
            if error.errno not in {
                errno.EINVAL,
                errno.EOPNOTSUPP,
                errno.ENODEV,
            }:  # cannot be reserved here
                raise

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes.

        Large pieces that begin at a page, in memory and in the file, are not copied first.
        """
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._filled % _BLOCK == 0 and len(view) >= _BLOCK and _address(view) % _BLOCK == 0:
            self._write_out(self._view[: self._filled])
            self._filled = 0
            whole = len(view) // _BLOCK * _BLOCK
            for start in range(0, whole, _PIECE_BYTES):
                self._write_out(view[start : min(whole, start + _PIECE_BYTES)])
            view = view[whole:]
        while view:
            part = view[: _PIECE_BYTES - self._filled]
            self._view[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == _PIECE_BYTES:
                self._write_out(self._view)
                self._filled = 0

    def sync(self) -> None:
        """Write what is left and return once the storage has everything."""
        whole = self._filled // _BLOCK * _BLOCK
        self._write_out(self._view[:whole])
        if whole < self._filled:
            self._leave_direct()
            self._write_out(self._view[whole : self._filled])
        self._filled = 0
        os.ftruncate(self._descriptor, self.size)  # what was reserved too much
        os.fsync(self._descriptor)

    def _write_out(self, view: memoryview) -> None:
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()
                continue
            if written % _BLOCK:  # a short write: the rest is no longer aligned
                self._leave_direct()
            view = view[written:]

    def _leave_direct(self) -> None:
        if self._direct:
            import fcntl

            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_O_DIRECT)
            self._direct = False


def _address(view: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(view, np.uint8).ctypes.data)
