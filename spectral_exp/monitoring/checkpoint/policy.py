"""When a checkpoint is due, and which checkpoints to keep."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Literal

from spectral_exp.core.errors import require

log = logging.getLogger(__name__)

_FIRST_AUTO_S = 10.0
_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 300.0


class SaveSchedule:
    """Decides after which steps to save; failed saves are retried after growing pauses.

    Args:
        interval: steps between saves, or "auto".
        max_overhead: share of the time that saves may cost with "auto", as a fraction or like
            "0.5%". The cost is the time that training was blocked and the writer's processor time.
        keep_every_n_steps: steps divisible by it are saved too, and never skipped.

    Attributes:
        skipped: saves that fell due while another one was in progress.
    """

    def __init__(
        self,
        interval: int | Literal["auto"],
        max_overhead: float | str,
        keep_every_n_steps: int | None = None,
    ) -> None:
        whole = isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1
        require(
            whole or interval == "auto", "save_interval", interval, "a whole number >= 1 or auto"
        )
        self.interval = interval
        self.max_overhead = parse_share("max_overhead", max_overhead)
        self.skipped = 0
        self._keep_every_n_steps = keep_every_n_steps
        self._postponed_at: int | None = None
        self._pause_s = _FIRST_AUTO_S
        self._last = time.monotonic()
        self._retry_at: float | None = None
        self._retry_pause_s = _RETRY_FIRST_S

    def should_save(self, step: int, *, is_busy: bool) -> bool:
        """Whether to save after `step`: one is due, or was due while the writer was busy."""
        if self.is_kept_for_good(step):
            return True
        due = self.due(step)
        if not (due or self._postponed_at is not None):
            return False
        if not is_busy:
            return True
        if due and step != self._postponed_at:
            self._postponed_at = step
            self.skip(step, "; the next follows at once")
        return False

    def is_kept_for_good(self, step: int) -> bool:
        """Whether `keep_every_n_steps` divides `step`, so that training waits for its save."""
        every = self._keep_every_n_steps
        return every is not None and step > 0 and step % every == 0

    def skip(self, step: int, consequence: str = "") -> None:
        """Count and log a save that another one in progress prevents."""
        self.skipped += 1
        log.info("checkpoint of step %d skipped: one is still being written%s", step, consequence)

    def begin(self) -> None:
        """Record that a save has begun, which makes up for a skipped one."""
        self._postponed_at = None

    def postpone(self, step: int) -> None:
        """Make a save due as soon as the writer is free, because that of `step` holds nothing."""
        self._postponed_at = step

    def due(self, step: int) -> bool:
        """Whether the interval or the retry of a failed save ends at `step`, counted from 1."""
        if self._retry_at is not None:
            return time.monotonic() >= self._retry_at
        if self.interval == "auto":
            return step > 0 and time.monotonic() - self._last >= self._pause_s
        return step > 0 and step % self.interval == 0

    def record_save(self, cost_s: float, durable_s: float) -> None:
        """Record a durable save; with "auto", its cost sets the time of the next one."""
        self._retry_at, self._retry_pause_s = None, _RETRY_FIRST_S
        self._pause_s = max(cost_s / self.max_overhead, durable_s)
        self._last = time.monotonic()

    def record_failure(self) -> None:
        """Record a failed save: the next try follows after twice the last pause."""
        self._retry_at = time.monotonic() + self._retry_pause_s
        self._retry_pause_s = min(2 * self._retry_pause_s, _RETRY_MOST_S)


def parse_share(name: str, value: float | str) -> float:
    """Return a share as a fraction, from a number or a text like "0.5%". Raises SettingError."""
    text = str(value).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    require(0 < share <= 1, name, value, "a share such as 0.5% or 0.005, above 0 and at most 100%")
    return share


def removable(
    newest_first: Sequence[int],
    *,
    keep_last_n: int,
    keep_every_n_steps: int | None,
    pointed: Collection[int | None],
) -> list[int]:
    """Return the steps whose checkpoints are beyond retention.

    Args:
        newest_first: steps with a checkpoint, the most recently saved first.
        keep_last_n: how many of the newest to keep, >= 1.
        keep_every_n_steps: keep those of steps divisible by it too.
        pointed: steps that are kept as the best and the latest.
    """
    return [
        step
        for step in newest_first[keep_last_n:]
        if step not in pointed and not (keep_every_n_steps and step % keep_every_n_steps == 0)
    ]
