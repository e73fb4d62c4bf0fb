"""A warning when steps suddenly take several times as long as before."""

from __future__ import annotations

import os
import statistics
from collections import deque

import torch

_MIN_RATES = 8
_MAX_RATES = 100
_SLOWER = 3.0


class SpeedWatch:
    """Compares the speed of the newest steps with the median of the run; warns once.

    Args:
        device: where training computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rates: deque[float] = deque(maxlen=_MAX_RATES)
        self._has_warned = False

    def check(self, step: int, rate: float) -> str:
        """Record a speed; return a warning with its remedy if it is suddenly low, else "".

        Args:
            step: the last step.
            rate: tokens per second since the last call.
        """
        if self._has_warned or not rate > 0:
            return ""
        usual = statistics.median(self._rates) if len(self._rates) >= _MIN_RATES else 0.0
        self._rates.append(rate)
        if rate * _SLOWER > usual:
            return ""
        self._has_warned = True
        return (
            f"steps up to step {step} took {usual / rate:.1f} times as long as before "
            f"({rate:,.0f} instead of {usual:,.0f} tokens/s); {self._remedy()}"
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
