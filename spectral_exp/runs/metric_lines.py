"""The lines of a metrics file: one JSON object each, in the order in which they were logged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import explain_os_error
from spectral_exp.core.json_value import restore_non_finite
from spectral_exp.core.regular_file import open_regular

RESERVED = frozenset({"step", "timestamp"})
"""Keys of an entry that are not metrics."""

MAX_LINE_BYTES = 1 << 20
"""Readers of untrusted runs treat longer lines as unreadable."""

_BLOCK = 1 << 16


def parse_entry(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line, non-finite numbers as text; None if it is not an entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and is_step(entry.get("step")) else None


def is_step(value: Any) -> bool:
    """Return whether `value` can be the step of an entry."""
    return type(value) is int and -(2**53) < value < 2**53


def is_entry(line: bytes) -> bool:
    """Return whether a line holds a whole entry."""
    return parse_entry(line) is not None


def restore_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the texts "NaN", "Infinity" and "-Infinity" replaced by numbers."""
    return {
        name: value if name in RESERVED else restore_non_finite(value)
        for name, value in entry.items()
    }


def metric_number(value: Any) -> float | None:
    """Return the value of a metric as a float, or None if it is not a number.

    Integers beyond the range of floats become infinite.
    """
    value = restore_non_finite(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class LineSplitter:
    """Splits a file that is read in blocks into lines.

    Attributes:
        rest: the last line, which has no newline yet, cut to `MAX_LINE_BYTES` + 1 bytes.
    """

    def __init__(self) -> None:
        self.rest = b""

    def split(self, block: bytes) -> list[bytes]:
        """Return the lines that end in `block`, without their newlines."""
        *lines, rest = (self.rest + block).split(b"\n")
        self.rest = rest[: MAX_LINE_BYTES + 1]
        return lines


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines that are not blank; none if the file is missing.

    Raises:
        UserError: the file cannot be read.
    """
    with explain_os_error(f"read {path}"), suppress(FileNotFoundError), open_regular(path) as file:
        yield from (line for line in file if not line.isspace())


def last_entry(path: Path) -> dict[str, Any] | None:
    """Return the last whole entry, or None. Reads only the end of the file if that is intact.

    Raises:
        UserError: the file cannot be read.
    """
    with explain_os_error(f"read {path}"), suppress(FileNotFoundError), open_regular(path) as file:
        lines = _lines_backwards(file.fileno())
        return next((entry for line in lines if (entry := parse_entry(line)) is not None), None)
    return None


def _lines_backwards(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, without their newlines."""
    end = os.fstat(descriptor).st_size
    pieces: list[bytes] = []  # of an unfinished line, the last piece first
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
