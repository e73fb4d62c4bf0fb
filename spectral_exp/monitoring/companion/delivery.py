"""A thread that sends something to a server that may fail, hang or be gone for days."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from spectral_exp.core.redact import redact_text

log = logging.getLogger(__name__)

POLL_S = 1.0
_LONGEST_PAUSE_S = 300.0
_LAST_PAUSE_S = 2.0
_SILENCE_S = 30.0


class Delivery:
    """Calls `push` again and again until the run is over and everything is sent.

    After a failure it pauses, each time twice as long, up to five minutes. The first failure of a
    row and the recovery are logged.

    Args:
        name: of the receiver, for messages.
        push: sends what is new; it is called with whether the run is over, and returns whether more
            is waiting.
        is_ending: set when the run is over.
    """

    def __init__(self, name: str, push: Callable[[bool], bool], is_ending: threading.Event) -> None:
        self.name = name
        self._push = push
        self._is_ending = is_ending
        self._failures = 0
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether the last push failed, or the present one takes suspiciously long."""
        since_s = self._busy_since_s
        is_silent = since_s is not None and time.monotonic() - since_s > _SILENCE_S
        return self._failures > 0 or is_silent

    def has_ended(self, timeout_s: float) -> bool:
        """Return whether everything is sent within `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            is_last = self._is_ending.is_set()
            self._busy_since_s = time.monotonic()
            pause_s = self._try(is_last)
            self._busy_since_s = None
            if is_last and pause_s is None:
                return
            if self._is_ending.is_set():
                time.sleep(min(pause_s or 0.0, _LAST_PAUSE_S))
            else:
                self._is_ending.wait(POLL_S if pause_s is None else pause_s)

    def _try(self, is_last: bool) -> float | None:
        """Push once; return the seconds until the next push, None if nothing is waiting."""
        try:
            is_more_waiting = self._push(is_last)
        except Exception as error:  # of a foreign library
            self._failures += 1
            pause_s = min(2.0 ** min(self._failures, 10), _LONGEST_PAUSE_S)
            reason = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
            if self._failures == 1:
                log.warning("%s: %s; training continues, and it is tried again", self.name, reason)
                log.info("%s: details", self.name, exc_info=True)
            return pause_s
        if self._failures:
            log.warning("%s works again", self.name)
            self._failures = 0
        return 0.0 if is_more_waiting else None
