"""Metric series from `metrics.jsonl`, at the speed of the disk where lines look alike, and tolerant of any damage.

The logger writes a few layouts over and over: the same keys in the same order, other numbers. Lines with as many quotes
as the first of a layout are compared with it byte by byte between the numbers, all at once; then all their numbers are
read at once. A line of any other form (a number written as "NaN", a text, whatever another program wrote) goes
through `json.loads`, with the same result.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.regular_file import open_regular
from spectral_exp.core.series import FloatArray, Series
from spectral_exp.runs.layout import NON_FINITE
from spectral_exp.runs.number_text import PADDING, Bytes, Positions, parse_numbers, words_of

_MAX_BYTES = 4 << 30
_MAX_LINE_BYTES = 1 << 20
_RESERVED = ("step", "timestamp")
_MAX_LAYOUTS = 32  # of lines with equally many quotes; further ones are read one at a time
# Of a word of eight characters, the first of which is its lowest byte: masks of the first 0 to 8, and all bytes alike.
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
_ONES = np.uint64(0x0101010101010101)
_HIGH_BITS, _SPACES, _BACKSLASHES = (np.uint64(0x0101010101010101 * byte) for byte in (0x80, 0x20, 0x5C))
_QUOTE, _NEWLINE, _CLOSE = b'"\n}'


@dataclass(frozen=True)
class MetricFile:
    """What a metrics file holds.

    Attributes:
        series: every numeric metric by name, in the order in which they first appear.
        last_step: the largest step of any line, 0 without lines.
        unreadable: lines that are no entries, but for an unfinished last one.
        unfinished: whether the last line is torn: it ends without a newline and cannot be read.
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    last_step: int = 0
    unreadable: int = 0
    unfinished: bool = False


def read_metrics(path: Path) -> MetricFile:
    """Read a metrics file; of a step that was logged twice the later line counts, metric by metric.

    Raises:
        OSError: there is no such file, it is too large, or it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            raise OSError(errno.EFBIG, f"Holds {size:,} bytes where at most {_MAX_BYTES:,} are read", str(path))
        # Straight to where it is needed: in large files copies cost as much as their numbers.
        text = np.empty(PADDING + size, dtype=np.uint8)
        size = file.readinto(text[PADDING:].data)
    return _parse(text[: PADDING + size])


def parse_metrics(content: bytes) -> MetricFile:
    """As `read_metrics`, of a file's content."""
    return _parse(np.frombuffer(bytes(PADDING) + content, dtype=np.uint8))


def _parse(text: Bytes) -> MetricFile:
    ends = np.flatnonzero(text[PADDING:] == _NEWLINE) + PADDING
    starts = np.concatenate([[PADDING], ends + 1])
    starts, rest = starts[:-1], text[starts[-1] :][: _MAX_LINE_BYTES + 1].tobytes()
    columns = _Columns()
    unreadable = int((ends - starts > _MAX_LINE_BYTES).sum())
    for number in _read_layouts(text, starts, ends, columns):
        line = text[starts[number] : ends[number]].tobytes()
        if line.strip() and not _read_line(line, number, columns):
            unreadable += 1
    unfinished = bool(rest.strip()) and not _read_line(rest, len(ends), columns)
    return MetricFile(columns.series(), columns.last_step, unreadable, unfinished)


class _Columns:
    """Values by metric, each with the number of its line, in any order."""

    def __init__(self) -> None:
        self.last_step = 0
        self._parts: dict[str, list[tuple[Positions, FloatArray, FloatArray]]] = {}
        self._single: dict[str, list[tuple[int, int, float]]] = {}

    def add(self, name: str, lines: Positions, steps: FloatArray, values: FloatArray) -> None:
        self._parts.setdefault(name, []).append((lines, steps, values))

    def add_one(self, name: str, line: int, step: int, value: float) -> None:
        self._single.setdefault(name, []).append((line, step, value))

    def series(self) -> dict[str, Series]:
        for name, singles in self._single.items():
            lines, steps, values = zip(*singles, strict=True)
            self.add(name, np.array(lines), np.array(steps, dtype=float), np.array(values))
        joined = {
            name: tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            for name, parts in self._parts.items()
        }
        # By the line in which a metric appears first; within a line in the order of the line, which the dict has.
        first = {name: lines.min() for name, (lines, _, _) in joined.items()}
        return {name: _in_order(*joined[name]) for name in sorted(joined, key=first.__getitem__)}


