"""Worker processes of a parallel sweep.

Workers ignore Ctrl-C, which their parent handles. If the parent dies, they save and exit.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from spectral_exp.core.signals import StopRequest, signals_blocked, unblock_signals

log = logging.getLogger(__name__)

_POLL_S = 0.5

_stop: StopRequest | None = None
_job = threading.Lock()
_is_stopping = False


def prepare_joblib() -> None:
    """Make joblib start its workers with `start_worker`; do nothing if joblib is missing."""
    global _is_stopping
    _is_stopping = False
    try:
        from joblib.parallel import LokyBackend, register_parallel_backend
    except ImportError:
        return

    class Backend(LokyBackend):  # type: ignore[misc]  # joblib has no types
        """Starts worker processes with blocked signals, which `start_worker` unblocks."""

        def configure(self, *arguments: Any, **settings: Any) -> Any:
            start = {"initializer": start_worker, "initargs": (os.getpid(),)}
            # Python's tracker of resources and joblib's tracker of temporary files are started
            # here. They ignore SIGINT and SIGTERM, and the other signals stay blocked in them.
            # Python unblocks SIGINT and SIGTERM when it starts its tracker. If the first worker
            # started it, that worker would begin with unblocked signals.
            with signals_blocked():
                resource_tracker.ensure_running()
            with signals_blocked():
                return super().configure(*arguments, **settings, **start)

        def submit(
            self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None
        ) -> Future[Any]:
            with signals_blocked():
                future: Future[Any] = super().submit(func, callback)
            if _is_stopping:
                stop_workers()  # a new worker has not been asked to stop
            return future

    register_parallel_backend("loky", Backend)


def start_worker(parent: int) -> None:
    """Make this process a worker of the process `parent`, and unblock its signals."""
    global _stop
    _stop = StopRequest(is_worker=True).__enter__()
    unblock_signals()
    # After that, because the thread inherits the mask and sends itself a signal.
    threading.Thread(target=_exit_with, args=(parent,), name="parent watch", daemon=True).start()


@contextmanager
def job() -> Iterator[int | None]:
    """Mark the time of a job, during which the worker does not exit.

    Yields:
        The number of the signal that requested a stop, or None; always None outside of workers.
    """
    if _stop is None:
        yield None
        return
    with _job:
        yield _stop.signal_number


def is_worker() -> bool:
    """Return whether this process is a worker."""
    return _stop is not None


def stop_workers() -> bool:
    """Send SIGTERM to the workers of this process; return False if there are none.

    Workers that start later are stopped when they get their first job.
    """
    global _is_stopping
    _is_stopping = True
    workers = multiprocessing.active_children()
    for worker in workers:
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGTERM)
    return bool(workers)


def replace_workers() -> None:
    """End the idle workers of this process, so that the next jobs get new ones.

    A worker that was asked to stop begins no further job.
    """
    if "joblib" in sys.modules and multiprocessing.active_children():
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(wait=True)


def _exit_with(parent: int) -> None:
    """Wait until the parent has ended; then let the current job save, and exit."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    log.warning("the process that started this sweep has ended: its jobs save and stop")
    signal.raise_signal(signal.SIGTERM)
    with _job:
        os._exit(128 + signal.SIGTERM)
