"""When a checkpoint is due: every so many steps, or as often as an overhead budget allows."""

from __future__ import annotations

import time
from typing import Literal

from spectral_exp.core.errors import require

_FIRST_AUTO_S = 10.0
_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 300.0


class SaveSchedule:
    """Decides after which steps to save; retries failed saves after growing pauses.

    Args:
        interval: steps between saves, or "auto".
        max_overhead: share of the time that saves may cost with "auto", as a fraction or like "0.5%". Counted are the
            seconds that training was blocked and the processor time of the writer.
    """

    def __init__(self, interval: int | Literal["auto"], max_overhead: float | str) -> None:
        whole = isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1
        require(whole or interval == "auto", "save_interval", interval, "a whole number >= 1 or auto")
        self.interval = interval
        self.max_overhead = parse_share("max_overhead", max_overhead)
        self._pause_s = _FIRST_AUTO_S
        self._last = time.monotonic()
        self._retry_at: float | None = None
        self._retry_pause_s = _RETRY_FIRST_S

    def due(self, step: int) -> bool:
        """Whether to save after `step`, counted from 1."""
        if self._retry_at is not None:
            return time.monotonic() >= self._retry_at
        if self.interval == "auto":
            return step > 0 and time.monotonic() - self._last >= self._pause_s
        return step > 0 and step % self.interval == 0

    def saved(self, cost_s: float, durable_s: float) -> None:
        """A save has become durable; with "auto", its cost decides when the next one comes."""
        self._retry_at, self._retry_pause_s = None, _RETRY_FIRST_S
        self._pause_s = max(cost_s / self.max_overhead, durable_s)
        self._last = time.monotonic()

    def failed(self) -> None:
        """A save has failed: the next try comes after a pause twice as long as the one before."""
        self._retry_at = time.monotonic() + self._retry_pause_s
        self._retry_pause_s = min(2 * self._retry_pause_s, _RETRY_MOST_S)


def parse_share(name: str, value: float | str) -> float:
    """A share of the whole as a fraction, from a number or a text like "0.5%". Raises SettingError."""
    text = str(value).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    require(0 < share <= 1, name, value, "a share such as 0.5% or 0.005, above 0 and at most 100%")
    return share
