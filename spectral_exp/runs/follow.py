"""Follow the metrics of a live run.

`follow` yields new entries as they are logged and ends with the run. A resumed run cuts its metrics
back to the checkpoint; the followers detect that and start again from the first entry.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spectral_exp.core.errors import explain_os_error, require
from spectral_exp.core.regular_file import open_regular
from spectral_exp.runs.layout import METRICS_NAME, RunPaths
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.metric_lines import MAX_LINE_BYTES, is_entry, parse_entry, restore_entry

_BLOCK = 4 * MAX_LINE_BYTES
_COMPARED_BYTES = 1 << 20


class Position(NamedTuple):
    """How far a file was read: the number of bytes, and a digest of them (hexadecimal)."""

    offset: int = 0
    digest: str = ""


@dataclass(frozen=True)
class MetricsUpdate:
    """New content of a metrics file.

    Attributes:
        entries: new entries in the order in which they were logged, non-finite numbers restored.
        was_cut_back: whether the file no longer begins with the entries of earlier updates. Then
            those are void, and `entries` begins with the first entry of the file.
        unreadable: number of new lines that are neither entries nor blank.
        is_behind: whether the file holds more new lines than this update.
        is_over: whether no live process owns the run and its last entry was returned.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    was_cut_back: bool = False
    unreadable: int = 0
    is_behind: bool = False
    is_over: bool = False


@dataclass(frozen=True)
class LinesUpdate:
    """New lines of a log file.

    Attributes:
        lines: without their newlines, none longer than `MAX_LINE_BYTES`.
        was_cut_back: whether the file no longer begins with the lines of earlier updates. Then
            those are void, and `lines` begins with the first line of the file.
        too_long: number of new lines that are left out because they are too long.
        is_behind: whether the file holds more new lines than this update.
        is_over: whether no live process owns the run and its last line was returned.
    """

    lines: list[bytes] = field(default_factory=list)
    was_cut_back: bool = False
    too_long: int = 0
    is_behind: bool = False
    is_over: bool = False


