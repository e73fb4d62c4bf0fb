"""One thread that does one piece of work at a time, and that nobody has to wait for."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable


class BackgroundThread:
    """Does work while the caller goes on: `start`, then `wait`. The thread is kept from one piece to the next.

    It is a daemon: one that hangs on a dead disk does not keep the process. It ends with the object.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._errors: list[BaseException] = []
        self._started = False

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return not self._idle.is_set()

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work`; nothing else may be under way. Its error is raised by the next `wait`."""
        if not self._started:
            # It knows the queue and not the object, which can thus be collected, and then ends it.
            arguments = (self._work, self._idle, self._errors)
            threading.Thread(target=_serve, args=arguments, name=self._name, daemon=True).start()
            weakref.finalize(self, self._work.put, None)
            self._started = True
        self._idle.clear()
        self._work.put(work)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return once no work is under way, or after `timeout_s`; whether it is so. Raises the error of the work."""
        if not self._idle.wait(timeout_s):
            return False
        if self._errors:
            raise self._errors.pop()
        return True


def _serve(
    waiting: queue.SimpleQueue[Callable[[], object] | None], idle: threading.Event, errors: list[BaseException]
) -> None:
    while (work := waiting.get()) is not None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        del work  # or what it knows would live until the next piece
        idle.set()
