"""The worker processes of a parallel sweep: they leave Ctrl-C to their parent, and save and end when it is gone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from spectral_exp.core.signals import STOP_SIGNALS, StopRequest, signals_blocked

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5

_stop: StopRequest | None = None
_job = threading.Lock()


def prepare_joblib() -> None:
    """Have joblib start its workers by `start_worker`; does nothing if it is not installed."""
    try:
        from joblib.parallel import LokyBackend, register_parallel_backend
    except ImportError:
        return

    class Backend(LokyBackend):  # type: ignore[misc]  # joblib has no types
        """joblib's worker processes, which ignore signals until they are ready for them."""

        def configure(self, *arguments: Any, **settings: Any) -> Any:
            # joblib's tracker of temporary files ignores SIGINT and SIGTERM by itself, and is started here.
            with signals_blocked():
                return super().configure(*arguments, **settings, initializer=start_worker, initargs=(os.getpid(),))

        def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
            with signals_blocked():
                future: Future[Any] = super().submit(func, callback)
                return future

    register_parallel_backend("loky", Backend)


def start_worker(parent: int) -> None:
    """Make this process a worker of the process `parent`."""
    global _stop
    _stop = StopRequest(is_worker=True).__enter__()
    threading.Thread(target=_end_with, args=(parent,), name="parent watch", daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _blockable())


@contextmanager
def job() -> Iterator[int | None]:
    """Surround a job; the signal that has asked this worker to stop, or None. Outside of workers it does nothing."""
    if _stop is None:
        yield None
        return
    with _job:
        yield _stop.signal_number


def is_worker() -> bool:
    """Whether this process is a worker."""
    return _stop is not None


def stop_workers() -> bool:
    """Ask the workers of this process to stop; False if there are none."""
    workers = multiprocessing.active_children()
    for worker in workers:
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGTERM)
    return bool(workers)


def _end_with(parent: int) -> None:
    """End this process once its parent has ended and the job under way is saved."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    log.warning("the process that started this sweep is gone: its jobs save and stop")
    signal.raise_signal(signal.SIGTERM)
    with _job:
        os._exit(128 + signal.SIGTERM)


def _blockable() -> set[signal.Signals]:
    return {signal.SIGINT, *(getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name))}
