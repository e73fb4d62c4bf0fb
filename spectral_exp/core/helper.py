"""Helper processes that answer requests: `HelperProcess` in the run, `serve` in the helper.

A helper does work that may crash, hang or keep the interpreter busy, and the run survives it.
Requests and answers are pickles on the helper's standard input and output.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from spectral_exp.core.child_process import start_helper

_EXIT_S = 1.0
"""Seconds in which a helper that has closed its answers has to end."""

_HANG_S = 5.0
"""Seconds that `end` waits; a process that hangs in the kernel ends when the kernel releases it."""

Send = Callable[[Any], None]


class HelperEndedError(Exception):
    """The helper has ended. The message is how: by which signal, or with which exit code."""


class HelperProcess:
    """A helper that answers requests in order. One thread at a time uses it; any may kill it.

    A thread reads the answers and reaps the process, so that no call waits for a process that
    hangs.

    Args:
        module: dotted name of the module whose `main` calls `serve`.
        environment: variables beside those of this process.
        stderr: where its messages go; None for those of this process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self._owner = os.getpid()
        self._answers: queue.SimpleQueue[tuple[Any] | None] = queue.SimpleQueue()
        self._process = start_helper(module, environment, stderr)
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._reader = threading.Thread(target=self._read, name="helper reader", daemon=True)
        try:
            self._reader.start()
        except BaseException:
            self._process.kill()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, request: object) -> None:
        """Send a request.

        Raises:
            HelperEndedError: it has ended, or belongs to a parent process.
        """
        content = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        if self._owner != os.getpid():
            raise HelperEndedError(self.end())
        try:
            self._requests.write(content)
            self._requests.flush()
        except (OSError, ValueError) as error:
            raise HelperEndedError(self.end()) from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """Return the next answer.

        Raises:
            HelperEndedError: it has ended.
            TimeoutError: no answer came within `timeout_s`.
        """
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty as error:
            raise TimeoutError from error
        if answer is None:
            raise HelperEndedError(self.end())
        return answer[0]

    def kill(self) -> None:
        """End it at once, without waiting; a fork leaves the helper of its parent alone."""
        if self._owner == os.getpid():
            self._process.kill()

    def end(self) -> str:
        """End it and return how it ended; may be called again."""
        if self._owner != os.getpid():
            return "with the process that started it"
        self._process.kill()
        self._reader.join(_HANG_S)
        if not self._reader.is_alive():
            with contextlib.suppress(OSError):  # it has not read everything
                self._requests.close()
        code = self._process.poll()
        if code is None:
            return "after it hung"
        return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"

    def _read(self) -> None:
        try:
            # The answers end, also in the middle of one.
            ends = contextlib.suppress(EOFError, OSError, pickle.UnpicklingError)
            with cast("IO[bytes]", self._process.stdout) as answers, ends:
                while True:
                    self._answers.put((pickle.load(answers),))
        finally:
            self._reap()
            self._answers.put(None)

    def _reap(self) -> None:
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(make_handler: Callable[[Send], Callable[[Any], object]], niceness: int) -> None:
    """Answer requests until standard input ends.

    Args:
        make_handler: called once with a function that sends a message before the answer; returns
            the function from a request to its answer.
        niceness: added to the priority of this process.
    """
    # Standard output is for answers alone; whatever else prints goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else 2, 1)
    if hasattr(os, "nice"):
        os.nice(niceness)

    def send(message: object) -> None:
        pickle.dump(message, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()

    handle = make_handler(send)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except (EOFError, pickle.UnpicklingError):  # the parent is gone
            return
        answer = handle(request)
        with contextlib.suppress(BrokenPipeError):
            send(answer)