def _in_order(lines: Positions, steps: FloatArray, values: FloatArray) -> Series:
    """Ascending by step, the last line of each."""
    by_line = np.argsort(lines, kind="stable")
    steps, values = steps[by_line], values[by_line]
    if (np.diff(steps) <= 0).any():
        by_step = np.argsort(steps, kind="stable")
        steps, values = steps[by_step], values[by_step]
        last = np.append(np.diff(steps) > 0, True)
        steps, values = steps[last], values[last]
    return Series(steps, values)


# --- one line --------------------------------------------------------------------------------------------------------


def _read_line(line: bytes, number: int, columns: _Columns) -> bool:
    """Add the numbers of one line; False if it is no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(entry, dict) or not _is_step(entry.get("step")):
        return False
    step = entry["step"]
    columns.last_step = max(columns.last_step, step)
    for name, value in entry.items():
        if name not in _RESERVED and (as_number := _number(value)) is not None:
            columns.add_one(name, number, step, as_number)
    return True


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _number(value: Any) -> float | None:
    """The number that a value of an entry stands for, or None for a text, a list and so on."""
    if isinstance(value, str):
        return NON_FINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond every double
        return math.inf if value > 0 else -math.inf


# --- many lines of one layout ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """What lines that differ in their numbers alone have in common.

    `segments` are the fixed texts: for each key the quote of the line whose place tells where it lies, how far before
    that quote it begins, and its bytes. The number of key i, or the text of the time, lies between the end of segment i
    and the beginning of the next.
    """

    keys: tuple[str, ...]
    segments: tuple[tuple[int, int, bytes], ...]
    timestamp: int | None

    @classmethod
    def of(cls, line: bytes) -> _Layout | None:
        """The layout of an entry as the logger writes it without strings but the time; None for any other line."""
        quotes = [at for at, character in enumerate(line) if character == _QUOTE]
        keys: list[str] = []
        segments: list[tuple[int, int, bytes]] = []
        timestamp = None
        index, expected = 0, 0
        while index + 1 < len(quotes):
            opening, closing = quotes[index], quotes[index + 1]
            before = b"{" if not keys else b", "
            begin = opening - len(before)
            end = closing + 3
            if begin < expected or line[begin:opening] != before or line[closing + 1 : end] != b": ":
                return None
            is_text = line[end : end + 1] == b'"'
            try:
                key = json.loads(line[opening : closing + 1])
            except ValueError:
                return None
            if key in keys or is_text != (key == "timestamp"):
                return None
            segments.append((index, len(before), line[begin : end + is_text]))
            if is_text:
                timestamp = len(keys)
                if index + 3 >= len(quotes):
                    return None
                expected = quotes[index + 3]
            else:
                expected = end + 1
            keys.append(key)
            index += 4 if is_text else 2
        ends_well = index == len(quotes) and line[-1:] == b"}" and expected < len(line)
        if not keys or keys[0] != "step" or timestamp == len(keys) - 1 or not ends_well:
            return None
        return cls(tuple(keys), tuple(segments), timestamp)


def _read_layouts(text: Bytes, starts: Positions, ends: Positions, columns: _Columns) -> list[int]:
    """Read the lines whose layouts are simple, and return the numbers of the others, but of the longest."""
    quotes = np.flatnonzero(text[PADDING:] == _QUOTE) + PADDING
    until = np.searchsorted(quotes, ends)
    since = np.concatenate([[0], until])[:-1]
    counts = until - since
    others: list[int] = []
    for count in np.unique(counts):
        lines = np.flatnonzero((counts == count) & (ends - starts <= _MAX_LINE_BYTES))
        for _ in range(_MAX_LAYOUTS):
            if not len(lines):
                break
            first = lines[0]
            layout = _Layout.of(text[starts[first] : ends[first]].tobytes())
            if layout is None:
                others.append(int(first))
                lines = lines[1:]
                continue
            has_layout, read = _read_layout(
                text, lines, quotes, since[lines], starts[lines], ends[lines], layout, columns
            )
            # A line of which a number cannot be read is looked at by itself.
            others += [int(line) for line in lines[has_layout & ~read]]
            lines = lines[~has_layout]
        others += [int(line) for line in lines]
    return sorted(others)


def _read_layout(
    text: Bytes,
    lines: Positions,
    quotes: Positions,
    since: Positions,
    starts: Positions,
    ends: Positions,
    layout: _Layout,
    columns: _Columns,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Add the numbers of the lines that have the layout.

    Args:
        text: the whole text.
        lines: their numbers (L,).
        quotes: places of all quotes of the text.
        since: which of them is the first of each line (L,).
        starts, ends: where they begin, and where their newline is (L,).
        layout: the layout.
        columns: what is added to.

    Returns:
        For each line whether it has the layout, and whether it was read.
    """
    begins = [quotes[since + quote] - before for quote, before, _ in layout.segments]
    widths = [len(fixed) for _, _, fixed in layout.segments]
    has_layout = (begins[0] == starts) & (text[ends - 1] == _CLOSE)
    for begin, (_, _, fixed) in zip(begins, layout.segments, strict=True):
        has_layout &= _has_text(text, begin, fixed)
    if layout.timestamp is not None:
        # The time ends with the quote before the next key.
        quote = layout.segments[layout.timestamp][0] + 3
        has_layout &= quotes[since + quote] + 1 == begins[layout.timestamp + 1]
    if not has_layout.all():  # which is rare enough to be worth asking: all these arrays are copied
        lines, ends = lines[has_layout], ends[has_layout]
        begins = [begin[has_layout] for begin in begins]
    number_starts = [begin + width for begin, width in zip(begins, widths, strict=True)]
    number_ends = [*begins[1:], ends - 1]
    numeric = [i for i in range(len(layout.keys)) if i != layout.timestamp]
    # Key by key: its numbers are written alike, which makes reading them cheaper.
    parsed = [parse_numbers(text, number_starts[i], number_ends[i]) for i in numeric]
    (steps, whole), others = parsed[0], parsed[1:]
    good = whole & (abs(steps) < 2**53)
    if layout.timestamp is not None:
        good &= _is_plain(text, number_starts[layout.timestamp], number_ends[layout.timestamp] - 1)
    for values, _ in others:
        good &= ~np.isnan(values)
    kept: Any = slice(None) if good.all() else good
    if good.any():
        columns.last_step = max(columns.last_step, int(steps[kept].max()))
        for i, (values, _) in zip(numeric[1:], others, strict=True):
            columns.add(layout.keys[i], lines[kept], steps[kept], values[kept])
    read = np.zeros(len(has_layout), dtype=bool)
    read[has_layout] = good
    return has_layout, read


