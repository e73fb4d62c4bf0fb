"""A background thread that survives exceptions of signal handlers in the threads that wait for it.

A signal handler may raise between any two instructions of the main thread. `threading.Event`,
`Condition` and `Thread.start` can then stay locked for ever, and block every thread that waits.
Here the background thread, which no signal interrupts, owns every step from the start of a job to
its end. Other threads publish a job by one assignment and wait on a `Latch`.
"""

from __future__ import annotations

import _thread
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

_POLL_S = 0.2


class Latch:
    """An event that one thread sets once.

    A `wait` in any thread may be interrupted at any moment.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Release all waiting threads. Called once, by a thread that no signal interrupts."""
        self.is_set = True
        self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the event, at most `timeout_s`; return whether it has happened."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.is_set:
            left_s = _POLL_S if end_s is None else min(end_s - time.monotonic(), _POLL_S)
            if left_s <= 0:
                break
            # If an exception leaves the lock locked here, the other threads find `is_set` by
            # polling.
            if self._lock.acquire(timeout=left_s):
                self._lock.release()
        return self.is_set


class ServiceThread:
    """A daemon thread whose start and end no signal handler can break.

    `threading.Thread.start` waits inside a condition, which an exception there leaves broken.

    Args:
        serve: the work; it gets this object.
        name: of the thread.

    Attributes:
        is_started: whether `start` has been called, and was not interrupted.
        ended: set when `serve` has ended.
    """

    def __init__(self, serve: Callable[[Any], object], name: str) -> None:
        self.is_started = False
        self.ended = Latch()
        self._serve = serve
        self._name = name

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the system allows no more threads."""
        _thread.start_new_thread(self._run, ())
        self.is_started = True

    def _run(self) -> None:
        threading.current_thread().name = self._name
        try:
            self._serve(self)
        finally:
            self.ended.set()


class BackgroundThread:
    """Runs one job at a time in a thread of its own: `start`, then `wait`.

    The thread serves all jobs and ends with this object. As a daemon it does not keep the process
    alive when it hangs on a dead disk. If no thread can be started, the caller runs the job. A
    forked process has no job in progress, and gets its own thread.

    Args:
        name: of the thread.
        is_optional: skip the job if no thread can be started.
    """

    def __init__(self, name: str, *, is_optional: bool = False) -> None:
        self._name = name
        self._is_optional = is_optional
        self._job: _Job | None = None
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._process: int | None = None

    @property
    def work(self) -> Callable[[], object] | None:
        """The job in progress, or None."""
        job = self._current()
        return None if job is None else job.work

    @property
    def busy(self) -> bool:
        """Whether a job is in progress."""
        return self._current() is not None

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work` while no other job is in progress; the next `wait` raises its error.

        If the call is interrupted, `work` is either not recorded, or begun by the next call.
        """
        self._job = _Job(work)
        self._current()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the job in progress, at most `timeout_s`; return whether none is left.

        Raises:
            BaseException: the error of the job.
        """
        job = self._current()
        if job is not None and not job.done.wait(timeout_s):
            return False
        job = self._job
        if job is not None and job.error is not None:
            self._job = None
            raise job.error
        return True

    def run(self, work: Callable[[], object]) -> None:
        """Run `work` in the thread after the job in progress, and raise its error.

        A job in this thread may call it too.
        """
        job = self._current()
        if job is not None and job.thread == _thread.get_ident():
            work()
            return
        self.wait()
        self.start(work)
        self.wait()

    def _current(self) -> _Job | None:
        """Return the job in progress, after handing it to the thread if that has not been done."""
        job = self._job
        if job is None or job.done.is_set or job.process != os.getpid():
            return None
        if not job.submitted:
            self._submit(job)
        return job

    def _submit(self, job: _Job) -> None:
        """Hand `job` to the thread, which runs it once however often it gets it."""
        if self._process != job.process:
            waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
            # Not at the end of the process, when a last save may still follow.
            weakref.finalize(self, waiting.put, None).atexit = False  # type: ignore[misc]
            try:
                # It refers to the queue alone, so that this object can be collected, which ends it.
                _thread.start_new_thread(_serve, (waiting, self._name))
            except RuntimeError:  # the limit of threads has been reached
                job.skip() if self._is_optional else job.run()
                return
            self._queue, self._process = waiting, job.process
        self._queue.put(job)
        job.submitted = True


class _Job:
    """A job, which runs once however often it is handed to a thread."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work: Callable[[], object] | None = work
        self.process = os.getpid()
        self.submitted = False
        self.thread: int | None = None
        self.error: BaseException | None = None
        self.done = Latch()
        self._unclaimed = [work]

    def skip(self) -> None:
        """Skip the job."""
        self._end()

    def run(self) -> None:
        """Run the job, unless it has begun."""
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
        # The objects that the job refers to must not live until the next one.
        self.work = None
        self.done.set()


def _serve(waiting: queue.SimpleQueue[_Job | None], name: str) -> None:
    threading.current_thread().name = name
    while (job := waiting.get()) is not None:
        job.run()
        del job
