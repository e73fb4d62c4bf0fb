"""One thread that does one piece of work at a time, whatever interrupts the thread that waits for it.

A signal handler may raise between any two instructions of the main thread. `threading.Event`, `Condition` and
`Thread.start` can then stay locked for ever, and with them everybody who waits. Here the thread that works owns every
step from the beginning of the work to its end, and it is never interrupted. The others publish the work by one
assignment and wait with primitives that cannot stay locked.
"""

from __future__ import annotations

import _thread
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

_LOOK_AGAIN_S = 0.2


class Latch:
    """An event that happens once: `set` by one thread, once; `wait` in any thread may be interrupted at any moment."""

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let everybody go on who waits. Called once, by a thread that no signal interrupts."""
        self.is_set = True
        self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return once the event has happened, or after `timeout_s`; whether it has."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.is_set:
            left_s = _LOOK_AGAIN_S if end_s is None else min(end_s - time.monotonic(), _LOOK_AGAIN_S)
            if left_s <= 0:
                break
            # If an exception leaves the lock locked here, everybody finds `is_set` by looking again.
            if self._lock.acquire(timeout=left_s):
                self._lock.release()
        return self.is_set


class BackgroundThread:
    """Does work while the caller goes on: `start`, then `wait`. The thread is kept from one piece to the next.

    It is a daemon: one that hangs on a dead disk does not keep the process. It ends with the object. If no thread can
    be started, the caller does the work. A process forked meanwhile has no work under way, and gets its own thread.

    Args:
        name: of the thread.
        is_optional: leave the work undone if no thread can be started.
    """

    def __init__(self, name: str, *, is_optional: bool = False) -> None:
        self._name = name
        self._is_optional = is_optional
        self._job: _Job | None = None
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._process: int | None = None

    @property
    def work(self) -> Callable[[], object] | None:
        """The work under way."""
        job = self._current()
        return None if job is None else job.work

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._current() is not None

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work`; nothing else may be under way. Its error is raised by the next `wait`.

        If the call is interrupted, `work` is either not known at all, or begun by whatever is called next.
        """
        self._job = _Job(work)
        self._current()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return once no work is under way, or after `timeout_s`; whether it is so. Raises the error of the work."""
        job = self._current()
        if job is not None and not job.done.wait(timeout_s):
            return False
        job = self._job
        if job is not None and job.error is not None:
            self._job = None
            raise job.error
        return True

    def run(self, work: Callable[[], object]) -> None:
        """Do `work` in the thread after what is under way, and return or raise what it does.

        Work of this thread may call it too.
        """
        job = self._current()
        if job is not None and job.thread == _thread.get_ident():
            work()
            return
        self.wait()
        self.start(work)
        self.wait()

    def _current(self) -> _Job | None:
        """The job under way, which is handed to the thread if it has not been yet."""
        job = self._job
        if job is None or job.done.is_set or job.process != os.getpid():
            return None
        if not job.submitted:
            self._submit(job)
        return job

    def _submit(self, job: _Job) -> None:
        """Give `job` to the thread; giving it twice does no harm."""
        if self._process != job.process:
            waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
            # Not at the end of the process, when a last save may still be to come.
            weakref.finalize(self, waiting.put, None).atexit = False  # type: ignore[misc]
            try:
                # It knows the queue and not this object, which can thus be collected, and then ends it.
                _thread.start_new_thread(_serve, (waiting, self._name))
            except RuntimeError:  # the limit of threads has been reached
                job.skip() if self._is_optional else job.run()
                return
            self._queue, self._process = waiting, job.process
        self._queue.put(job)
        job.submitted = True


class _Job:
    """A piece of work, which is done once however often it is given to a thread."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work: Callable[[], object] | None = work
        self.process = os.getpid()
        self.submitted = False
        self.thread: int | None = None
        self.error: BaseException | None = None
        self.done = Latch()
        self._unclaimed = [work]

    def skip(self) -> None:
        """Leave the work undone."""
        self._end()

    def run(self) -> None:
        """Do the work, unless it has been begun."""
        try:
            work = self._unclaimed.pop()
        except IndexError:
            return
        self.thread = _thread.get_ident()
        try:
            work()
        except BaseException as error:
            self.error = error
        del work
        self._end()

    def _end(self) -> None:
        # What the work refers to must not live until the next piece.
        self.work = None
        self.done.set()


def _serve(waiting: queue.SimpleQueue[_Job | None], name: str) -> None:
    threading.current_thread().name = name
    while (job := waiting.get()) is not None:
        job.run()
        del job
