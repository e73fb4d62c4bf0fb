"""A torch profiler trace of a few training steps."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import profiler

log = logging.getLogger(__name__)

UNDISTURBED_STEPS = 10
"""Steps before the recording, so that caches are filled and kernels chosen."""


class StepProfiler:
    """Records a few training steps into `trace.json`, for Perfetto or chrome://tracing.

    Args:
        n_steps: number of steps to record, after the first `UNDISTURBED_STEPS`; 0 records nothing.
        folder: folder of the trace, created when the trace is written.
    """

    def __init__(self, n_steps: int, folder: Path) -> None:
        self._folder = folder
        self._profiler: profiler.profile | None = None
        if n_steps:
            schedule = profiler.schedule(
                wait=UNDISTURBED_STEPS - 1, warmup=1, active=n_steps, repeat=1
            )
            self._profiler = profiler.profile(
                schedule=schedule, on_trace_ready=self._write, record_shapes=True
            )

    def __enter__(self) -> StepProfiler:
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def step(self) -> None:
        """Mark the end of a training step."""
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profile: profiler.profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "trace.json"
        profile.export_chrome_trace(str(path))
        log.info("profiler trace: %s", path)
