"""Follow the metrics of a run while it goes on.

`follow` yields new entries as they are logged and ends with the run. A resumed run cuts its metrics
back to the checkpoint; the follower notices that and starts again from the first entry.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.regular_file import open_regular
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.metric_lines import MAX_LINE_BYTES, parse_entry, restore_entry

_BLOCK = 4 * MAX_LINE_BYTES
_COMPARED_BYTES = 1 << 20


@dataclass(frozen=True)
class MetricsUpdate:
    """What is new in a metrics file.

    Attributes:
        entries: new entries in the order in which they were logged, non-finite numbers restored.
        was_cut_back: the file no longer begins with the entries of earlier updates. All of them
            are void; `entries` begins with the first entry of the file.
        unreadable: number of new lines that are neither entries nor blank.
        is_behind: the file holds more lines than this update.
        is_over: no live process owns the run, and its last entry was delivered.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    was_cut_back: bool = False
    unreadable: int = 0
    is_behind: bool = False
    is_over: bool = False


class MetricsFollower:
    """Reads the metrics of a run step by step. The run may begin, end or be resumed meanwhile.

    A cut-back is recognized by the content: before each read, up to 1 MiB in front of the new lines
    is compared with what was there before, and all of it if another file has taken the place.

    Args:
        run: a run directory; it need not exist yet.
    """

    def __init__(self, run: str | Path) -> None:
        self._paths = RunPaths(run)
        self._restart()

    def poll(self) -> MetricsUpdate:
        """Return what was logged since the last call, at most about 4 MiB of it.

        A line counts once its newline is written, or once the run is over.

        Raises:
            UserError: the file cannot be read.
        """
        # Asked first: what a process logs before it ends is then read below.
        is_over = not is_running(self._paths.root)
        path = self._paths.metrics_file
        try:
            with open_regular(path) as file:
                return self._read(file, is_over=is_over)
        except FileNotFoundError:
            was_cut_back = self._offset > 0
            self._restart()
            return MetricsUpdate(was_cut_back=was_cut_back, is_over=is_over)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error

    def _restart(self) -> None:
        self._offset = 0
        self._is_in_long_line = False  # the line at the offset began before it and is too long
        self._identity: tuple[int, int] | None = None
        self._all = hashlib.blake2b()  # of the bytes before the offset
        self._last = hashlib.blake2b().digest()  # of the last of them

    def _read(self, file: BinaryIO, *, is_over: bool) -> MetricsUpdate:
        state = os.fstat(file.fileno())
        identity = (state.st_dev, state.st_ino)
        was_cut_back = not self._is_continued(file, identity, state.st_size)
        if was_cut_back:
            self._restart()
        self._identity = identity
        file.seek(self._offset)
        block = file.read(_BLOCK)
        is_behind = len(block) == _BLOCK
        end = block.rfind(b"\n") + 1
        lines = block[:end].split(b"\n")[:-1]
        rest = block[end:]
        if is_over and not is_behind and self._parse(rest) is not None:
            lines.append(rest)
            end = len(block)
        entries, unreadable = [], 0
        if lines and self._is_in_long_line:
            lines = lines[1:]
            unreadable = 1
            self._is_in_long_line = False
        for line in lines:
            entry = self._parse(line)
            if entry is not None:
                entries.append(restore_entry(entry))
            elif line.strip():
                unreadable += 1
        if is_behind and end == 0:
            end = len(block)
            self._is_in_long_line = True
        self._advance(file, block[:end])
        return MetricsUpdate(
            entries, was_cut_back, unreadable, is_behind, is_over and not is_behind
        )

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        if self._is_in_long_line or len(line) > MAX_LINE_BYTES:
            return None
        return parse_entry(line)

    def _is_continued(self, file: BinaryIO, identity: tuple[int, int], size: int) -> bool:
        """Return whether the file still begins with what was read of it."""
        if size < self._offset:
            return False
        if self._identity not in (None, identity):
            return _digest(file, 0, self._offset) == self._all.digest()
        return self._digest_last(file) == self._last

    def _advance(self, file: BinaryIO, read: bytes) -> None:
        if read:
            self._offset += len(read)
            self._all.update(read)
            self._last = self._digest_last(file)

    def _digest_last(self, file: BinaryIO) -> bytes:
        return _digest(file, max(0, self._offset - _COMPARED_BYTES), self._offset)


def follow(
    run: str | Path, interval_s: float = 1.0, stop: threading.Event | None = None
) -> Iterator[MetricsUpdate]:
    """Yield what is new in the metrics of a run until no live process owns the run.

    Args:
        run: a run directory.
        interval_s: seconds between two looks at the file, > 0.
        stop: ends the iteration once it is set.

    Raises:
        UserError: the file cannot be read.
    """
    require(interval_s > 0, "interval_s", interval_s, "> 0")
    stop = stop or threading.Event()
    follower = MetricsFollower(run)
    while not stop.is_set():
        update = follower.poll()
        if update.entries or update.was_cut_back or update.unreadable or update.is_over:
            yield update
        if update.is_over:
            return
        if not update.is_behind:
            stop.wait(interval_s)


def _digest(file: BinaryIO, start: int, end: int) -> bytes:
    digest = hashlib.blake2b()
    file.seek(start)
    while start < end and (block := file.read(min(end - start, _COMPARED_BYTES))):
        digest.update(block)
        start += len(block)
    return digest.digest()
