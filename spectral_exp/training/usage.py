"""The processor seconds and the device seconds of training."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from spectral_exp.distributed.ranks import Ranks


class Usage:
    """Measures what the training steps of all processes use, over all attempts at a run.

    A step on a CPU costs two readings of each of two clocks. On a CUDA device two events also
    enclose the kernels of a step in their stream. They are read after later steps, so that the host
    never waits for them.

    Args:
        device: the device of this process.
        ranks: the processes that train together. The numbers of the others arrive with the
            exchange of a step, and are complete after `leave`.

    Attributes:
        cpu_s: processor seconds of all threads of all processes during steps. Threads that write
            checkpoints meanwhile are included. NaN if an earlier attempt did not measure them.
        device_s: seconds between the start and the end of each step on the device, added over all
            CUDA devices. Waiting for the host within a step is included, everything between steps
            is not. NaN if an earlier attempt did not measure them.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self.cpu_s = self.device_s = 0.0
        self._earlier: list[dict[str, float]] = []
        self._before = (0, 0.0, 0.0, 0.0)
        self._device, self._ranks = device, ranks
        self._has_events = device.type == "cuda"
        self._begin: torch.cuda.Event | None = None
        self._unread: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._free: list[torch.cuda.Event] = []
        self._start_s = self._start_cpu_s = 0.0

    def start(self) -> None:
        """Begin a step."""
        if self._has_events:
            self._begin = self._record_event()
        self.start_wait()

    def elapsed_s(self) -> float:
        """Return the wall-clock seconds since the present step began."""
        return time.perf_counter() - self._start_s

    def stop(self) -> float:
        """End a step, and return its wall-clock seconds on the host."""
        if self._begin is not None:
            self._unread.append((self._begin, self._record_event()))
        return self.stop_wait()

    def start_wait(self) -> None:
        """Begin to wait for the results of steps that the host has submitted to a device."""
        self._start_cpu_s, self._start_s = time.process_time(), time.perf_counter()

    def stop_wait(self) -> float:
        """End waiting, and return its wall-clock seconds."""
        seconds = time.perf_counter() - self._start_s
        self._ranks.add_use(time.process_time() - self._start_cpu_s, self._read_events())
        self._update()
        return seconds

    def flush(self) -> None:
        """Wait for the device, and add the steps that have not been read."""
        if self._unread:
            self._unread[-1][1].synchronize()
            self._ranks.add_use(0.0, self._read_events())
            self._update()

    def leave(self) -> None:
        """Wait until all processes have finished together, and complete the seconds."""
        self.flush()
        self._ranks.leave()
        self._update()

    def _update(self) -> None:
        """Add what all processes have exchanged since the last call."""
        cpu_s, device_s = self._ranks.take_use()
        self.cpu_s += cpu_s
        self.device_s += device_s

    def totals(self) -> dict[str, float]:
        """Return the entries for the results; those that are unknown or do not apply are absent."""
        return self._known_seconds(self.cpu_s, self.device_s)

    def attempts(self, step: int, train_s: float) -> list[dict[str, float]]:
        """Return what each attempt has used for the steps that the present weights contain.

        Args:
            step: the number of steps done.
            train_s: the wall-clock seconds of them, over all attempts.
        """
        first_step, before_s, cpu_s, device_s = self._before
        now = {
            "from_step": first_step,
            "to_step": step,
            "train_s": train_s - before_s,
            **self._known_seconds(self.cpu_s - cpu_s, self.device_s - device_s),
        }
        return [*self._earlier, now]

    def state_dict(self, step: int, train_s: float) -> dict[str, Any]:
        """Return the seconds for a checkpoint; the arguments are those of `attempts`."""
        attempts = self.attempts(step, train_s)
        return {"cpu_s": self.cpu_s, "device_s": self.device_s, "attempts": attempts}

    def load_state_dict(self, state: Mapping[str, Any] | None, step: int, train_s: float) -> None:
        """Load the seconds of earlier attempts, and begin another after `step`.

        Args:
            state: None if the earlier attempts did not measure them.
            step, train_s: as for `attempts`.
        """
        known = state or {}
        self.cpu_s = float(known.get("cpu_s", math.nan))
        self.device_s = float(known.get("device_s", math.nan))
        self._earlier = list(known.get("attempts", ()))
        self._before = (step, train_s, self.cpu_s, self.device_s)

    def _known_seconds(self, cpu_s: float, device_s: float) -> dict[str, float]:
        seconds = {"cpu_s": cpu_s}
        if self._has_events or device_s > 0:
            seconds["device_s"] = device_s
        return {name: value for name, value in seconds.items() if not math.isnan(value)}

    def _record_event(self) -> torch.cuda.Event:
        if not self._free:
            self._free.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        event = self._free.pop()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read_events(self) -> float:
        """Return the device seconds of the steps whose kernels have ended, each step once."""
        seconds = 0.0
        while self._unread and self._unread[0][1].query():  # type: ignore[no-untyped-call]
            begin, end = self._unread.popleft()
            seconds += begin.elapsed_time(end) / 1000
            self._free += [begin, end]
        return seconds
