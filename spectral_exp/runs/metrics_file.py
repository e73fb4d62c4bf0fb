"""Read metric series from a `metrics.jsonl`, which may be damaged anywhere.

`orjson` parses the lines. A line that it rejects is parsed by `json`, which also accepts `NaN`
literals, lone surrogates and numbers beyond the range of floats.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from spectral_exp.core.regular_file import open_regular
from spectral_exp.core.series import FloatArray, Series
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.runs.metric_lines import (
    MAX_LINE_BYTES,
    RESERVED,
    LineSplitter,
    is_step,
    metric_number,
    parse_entry,
)

_MAX_BYTES = 4 << 30
_BLOCK = 1 << 18
_NUMBERS = frozenset({float, int})


@dataclass(frozen=True)
class MetricFile:
    """The content of a metrics file.

    Attributes:
        series: name -> series of every numeric metric, in the order of their first values.
        last_step: the largest step of any line, 0 if there are none.
        unreadable: number of lines that are not entries, without an unfinished last line.
        unfinished: whether the last line has no newline and is not an entry.
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    last_step: int = 0
    unreadable: int = 0
    unfinished: bool = False


def read_metrics(path: Path) -> MetricFile:
    """Read a metrics file. If a metric was logged twice for a step, the later value counts.

    Raises:
        OSError: the file is missing, too large, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            reason = f"Holds {size:,} bytes; at most {_MAX_BYTES:,} are read"
            raise OSError(errno.EFBIG, reason, str(path))
        return _parse(_blocks(file, size))


def parse_metrics(content: bytes) -> MetricFile:
    """Parse the content of a metrics file as `read_metrics` does."""
    return _parse([content])


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file."""
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        size -= len(block)
        yield block


def _parse(blocks: Iterable[bytes]) -> MetricFile:
    splitter, columns = LineSplitter(), MetricColumns()
    unreadable = 0
    for block in blocks:
        unreadable += columns.add(splitter.split(block))
    unfinished = bool(columns.add([splitter.rest]))
    return MetricFile(columns.series(), columns.last_step, unreadable, unfinished)


class MetricColumns:
    """Collects the values of each metric with their steps and line numbers, in any order.

    Args:
        with_times: whether to keep the time of each entry, for `times`.

    Attributes:
        last_step: the largest step of any entry, 0 if there are none.
        n_entries: number of entries.
        n_bytes: bytes of memory that the values take.
    """

    def __init__(self, *, with_times: bool = False) -> None:
        self.last_step = 0
        self.n_entries = 0
        self.n_bytes = 0
        self._with_times = with_times
        self._n_lines = 0
        self._parts = defaultdict[str, list[tuple[Any, ...]]](list)
        self._times: list[tuple[Any, ...]] = []

    def add(self, lines: Sequence[bytes]) -> int:
        """Add the entries in `lines`; return how many lines are neither entries nor blank."""
        unreadable = 0
        # Lines with equal keys are transposed together, since adding columns is much faster than
        # adding single values.
        alike: dict[tuple[str, ...], tuple[list[int], list[tuple[Any, ...]]]] = {}
        for number, line in enumerate(lines, self._n_lines):
            entry = _parse_line(line)
            if entry is None:
                unreadable += not line.isspace() and line != b""
                continue
            names = tuple(entry)
            if names not in alike:
                alike[names] = ([], [])
            numbers, rows = alike[names]
            numbers.append(number)
            rows.append(tuple(entry.values()))
        self._n_lines += len(lines)
        for names, (numbers, rows) in alike.items():
            self._add_rows(names, numbers, rows)
        return unreadable

    def _add_rows(
        self, names: tuple[str, ...], numbers: list[int], rows: list[tuple[Any, ...]]
    ) -> None:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        steps = columns["step"]
        self.last_step = max(self.last_step, max(steps))
        self.n_entries += len(rows)
        lines, all_steps = np.array(numbers), np.array(steps, dtype=float)
        self.n_bytes += lines.nbytes + all_steps.nbytes
        if self._with_times and "timestamp" in columns:
            self._times.append((lines, all_steps, _seconds(columns["timestamp"])))
            self.n_bytes += all_steps.nbytes
        for name, values in columns.items():
            if name in RESERVED:
                continue
            self.n_bytes += all_steps.nbytes
            if _NUMBERS.issuperset(map(type, values)):
                self._parts[name].append((lines, all_steps, np.array(values, dtype=float)))
                continue
            found = [*map(metric_number, values)]
            if known := [i for i, number in enumerate(found) if number is not None]:
                floats = np.array(found, dtype=float)[known]
                self._parts[name].append((lines[known], all_steps[known], floats))

    def series(self) -> dict[str, Series]:
        """Return the series of every metric, in the order of their first values."""
        return {name: self.series_of(name) for name in self.names()}

    def names(self) -> list[str]:
        """Return the names of the metrics, in the order of their first values."""
        first = {
            name: min(int(lines[0]) for lines, _, _ in parts) for name, parts in self._parts.items()
        }
        return sorted(first, key=first.__getitem__)

    def series_of(self, name: str) -> Series:
        """Return the series of a metric, empty if it was never logged."""
        return _join(self._parts.get(name, ()))

    def times(self) -> Series:
        """Return the seconds since the epoch of each entry with a readable time."""
        series = _join(self._times)
        known = series.finite
        return Series(series.steps[known], series.values[known])


def _seconds(timestamps: Sequence[Any]) -> FloatArray:
    try:  # in one expression, since a file may hold a million of them
        return np.array([datetime.fromisoformat(text).timestamp() for text in timestamps])
    except (TypeError, ValueError, OverflowError, OSError):
        return np.array([*map(seconds_since_epoch, timestamps)])


def _join(parts: Sequence[tuple[Any, ...]]) -> Series:
    if not parts:
        return Series(np.empty(0), np.empty(0))
    lines, steps, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _sort(lines, steps, values)


def _sort(lines: NDArray[np.int64], steps: FloatArray, values: FloatArray) -> Series:
    """Return a series in ascending order of steps; for equal steps, the value of the last line."""
    if (np.diff(lines) <= 0).any():
        by_line = np.argsort(lines, kind="stable")
        steps, values = steps[by_line], values[by_line]
    if (np.diff(steps) <= 0).any():
        by_step = np.argsort(steps, kind="stable")
        steps, values = steps[by_step], values[by_step]
        last = np.append(np.diff(steps) > 0, True)
        steps, values = steps[last], values[last]
    return Series(steps, values)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line, or None.

    If only `json` can parse the line, metrics are already floats, or None if they are no numbers.
    """
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        entry = parse_entry(line) if line else None
        if entry is None:
            return None
        numbers = {name: metric_number(value) for name, value in entry.items()}
        return {**numbers, "step": entry["step"]}
    return entry if type(entry) is dict and is_step(entry.get("step")) else None
