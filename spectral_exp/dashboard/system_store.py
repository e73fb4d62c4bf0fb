"""The system metrics of runs in memory, read again when their files have changed."""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from pathlib import Path

from spectral_exp.dashboard.series_store import FileState, file_state
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.system_metrics import SystemSeries, read_system_metrics

MAX_RUNS = 8
"""Runs that are kept in memory; a file of the usual limit takes about 9 MB."""

MAX_FILE_BYTES = 64 << 20
"""Larger files are not read."""


class _Held:
    """The system metrics of one run, and the state of the file when they were read."""

    def __init__(self, run: Path) -> None:
        self._lock = threading.Lock()
        self._run = run
        self._file = RunPaths(run).system_file
        self._state: FileState | None = None
        self._metrics: dict[str, SystemSeries] = {}

    def metrics(self) -> dict[str, SystemSeries]:
        """Return name -> series. Raises UserError if the file cannot be read."""
        with self._lock:
            state = file_state(self._file, MAX_FILE_BYTES)
            if state != self._state:
                self._metrics = read_system_metrics(self._run)
                self._state = state
            return self._metrics


class SystemStore:
    """System metrics of the runs that were used last; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Path, _Held] = OrderedDict()

    def metrics(self, run: Path) -> dict[str, SystemSeries]:
        """Return name -> series of a run; none without a file.

        Raises:
            UserError: the file cannot be read, or is too large.
        """
        with self._lock:
            held = self._held.setdefault(run, _Held(run))
            self._held.move_to_end(run)
            while len(self._held) > MAX_RUNS:
                self._held.popitem(last=False)
        return held.metrics()

    def forget(self, run: Path) -> None:
        """Free the system metrics of a run."""
        with self._lock:
            self._held.pop(run, None)


def system_bytes(run: Path) -> int:
    """Return the size of the file of system metrics, 0 if there is none."""
    try:
        state = RunPaths(run).system_file.lstat()
    except OSError:
        return 0
    return state.st_size if stat.S_ISREG(state.st_mode) else 0
