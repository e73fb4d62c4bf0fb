"""Steps that suddenly take several times as long as before: a metric, and a warning."""

from __future__ import annotations

import os
import statistics
from collections import deque

import torch

_MIN_RATES = 8
_MAX_RATES = 100
_SLOWER = 3.0
_MIN_LOST_S = 2.0


class SpeedWatch:
    """Compares the speed of the newest steps with the median of the run.

    Args:
        device: where training computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rates: deque[float] = deque(maxlen=_MAX_RATES)
        self._last_s = 0.0
        self._has_warned = False

    def check(self, rate: float, train_s: float) -> float:
        """Record a speed; return by what factor the newest steps were slow, or 0.0.

        That is 0.0 below a factor of three, and if the steps took at most two seconds longer than
        usual.

        Args:
            rate: tokens per second since the last call.
            train_s: seconds of training so far.
        """
        took_s, self._last_s = train_s - self._last_s, train_s
        if not rate > 0:
            return 0.0
        slowdown = 0.0
        if len(self._rates) >= _MIN_RATES:
            slowdown = statistics.median(self._rates) / rate
        self._rates.append(rate)
        is_slow = slowdown > _SLOWER and took_s * (1 - 1 / slowdown) > _MIN_LOST_S
        return slowdown if is_slow else 0.0

    def warning(self, step: int, rate: float, slowdown: float) -> str:
        """Return a warning with its remedy; "" after the first.

        Args:
            step: the last step.
            rate: as given to `check`.
            slowdown: the factor that it returned.
        """
        if self._has_warned:
            return ""
        self._has_warned = True
        return (
            f"steps up to step {step} took {slowdown:.1f} times as long as before "
            f"({rate:,.0f} instead of {slowdown * rate:,.0f} tokens/s); {self._remedy()}"
        )

    def _remedy(self) -> str:
        if self._device.type != "cpu":
            return "see what else uses the GPU, and whether it is hot (nvidia-smi)"
        threads, cpus = torch.get_num_threads(), os.cpu_count() or 1
        load = f", and the load is {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        advice = "see what else runs here"
        if threads > 1:
            advice += ": threads wait for each other, so that fewer (threads=1) may be faster"
        return f"torch has {threads} of {cpus} CPUs{load}; {advice}"