def _has_text(text: Bytes, places: Positions, fixed: bytes) -> NDArray[np.bool_]:
    """At which of the places `fixed` stands."""
    words = words_of(text)
    width = len(fixed)
    # Words that overlap cover every width. The shortest text is `, "": `, and what follows it is a number.
    found = np.ones(len(places), dtype=bool)
    for offset in sorted({*range(0, max(width - 8, 0), 8), max(width - 8, 0)}):
        part = fixed[offset : offset + 8]
        mask = np.uint64((1 << 8 * len(part)) - 1)
        there = words[np.minimum(places + offset, len(words) - 1)]
        found &= (there & mask) == np.uint64(int.from_bytes(part, "little"))
    return found


def _is_plain(text: Bytes, starts: Positions, ends: Positions) -> NDArray[np.bool_]:
    """Which strings without quotes are what JSON allows without a second look: ASCII, no backslash, no controls."""
    words = words_of(text)
    lengths = ends - starts
    plain = np.ones(len(starts), dtype=bool)
    for offset in range(0, int(lengths.max(initial=0)), 8):
        inside = _FIRST_BYTES[np.clip(lengths - offset, 0, 8)]
        word = words[np.minimum(starts + offset, len(words) - 1)] & inside | _SPACES & ~inside
        backslashes = word ^ _BACKSLASHES
        # A byte below a bound is the one whose high bit appears when the bound is taken off (S. Anderson's bit hacks).
        wrong = word | ((word - _SPACES) & ~word) | ((backslashes - _ONES) & ~backslashes)
        plain &= (wrong & _HIGH_BITS) == 0
    return plain
