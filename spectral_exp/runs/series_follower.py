"""Metric series of a run in memory, kept up to date while it trains."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from spectral_exp.core.series import Series
from spectral_exp.runs.follow import LineFollower
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metrics_file import MetricColumns, MetricFile
from spectral_exp.runs.run import MetricSummary


class SeriesFollower:
    """Holds the metrics of a run; each `poll` adds what was logged since the last one.

    Not thread-safe.

    Args:
        run: a run directory; it need not exist yet.

    Attributes:
        generation: rises with each cut-back of the metrics, as by a resume.
        is_behind: whether the file holds more lines than were read.
    """

    def __init__(self, run: str | Path) -> None:
        self._file = RunPaths(run).metrics_file
        self._follower = LineFollower(run)
        self.generation = 0
        self.is_behind = True
        self._restart()

    def _restart(self) -> None:
        self._columns = MetricColumns(with_times=True)
        self._unreadable = 0
        self._forget_joined()

    def _forget_joined(self) -> None:
        self._series: dict[str, Series] = {}
        self._summaries: dict[str, MetricSummary] = {}
        self._times: Series | None = None

    def poll(self, budget_s: float | None = None) -> None:
        """Read new lines, all of them if there is no time limit.

        Args:
            budget_s: no further block of about 4 MiB is read after this time.

        Raises:
            UserError: the file cannot be read.
        """
        end_s = None if budget_s is None else time.monotonic() + budget_s
        while True:
            update = self._follower.poll()
            if update.was_cut_back:
                self.generation += 1
                self._restart()
            if update.lines:
                unreadable = self._columns.add(update.lines)
                self._unreadable += unreadable
                if unreadable < len(update.lines):
                    self._forget_joined()
            self._unreadable += update.too_long
            self.is_behind = update.is_behind
            if not self.is_behind or (end_s is not None and time.monotonic() >= end_s):
                return

    @property
    def n_entries(self) -> int:
        """Number of entries that were read."""
        return self._columns.n_entries

    @property
    def last_step(self) -> int:
        """The largest step that was read, or 0."""
        return self._columns.last_step

    @property
    def read_share(self) -> float:
        """The share of the file that was read, from 0 to 1."""
        if not self.is_behind:
            return 1.0
        try:
            size = self._file.stat().st_size
        except OSError:
            return 1.0
        return min(self._follower.offset / size, 1.0) if size else 1.0

    @property
    def n_bytes(self) -> int:
        """Bytes of memory that the series take, about."""
        joined = list(self._series.values())  # another thread may add one
        sizes = (series.steps.nbytes + series.values.nbytes for series in joined)
        return self._columns.n_bytes + sum(sizes)

    def names(self) -> list[str]:
        """Return the names of the metrics, in the order of their first values."""
        return self._columns.names()

    def series(self, name: str) -> Series:
        """Return the series of a metric, empty if it was never logged."""
        if name not in self._series:
            self._series[name] = self._columns.series_of(name)
        return self._series[name]

    def times(self) -> Series:
        """Return the seconds since the epoch at which each step was logged."""
        if self._times is None:
            self._times = self._columns.times()
        return self._times

    def summary(self, name: str) -> MetricSummary | None:
        """Return the summary of a metric, or None if it was never logged."""
        if name not in self._summaries:
            # Not kept in memory, since a run may have hundreds of metrics.
            series = self._series.get(name) or self._columns.series_of(name)
            if not len(series):
                return None
            self._summaries[name] = MetricSummary.of(series)
        return self._summaries[name]

    def content(self) -> MetricFile:
        """Return names, last step and number of unreadable lines; the series are left out."""
        nothing = Series(np.empty(0), np.empty(0))
        return MetricFile(dict.fromkeys(self.names(), nothing), self.last_step, self._unreadable)
