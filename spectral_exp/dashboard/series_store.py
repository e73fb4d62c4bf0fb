"""The metric series of runs in memory, up to a limit; those used last stay."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from spectral_exp.core.errors import UserError
from spectral_exp.core.series import Series
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import MetricSummary
from spectral_exp.runs.series_follower import SeriesFollower

MAX_BYTES = 160 << 20
"""Memory of all series; those of one run are kept even if they take more."""

MAX_FILE_BYTES = 4 << 30
"""Larger metrics are not read."""

_RECHECK_S = 5.0  # a file whose state has not changed is still polled at this interval


class FileState(NamedTuple):
    """What differs after a file was written or replaced."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int


class _Held:
    """The follower of one run, and the state of the file at its last poll."""

    def __init__(self, run: Path) -> None:
        self.lock = threading.RLock()
        self.follower = SeriesFollower(run)
        self._file = RunPaths(run).metrics_file
        self._state: FileState | None = None
        self._polled_s = -_RECHECK_S

    def update(self, budget_s: float | None) -> None:
        """Read what is new. Raises UserError if the file cannot be read."""
        now_s, state = time.monotonic(), file_state(self._file, MAX_FILE_BYTES)
        is_fresh = state == self._state and now_s - self._polled_s < _RECHECK_S
        if is_fresh and not self.follower.is_behind:
            return
        self.follower.poll(budget_s)
        self._state, self._polled_s = state, now_s


class SeriesStore:
    """Series of many runs; thread-safe.

    Args:
        max_bytes: memory above which the series of the run that was not used for longest go.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Path, _Held] = OrderedDict()

    @contextlib.contextmanager
    def follower(self, run: Path, budget_s: float | None = None) -> Iterator[SeriesFollower]:
        """Provide the up-to-date series of a run, for this thread alone.

        Args:
            run: the run directory.
            budget_s: how long to read; then `is_behind` may remain True.

        Raises:
            UserError: the metrics cannot be read.
        """
        with self._lock:
            held = self._held.setdefault(run, _Held(run))
            self._held.move_to_end(run)
        with held.lock:
            held.update(budget_s)
            yield held.follower
        self._shrink()

    def series(self, run: Path, metric: str) -> Series:
        """Return the whole series of a metric. Raises UserError if it cannot be read."""
        with self.follower(run) as follower:
            return follower.series(metric)

    def forget(self, run: Path) -> None:
        """Free the series of a run."""
        with self._lock:
            self._held.pop(run, None)

    @property
    def n_bytes(self) -> int:
        """Bytes of memory that all series take, about."""
        with self._lock:
            return sum(held.follower.n_bytes for held in self._held.values())

    def _shrink(self) -> None:
        with self._lock:
            sizes = [(run, held.follower.n_bytes) for run, held in self._held.items()]
            total = sum(size for _, size in sizes)
            for run, size in sizes[:-1]:
                if total <= self._max_bytes:
                    return
                del self._held[run]
                total -= size


class LiveSummaries(Mapping[str, MetricSummary]):
    """The summaries of a live run's metrics, each computed when it is asked for."""

    def __init__(self, store: SeriesStore, run: Path, names: list[str]) -> None:
        self._store, self._run = store, run
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> MetricSummary:
        if name not in self._names:
            raise KeyError(name)
        with self._store.follower(self._run) as follower:
            summary = follower.summary(name)
        if summary is None:  # a cut-back has removed the metric
            raise KeyError(name)
        return summary

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def file_state(file: Path, max_bytes: int) -> FileState | None:
    """Return the state of a file, None if it is missing. Raises UserError if it is larger."""
    try:
        state = os.stat(file)  # noqa: PTH116 - twice as fast as pathlib
    except OSError:
        return None
    if state.st_size > max_bytes:
        raise UserError(f"{file} holds {state.st_size:,} bytes, which is too much to show")
    return FileState(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
