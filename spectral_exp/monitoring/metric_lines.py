"""The lines of a metrics file: reading them in little memory, and moving some of them to another file."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spectral_exp.core import files
from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import open_regular

RESERVED = frozenset({"step", "timestamp"})

_BLOCK = 1 << 16
_CHUNK = 1 << 13
"""Values of a metric that are summed in one go."""


def parse_entry(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line, or None if it is not a whole one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_step = isinstance(entry, dict) and type(step := entry.get("step")) is int and abs(step) < 2**53
    return entry if is_step else None


def is_entry(line: bytes) -> bool:
    """Whether a line holds a whole entry."""
    return parse_entry(line) is not None


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines that are not blank; none if the file is missing.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            for line in file:
                if not line.isspace():
                    yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def last_entry(path: Path) -> dict[str, Any] | None:
    """Return the last whole entry, or None. Reads the end of the file only, unless that is damaged.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            lines = _lines_backwards(file.fileno())
            return next((entry for line in lines if (entry := parse_entry(line)) is not None), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _lines_backwards(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, without their newlines."""
    end = os.fstat(descriptor).st_size
    pieces: list[bytes] = []  # of the line that is being read, the last one first
    while end > 0:
        start = max(0, end - _BLOCK)
        os.lseek(descriptor, start, os.SEEK_SET)
        first, *lines = os.read(descriptor, end - start).split(b"\n")
        end = start
        if lines:
            yield b"".join([lines.pop(), *reversed(pieces)])
            yield from reversed(lines)
            pieces = []
        pieces.append(first)
    yield b"".join(reversed(pieces))


# --- cutting back ----------------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Neighbouring lines, from byte `start` to byte `end` of a file; `lines` is their number."""

    start: int
    end: int
    lines: int


def cut_lines(source: Path, target: Path, step: int, keep: Callable[[dict[str, Any]], None]) -> int:
    """Move the entries after `step`, and lines that are no entries, from `source` to the end of `target`.

    Both files are durable afterwards. A crash in between leaves the lines in both; the next call then removes them
    from `source` and adds nothing to `target`.

    Args:
        source: a metrics file, which may be missing.
        target: a file for the lines that are cut.
        step: last step to keep.
        keep: called with every entry that stays.

    Returns:
        The number of lines that were moved.

    Raises:
        OSError: a file cannot be read or written.
    """
    pieces = _pieces_to_cut(source, step, keep)
    if not pieces:
        return 0
    with source.open("r+b") as file:
        os.fsync(file.fileno())
        cut = b"".join(_read_piece(file, piece) for piece in pieces)
        _append_once(target, cut if cut.endswith(b"\n") else cut + b"\n")
        if len(pieces) == 1 and pieces[0].end == os.fstat(file.fileno()).st_size:
            file.truncate(pieces[0].start)
            os.fsync(file.fileno())
        else:
            _rewrite(source, pieces)
    return sum(piece.lines for piece in pieces)


def _pieces_to_cut(source: Path, step: int, keep: Callable[[dict[str, Any]], None]) -> list[_Piece]:
    pieces: list[_Piece] = []
    end = 0
    try:
        with source.open("rb") as file:
            for line in file:
                start, end = end, end + len(line)
                entry = parse_entry(line)
                if entry is not None and entry["step"] <= step:
                    keep(entry)
                elif pieces and pieces[-1].end == start:
                    pieces[-1] = _Piece(pieces[-1].start, end, pieces[-1].lines + 1)
                else:
                    pieces.append(_Piece(start, end, 1))
    except FileNotFoundError:
        return []
    return pieces


def _read_piece(file: BinaryIO, piece: _Piece) -> bytes:
    file.seek(piece.start)
    return file.read(piece.end - piece.start)


def _append_once(target: Path, lines: bytes) -> None:
    """Append `lines` durably, but for what an interrupted call has already appended of them."""
    with target.open("a+b") as file:
        file.seek(max(0, file.tell() - len(lines)))
        end = file.read()
        overlap = _overlap(end, lines)
        if end and not overlap and not end.endswith(b"\n"):
            file.write(b"\n")
        file.write(lines[overlap:])
        file.flush()
        os.fsync(file.fileno())
    files.fsync_directory(target.parent)


def _overlap(end: bytes, lines: bytes) -> int:
    """The length of the longest beginning of `lines` with which `end` ends."""
    first = lines[: lines.index(b"\n") + 1]
    at = end.rfind(first)
    if at >= 0 and lines.startswith(end[at:]):
        return len(end) - at
    return next((size for size in range(len(first) - 1, 0, -1) if end.endswith(first[:size])), 0)


def _rewrite(source: Path, pieces: list[_Piece]) -> None:
    """Replace a file by one without some pieces of it."""
    starts, ends = [0, *(piece.end for piece in pieces)], [*(piece.start for piece in pieces), source.stat().st_size]
    with source.open("rb") as old, files.atomic_writer(source) as new:
        for start, end in zip(starts, ends, strict=True):
            old.seek(start)
            left = end - start
            while left > 0 and (block := old.read(min(left, 16 * _BLOCK))):
                new.write(block)
                left -= len(block)


# --- summary ---------------------------------------------------------------------------------------------------------


class Summary:
    """Statistics of a metric, in memory that does not grow with the number of values."""

    def __init__(self) -> None:
        self._count = self._finite = 0
        self._min, self._max, self._final = math.inf, -math.inf, math.nan
        self._sum = Fraction(0)
        self._chunk = array("d")

    def add(self, value: float) -> None:
        """Take one value."""
        self._count += 1
        if math.isfinite(value):
            self._final = value
            self._chunk.append(value)
            if len(self._chunk) == _CHUNK:
                self._reduce()

    def _reduce(self) -> None:
        chunk = self._chunk
        if not chunk:
            return
        self._finite += len(chunk)
        self._min, self._max = min(self._min, min(chunk)), max(self._max, max(chunk))
        try:
            rounded = math.fsum(chunk)
            self._sum += Fraction(rounded) + Fraction(math.fsum([*chunk, -rounded]))
        except OverflowError:  # the sum is too large for a float, the mean is not
            self._sum += sum(map(Fraction, chunk))
        self._chunk = array("d")

    def result(self) -> dict[str, float]:
        """Return `min`, `max`, `mean` and `final` of the finite values, `count` and `non_finite`."""
        self._reduce()
        counts = {"count": self._count, "non_finite": self._count - self._finite}
        if not self._finite:
            return {"min": math.nan, "max": math.nan, "mean": math.nan, "final": math.nan, **counts}
        mean = float(self._sum / self._finite)
        return {"min": self._min, "max": self._max, "mean": mean, "final": self._final, **counts}