class LineFollower:
    """Reads the new lines of a file in a run's `logs/` at each `poll`.

    The run may begin, end or be resumed meanwhile. A cut-back is detected by content: each poll
    hashes the last 1 MiB that was read before (or everything, if the path now leads to another
    file) and compares it with the earlier hash.

    Args:
        run: a run directory; it need not exist yet.
        file_name: the file in its folder of logs.
        start: where an earlier follower has stopped, also in another process. If the file does not
            begin with what that one has read, the first update says that it was cut back.

    Attributes:
        offset: how many bytes of the file were read.
    """

    def __init__(
        self, run: str | Path, file_name: str = METRICS_NAME, start: Position | None = None
    ) -> None:
        self._paths = RunPaths(run)
        self._file = self._paths.logs / file_name
        self._start: Position | None = None
        self._restart()
        if start is not None and start.offset > 0:
            self._start = start

    @property
    def position(self) -> Position:
        """How far the file was read, as the `start` of a later follower."""
        return self._start or Position(self.offset, self._all.hexdigest() if self.offset else "")

    def poll(self) -> LinesUpdate:
        """Return the lines that were logged since the last call, at most about 4 MiB.

        A line without a newline counts only if the run is over.

        Raises:
            UserError: the file cannot be read.
        """
        # Checked before the read, so that lines logged just before the end are not missed.
        is_over = not is_running(self._paths.root)
        with (
            explain_os_error(f"read {self._file}"),
            suppress(FileNotFoundError),
            open_regular(self._file) as file,
        ):
            return self._read(file, is_over=is_over)
        was_cut_back = self.position.offset > 0
        self._restart()
        return LinesUpdate(was_cut_back=was_cut_back, is_over=is_over)

    def _restart(self) -> None:
        self.offset = 0
        self._start = None
        self._is_in_long_line = False  # the offset lies inside a line that is too long
        self._identity: tuple[int, int] | None = None  # device and inode of the file
        self._all = hashlib.blake2b()  # of all bytes before the offset
        self._last = hashlib.blake2b().digest()  # of the last 1 MiB before the offset

    def _read(self, file: BinaryIO, *, is_over: bool) -> LinesUpdate:
        state = os.fstat(file.fileno())
        identity = (state.st_dev, state.st_ino)
        was_cut_back = not self._begins_as_before(file, identity, state.st_size)
        if was_cut_back:
            self._restart()
        self._identity = identity
        file.seek(self.offset)
        block = file.read(_BLOCK)
        is_behind = len(block) == _BLOCK
        end = block.rfind(b"\n") + 1
        lines = block[:end].split(b"\n")[:-1]
        rest = block[end:]
        is_last_line = is_over and not is_behind and not self._is_in_long_line
        if is_last_line and len(rest) <= MAX_LINE_BYTES and is_entry(rest):
            lines.append(rest)
            end = len(block)
        too_long = 0
        if lines and self._is_in_long_line:
            lines = lines[1:]
            too_long = 1
            self._is_in_long_line = False
        if is_behind and end == 0:
            end = len(block)
            self._is_in_long_line = True
        self._advance(file, block[:end])
        kept = [line for line in lines if len(line) <= MAX_LINE_BYTES]
        too_long += len(lines) - len(kept)
        return LinesUpdate(kept, was_cut_back, too_long, is_behind, is_over and not is_behind)

    def _begins_as_before(self, file: BinaryIO, identity: tuple[int, int], size: int) -> bool:
        """Return whether the file still begins with the bytes that were read."""
        if self._start is not None:
            return self._skip_to(file, self._start, size)
        if size < self.offset:
            return False
        if self._identity not in (None, identity):
            return _digest(file, 0, self.offset) == self._all.digest()
        return self._digest_last(file) == self._last

    def _skip_to(self, file: BinaryIO, start: Position, size: int) -> bool:
        """Return whether the file begins with what was read up to `start`, and skip that."""
        all_bytes = hashlib.blake2b()
        _update(all_bytes, file, 0, start.offset)
        if size < start.offset or all_bytes.hexdigest() != start.digest:
            return False
        self._start = None
        self.offset, self._all = start.offset, all_bytes
        self._last = self._digest_last(file)
        return True

    def _advance(self, file: BinaryIO, read: bytes) -> None:
        if read:
            self.offset += len(read)
            self._all.update(read)
            self._last = self._digest_last(file)

    def _digest_last(self, file: BinaryIO) -> bytes:
        return _digest(file, max(0, self.offset - _COMPARED_BYTES), self.offset)


class MetricsFollower:
    """Reads new entries of a run's metrics at each `poll`; see `LineFollower`.

    Args:
        run: a run directory; it need not exist yet.
        file_name: the file in its folder of logs, whose lines are entries as those of metrics.
        start: see `LineFollower`.
    """

    def __init__(
        self, run: str | Path, file_name: str = METRICS_NAME, start: Position | None = None
    ) -> None:
        self._follower = LineFollower(run, file_name, start)

    @property
    def position(self) -> Position:
        """How far the file was read, as the `start` of a later follower."""
        return self._follower.position

    def poll(self) -> MetricsUpdate:
        """Return the entries that were logged since the last call, of at most about 4 MiB.

        Raises:
            UserError: the file cannot be read.
        """
        update = self._follower.poll()
        entries, unreadable = [], update.too_long
        for line in update.lines:
            entry = parse_entry(line)
            if entry is not None:
                entries.append(restore_entry(entry))
            elif line.strip():
                unreadable += 1
        return MetricsUpdate(
            entries, update.was_cut_back, unreadable, update.is_behind, update.is_over
        )


def follow(
    run: str | Path, interval_s: float = 1.0, stop: threading.Event | None = None
) -> Iterator[MetricsUpdate]:
    """Yield the new metrics of a run until no live process owns the run.

    Args:
        run: a run directory.
        interval_s: seconds between two reads of the file, > 0.
        stop: ends the iteration when it is set.

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
    _update(digest, file, start, end)
    return digest.digest()


def _update(digest: hashlib.blake2b, file: BinaryIO, start: int, end: int) -> None:
    """Add the bytes of a file from `start` to `end` to a digest."""
    file.seek(start)
    while start < end and (block := file.read(min(end - start, _COMPARED_BYTES))):
        digest.update(block)
        start += len(block)
