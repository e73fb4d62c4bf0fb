"""Threads for what a request computes, so that the server stays free to answer others."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Workers:
    """A fixed number of threads that end with the process, whatever they do.

    The executors of the standard library would make Ctrl-C wait for their work.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        for number in range(n_threads):
            threading.Thread(target=self._work, name=f"{name} {number}", daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns in one of the threads."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((call, loop, future))
        return await future

    def _work(self) -> None:
        while True:
            call, loop, future = self._jobs.get()
            if future.cancelled():  # the client is gone
                continue
            result, error = None, None
            try:
                result = call()
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
