"""The seconds that a run spends on each activity, measured by the run itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up the wall-clock seconds spent in named activities, and how often each was done.

    Attributes:
        seconds: activity -> seconds so far.
        counts: activity -> times so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Count the time inside the `with` block towards `activity`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(activity, time.perf_counter() - start)

    def add(self, activity: str, seconds: float) -> None:
        """Count `seconds` towards `activity`, for work as short as the `with` block itself."""
        self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds
        self.counts[activity] = self.counts.get(activity, 0) + 1
