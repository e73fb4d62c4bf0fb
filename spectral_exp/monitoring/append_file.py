"""A text file that only grows, one whole line at a time."""

from __future__ import annotations

import logging
import os
import time
import weakref
from pathlib import Path

from spectral_exp.run_dir import open_run_file

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class AppendFile:
    """Lines appended through one kept, unbuffered handle: a written line survives the death of the process.

    The file is opened, and its folder made, with the first line. Lines that the disk refuses wait in memory and are
    tried again, in order, with the next one; the first refusal of a row is told in a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = bytearray()
        self._descriptor: int | None = None
        self._closer: weakref.finalize[[int], AppendFile] | None = None
        self._warned = False
        self._look_at = 0.0

    def write(self, line: bytes, flush: bool = True) -> None:
        """Append `line`, which ends in a newline, at once or with the next flush."""
        self._waiting += line
        if flush:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the disk takes it."""
        if not self._waiting:
            return
        if self._was_deleted():
            log.warning("%s was deleted while it was written; it begins anew with what comes now", self.path)
            self._close()
        try:
            self._append(self._descriptor if self._descriptor is not None else self._open())
        except OSError as error:
            self._warn(error)
            return
        if self._warned:
            log.warning("%s is being written again", self.path)
            self._warned = False

    def close(self) -> None:
        """Write what waits and close the file; the next line opens it again."""
        self.flush()
        self._close()

    def _close(self) -> None:
        if self._closer is not None:
            self._closer()
        self._closer = self._descriptor = None

    def _was_deleted(self) -> bool:
        """Whether the open file has no name any more; looked at once a second, since it costs a third of a line."""
        now = time.monotonic()
        if self._descriptor is None or now < self._look_at:
            return False
        self._look_at = now + _LOOK_EVERY_S
        return not os.fstat(self._descriptor).st_nlink

    def _append(self, descriptor: int) -> None:
        written = os.write(descriptor, self._waiting)
        try:
            while written < len(self._waiting):  # most often it took all
                written += os.write(descriptor, self._waiting[written:])
        except OSError:
            # What it took of a line is taken back, so that the file always ends with a whole one.
            whole = self._waiting.rfind(b"\n", 0, written) + 1
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - (written - whole))
            del self._waiting[:whole]
            raise
        self._waiting.clear()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_run_file(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            # A process that was killed inside a line left no newline: ours has to start after one.
            if (size := os.fstat(descriptor).st_size) > 0:
                os.lseek(descriptor, size - 1, os.SEEK_SET)
                if os.read(descriptor, 1) != b"\n":
                    os.write(descriptor, b"\n")
        except OSError:
            os.close(descriptor)
            raise
        self._closer = weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        return descriptor

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning(
                "cannot write %s: %s; its lines wait in memory and are tried again; free space or mend the disk",
                self.path,
                error.strerror or error,
            )
        self._warned = True
