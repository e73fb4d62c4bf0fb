"""Statistics of a metric in constant memory."""

from __future__ import annotations

import math
from array import array
from fractions import Fraction

_CHUNK = 1 << 13
"""Number of values that are summed at a time."""


class Summary:
    """The running statistics of one metric."""

    def __init__(self) -> None:
        self._count = self._finite = 0
        self._min, self._max, self._final = math.inf, -math.inf, math.nan
        self._sum = Fraction(0)
        self._chunk = array("d")

    def add(self, value: float) -> None:
        """Add one value."""
        self._count += 1
        if math.isfinite(value):
            self._final = value
            self._chunk.append(value)
            if len(self._chunk) == _CHUNK:
                self._reduce()

    def _reduce(self) -> None:
        chunk = self._chunk
        if not chunk:
            return
        self._finite += len(chunk)
        self._min, self._max = min(self._min, min(chunk)), max(self._max, max(chunk))
        try:
            rounded = math.fsum(chunk)
            self._sum += Fraction(rounded) + Fraction(math.fsum([*chunk, -rounded]))
        except OverflowError:  # the sum is too large for a float, the mean is not
            self._sum += sum(map(Fraction, chunk))
        self._chunk = array("d")

    def result(self) -> dict[str, float]:
        """Return `min`, `max`, `mean` and `final` of the finite values, `count` and
        `non_finite`."""
        self._reduce()
        counts = {"count": self._count, "non_finite": self._count - self._finite}
        if not self._finite:
            return {"min": math.nan, "max": math.nan, "mean": math.nan, "final": math.nan, **counts}
        mean = float(self._sum / self._finite)
        return {"min": self._min, "max": self._max, "mean": mean, "final": self._final, **counts}
