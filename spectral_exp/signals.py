"""Turn SIGINT and SIGTERM into a request to stop after the current step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """While its `with` block runs, the first SIGINT or SIGTERM is noted instead of ending the process.

    A second signal ends the process at once, as it would without us: whoever presses Ctrl-C twice means it.

    Attributes:
        signal_number: the signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, signal.Handlers | None | object] = {}

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread set handlers; elsewhere whoever owns the process stops it.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()
        # Straight to the descriptor: the signal may have come in the middle of a buffered write.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing this step, then saving; once more to stop at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
