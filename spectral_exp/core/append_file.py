"""Append whole lines to a text file from any number of threads and processes."""

from __future__ import annotations

import atexit
import errno
import itertools
import logging
import multiprocessing.util
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from spectral_exp.core import files
from spectral_exp.core.file_locks import fcntl, try_lock
from spectral_exp.core.regular_file import RUN_FILE_FLAGS, refuse_irregular, refuse_link

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LOOKS, _LOOK_AGAIN_S = 5, 0.002
_BLOCK = 1 << 16
_FIRST_FREE_DESCRIPTOR = 3
"""The numbers below belong to the standard streams, also while one of them is closed."""

T = TypeVar("T")

_files: weakref.WeakSet[AppendFile] = weakref.WeakSet()


_Batch: TypeAlias = "tuple[tuple[tuple[bytes], ...], bytes, list[int]]"
"""Lines on their way to the file.

The lines, each in a tuple of its own, so that equal lines differ by identity; the lines as one
piece; and the number of bytes that each write has taken. The call that writes also fills this list:
no exception of a signal handler can come between the two.
"""


class AppendFile:
    """Appends lines through one unbuffered handle, so that they survive the process.

    The file is opened, and its folder made, with the first line. Lines that the disk refuses wait
    in memory and are tried again, in order, with the next one. The first refusal of a row is logged
    as a warning.

    Every line arrives once and whole, whichever threads and processes append to the file: a line is
    one write at the end of the file. A copy of this object in another process, pickled or forked,
    opens the file for itself and leaves the waiting lines to the original. A signal handler may
    raise an exception or append lines at any moment.

    Args:
        path: the file.
        is_whole: decides whether a last line that lacks only its newline is kept when the file is
            opened; otherwise it is cut off. None keeps it.
    """

    _is_held: bool  # the lock, by this thread or another one
    _changed_folders: tuple[Path, ...]  # by opening the file
    _durable_folders: tuple[Path, ...]  # the same ones, once they survive a power cut

    def __init__(self, path: Path, is_whole: Callable[[bytes], bool] | None = None) -> None:
        self.path = path
        self._is_whole = is_whole
        self._lines: deque[tuple[bytes]] = deque()
        self._warnings: deque[tuple[object, ...]] = deque()
        self._descriptors: list[int] = []
        self._reported_loss = 0
        self._home: os.stat_result | None = None
        weakref.finalize(self, _close_all, self._descriptors)
        self._reset()
        _files.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "is_whole": self._is_whole}

    def __setstate__(self, state: dict[str, Any]) -> None:
        AppendFile.__init__(self, **state)

    @property
    def last_waiting_line(self) -> bytes | None:
        """The newest line that is not in the file yet, or None."""
        try:
            return self._lines[-1][0]
        except IndexError:
            return None

    def write(self, line: bytes, flush: bool = True) -> None:
        """Append `line`, which ends in a newline, at once or with the next flush."""
        self._lines.append((line,))
        if flush:
            self.flush()

    def flush(self) -> None:
        """Write the waiting lines, as far as the disk takes them."""
        while self._lines:
            if self._is_held and self._is_nested():
                self._missed = True  # the flush that was interrupted writes these lines too
                return
            with self._lock:  # as in `_hold`, which would cost every line a call
                self._is_held = True
                self._missed = False
                try:
                    self._write_lines()
                finally:
                    self._is_held = False
            if self._warnings:
                self._log_warnings()
            if not self._missed:
                return

    def sync(self) -> None:
        """Flush, and make what is written survive a power cut.

        A storage that fails is logged as a warning.
        """
        self.flush()
        copies: list[int] = []
        try:
            self._hold(lambda: copies.extend(map(os.dup, self._descriptors)))
            folders = self._changed_folders
            # Not with the lock held: the storage may take long, and nobody who logs should wait for
            # it.
            for descriptor in copies:
                os.fsync(descriptor)
            if copies and folders is not self._durable_folders:
                for folder in folders:
                    files.fsync_directory(folder)
                self._durable_folders = folders
        except OSError as error:
            log.warning(
                "cannot make %s survive a power cut: %s", self.path, error.strerror or error
            )
        finally:
            _close_all(copies)

    def close(self) -> None:
        """Write the waiting lines and close the file; the next line opens it again."""
        self.flush()
        self.report_loss()
        if not self._is_nested():
            self._hold(self._close)

    def report_loss(self) -> None:
        """Log an error, once, if the storage has not taken all lines at the end."""
        lost = len(self._lines)
        if lost and lost != self._reported_loss:
            self._reported_loss = lost
            log.error(
                "the last %d lines are not in %s: its storage does not take them", lost, self.path
            )

    def while_closed(self, action: Callable[[], T]) -> T:
        """Close the file and return `action()`, while no thread of this process can append."""

        def close_and_act() -> T:
            self._close()
            return action()

        self.flush()
        return self._hold(close_and_act)

    # --- locking ----------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._is_held = False
        self._missed = False
        self._batch: _Batch | None = None
        self._changed_folders = self._durable_folders = ()
        self._warned = False
        self._look_at = 0.0

    def _is_nested(self) -> bool:
        """Whether a signal handler is calling that interrupted a call which holds the lock."""
        frame = sys._getframe(1).f_back
        while frame is not None:
            if frame.f_code in _HOLDERS and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _hold(self, action: Callable[[], T]) -> T:
        """Return `action()`, executed with the lock held."""
        # This lock is taken and released in single operations, between which no signal is handled.
        # It may be taken twice, so that even a lock that was left behind does not stop its thread.
        with self._lock:
            before = self._is_held
            self._is_held = True
            try:
                return action()
            finally:
                self._is_held = before

    def _log_warnings(self) -> None:
        """Without the lock: a handler of log records may append to this very file."""
        while self._warnings:
            try:
                message, *arguments = self._warnings.popleft()
            except IndexError:  # another thread has taken it
                return
            log.warning(message, *arguments)

    def _forget(self) -> None:
        """In a forked process: waiting lines and the open file are the original's."""
        self._lines.clear()
        self._close()
        self._reset()

    # --- with the lock held -----------------------------------------------------------------------

    def _write_lines(self) -> None:
        """Write what waits. Every line pays for this, so it makes as few calls as possible."""
        if self._batch is not None:
            self._settle(self._batch)
        try:
            usable = self._descriptors and time.monotonic() < self._look_at
            descriptor = self._descriptors[0] if usable else self._usable_descriptor()
            waiting = self._lines
            lines = tuple(waiting)
            data = lines[0][0] if len(lines) == 1 else b"".join([line for (line,) in lines])
            taken: list[int] = []
            self._batch = (lines, data, taken)
            taken.extend(map(os.write, (descriptor,), (data,)))
            done = taken[0]
            while done < len(data):  # it usually takes all at once
                taken.extend(map(os.write, (descriptor,), (data[done:],)))
                done = sum(taken)
        except OSError as error:
            self._warn(error)
            if self._batch is not None:
                self._settle(self._batch)
            return
        for line in lines:
            if waiting[0] is line:
                waiting.popleft()
        self._batch = None
        if self._warned:
            self._warnings.append(("%s is being written again", self.path))
            self._warned = False

    def _settle(self, batch: _Batch) -> None:
        """Forget the lines of a batch that are in the file.

        May be interrupted and repeated at any point.
        """
        lines, data, taken = batch
        done = sum(taken)
        if done != len(data):
            ends = itertools.accumulate(len(line) for (line,) in lines)
            lines = tuple(line for line, end in zip(lines, ends, strict=True) if end <= done)
            self._take_back(done - sum(len(line) for (line,) in lines))
        for line in lines:
            if self._lines and self._lines[0] is line:
                self._lines.popleft()
        self._batch = None

    def _take_back(self, size: int) -> None:
        """Remove the beginning of a line, `size` bytes, if it is still at the end of the file."""
        if not size or not self._descriptors:
            return
        descriptor = self._descriptors[0]
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            if os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, end - size)
        except OSError:
            self._close()  # opening it again begins a new line

    def _usable_descriptor(self) -> int:
        """Return the descriptor, opened if need be.

        Once a second, check whether the file was deleted.
        """
        if self._descriptors and not os.fstat(self._descriptors[0]).st_nlink:
            self._warnings.append(
                (
                    "%s was deleted while it was written; it begins anew with the next line",
                    self.path,
                )
            )
            self._close()
        if not self._descriptors:
            return self._open()
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        return self._descriptors[0]

    def _close(self) -> None:
        _close_all(self._descriptors)

    def _open(self) -> int:
        self._changed_folders = _folders_that_change(self.path)
        self._make_folder()
        refuse_link(self.path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | RUN_FILE_FLAGS
        try:
            # Opened and remembered at once: an exception of a signal handler leaves no file open.
            self._descriptors.extend(map(os.open, (self.path,), (flags,), (0o666,)))
            refuse_irregular(self._descriptors[0], self.path)
            _leave_standard_streams(self._descriptors)
            if _finish_last_line(self._descriptors[0], self._is_whole):
                self._warnings.append(("%s: removed an unfinished last line", self.path))
        except BaseException:
            self._close()
            raise
        return self._descriptors[0]

    def _make_folder(self) -> None:
        """Make the file's folder, unless another run has taken the place of its own."""
        folder = self.path.parent
        if (
            self._home is not None
            and not folder.exists()
            and not os.path.samestat(self._home, folder.parent.stat())
        ):
            raise FileNotFoundError(errno.ENOENT, "the run was moved or removed", str(folder))
        folder.mkdir(parents=self._home is None, exist_ok=True)
        self._home = self._home or folder.parent.stat()

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            message = (
                "cannot write %s: %s; its lines wait in memory and are tried again; free space or"
                " repair the disk"
            )
            self._warnings.append((message, self.path, error.strerror or error))
        self._warned = True


_HOLDERS = (AppendFile.flush.__code__, AppendFile._hold.__code__)


@atexit.register
def _flush_all() -> None:
    for file in list(_files):
        file.flush()
        file.report_loss()


# A process that multiprocessing forks ends without the above.
multiprocessing.util.register_after_fork(
    _files, lambda _: multiprocessing.util.Finalize(None, _flush_all, exitpriority=0)
)


def _forget_all() -> None:
    for file in list(_files):
        file._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _folders_that_change(path: Path) -> tuple[Path, ...]:
    """The folders that get a new entry when `path` and the missing folders above it are made."""
    changed = []
    while not path.exists():
        path = path.parent
        changed.append(path)
    return tuple(changed)


def _leave_standard_streams(descriptors: list[int]) -> None:
    """Move a file off the number of a closed standard stream, which prints would write to."""
    if fcntl is not None and descriptors[0] < _FIRST_FREE_DESCRIPTOR:
        descriptors.append(
            fcntl.fcntl(descriptors[0], fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_DESCRIPTOR)
        )
        os.close(descriptors.pop(0))


def _finish_last_line(descriptor: int, is_whole: Callable[[bytes], bool] | None) -> bool:
    """Let the next line begin after a newline.

    Return whether an unfinished line was removed for that.
    """
    alone = try_lock(descriptor, alone=True)
    tail = _unfinished_line(descriptor)
    # While others write, what looks unfinished may be a line on its way.
    remove = bool(tail) and alone and is_whole is not None and not is_whole(tail)
    if remove:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(tail))
    elif tail and _is_left(descriptor, tail):
        os.write(descriptor, b"\n")
    try_lock(descriptor, alone=False)
    return remove


def _is_left(descriptor: int, tail: bytes) -> bool:
    """Whether the file still ends with `tail` after a pause, in which a writer would finish it."""
    for _ in range(_LOOKS):
        time.sleep(_LOOK_AGAIN_S)
        if _unfinished_line(descriptor) != tail:
            return False
    return True


def _unfinished_line(descriptor: int) -> bytes:
    """Return the bytes after the last newline of a file."""
    end = os.fstat(descriptor).st_size
    tail = b""
    while end > 0 and b"\n" not in tail:
        start = max(0, end - max(_BLOCK, len(tail)))
        os.lseek(descriptor, start, os.SEEK_SET)
        tail = os.read(descriptor, end - start) + tail
        end = start
    return tail.rpartition(b"\n")[2]
