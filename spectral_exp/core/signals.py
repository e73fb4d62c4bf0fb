"""Signals that request a stop: recorded while a run can save, else raised as `Interrupted`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from spectral_exp.core.errors import Interrupted, JobError, RunError

STOP_SIGNALS = ("SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")
"""Signals that stop a process by default, beside SIGINT; a platform may lack some of them."""

CATCHABLE = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2")
"""Signals that a user may choose."""

# A person or a batch system that repeats one of these means "now"; the others are warnings.
_URGENT = (signal.SIGINT, signal.SIGTERM)
_REPEAT_S = 1.0

_current: StopRequest | None = None


class StopRequest:
    """Handles the signals that ask to stop while its `with` block runs.

    The first signal is noted in `signal_number`. A SIGINT or SIGTERM that comes a second or more
    after the first of them raises `Interrupted` in the main thread. An earlier one is the same
    request delivered twice, as process groups and batch systems do, and has no effect. A signal
    that the process was started to ignore (`nohup`) stays ignored, unless it is SIGINT or SIGTERM.
    Blocks nest: an inner one begins with the request that an outer one has received.

    Args:
        names: signals beside SIGINT, by name. The others get the handlers that they had outside of
            all blocks.
        immediate: raise `Interrupted` at the first signal too, for work that has nothing to save.
        delegate: called at the first signal; if it returns True, other processes do what was asked,
            and nothing is raised.
        is_worker: leave SIGINT, and the decision to stop at once, to the parent process; inner
            blocks do so too.

    Attributes:
        signal_number: the first signal received, or None.
        has_raised: whether that signal raised `Interrupted` here at once, without a message.
        raised_number: the last signal that raised `Interrupted` in this block or one inside it, or
            None.
    """

    def __init__(
        self,
        names: Sequence[str] = STOP_SIGNALS,
        *,
        immediate: bool = False,
        delegate: Callable[[], bool] | None = None,
        is_worker: bool = False,
    ) -> None:
        self.signal_number: int | None = None
        self.has_raised = False
        self.raised_number: int | None = None
        self._numbers = {
            signal.SIGINT,
            *(getattr(signal, name) for name in names if hasattr(signal, name)),
        }
        self._immediate = immediate
        self._delegate = delegate
        self._is_worker = is_worker
        self._is_settled = False
        self._outer: StopRequest | None = None
        self._urgent_at_s: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._stderr: tuple[int, int] | None = None

    def __enter__(self) -> StopRequest:
        global _current
        self._outer = outer = _current
        if outer is not None:
            self.signal_number, self._urgent_at_s = outer.signal_number, outer._urgent_at_s
            self._is_worker = self._is_worker or outer._is_worker
        self._stderr = _identity_of_stderr()
        # Python lets only the main thread set handlers; elsewhere the owner of the process stops
        # it.
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers | (outer._before.keys() if outer else set()):
                self._install(number)
        if outer is not None and self.signal_number is None:
            # A signal that came before its handler was installed has reached the outer blocks only.
            self.signal_number, self._urgent_at_s = outer.signal_number, outer._urgent_at_s
        _current = self
        return self

    def __exit__(self, *error: object) -> None:
        global _current
        _current = self._outer
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def settle(self) -> None:
        """Only note a first signal from now on, because the work of this block has ended."""
        self._is_settled = True

    def finish(self) -> None:
        """Handle no more signals, now that the process is about to end.

        After a first signal, others are ignored, so that the exit code is that of the first;
        without one, they end the process as the system does it, without a traceback.
        """
        handler = signal.SIG_DFL if self.signal_number is None else signal.SIG_IGN
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, handler)
        self._before.clear()

    def _install(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        is_ignored = before is signal.SIG_IGN and number not in _URGENT
        handler: Any = self._receive
        if number not in self._numbers or is_ignored:
            handler = self._original(number, before)
        elif number == signal.SIGINT and self._is_worker:
            handler = signal.SIG_IGN
        # None: a handler that was not set by Python and that Python cannot set again.
        self._before[number] = signal.SIG_DFL if before is None else before
        signal.signal(number, handler)

    def _original(self, number: signal.Signals, before: Any) -> Any:
        """The handler of `number` outside of all blocks."""
        outer = self._outer
        while outer is not None:
            before = outer._before.get(number, before)
            outer = outer._outer
        return before

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        is_urgent = number in _URGENT
        is_first = self.signal_number is None or (is_urgent and self._urgent_at_s is None)
        is_repeated = (
            is_urgent and self._urgent_at_s is not None and now_s - self._urgent_at_s >= _REPEAT_S
        )
        # In the outer blocks too, one of which may handle the next signal.
        block: StopRequest | None = self
        while block is not None:
            if block.signal_number is None:
                block.signal_number = number
            if is_urgent and block._urgent_at_s is None:
                block._urgent_at_s = now_s
            block = block._outer
        if is_repeated and not self._is_worker:
            raise self._interruption(number)
        if not is_first or self._is_settled:
            return
        name = signal.Signals(number).name
        if self._delegate is not None and self._delegate():
            self._print(
                f"{name}: waiting for the other processes to save; once more to stop at once"
            )
        elif self._immediate:
            self.has_raised = True
            raise self._interruption(number)
        elif not self._is_worker:
            self._print(f"{name}: finishing this step, then saving; once more to stop at once")

    def _interruption(self, number: int) -> Interrupted:
        """Return the error to raise for signal `number`, and record it in all blocks."""
        block: StopRequest | None = self
        while block is not None:
            block.raised_number = number
            block = block._outer
        return Interrupted(number)

    def _print(self, message: str) -> None:
        """Write to the descriptor, since the signal may have interrupted a buffered write.

        Nothing is written if it is another file by now, or if the write would fail or wait for a
        reader.
        """
        if self._stderr is None or _identity_of_stderr() != self._stderr:
            return
        with contextlib.suppress(OSError, ValueError):
            if os.name != "posix" or select.select([], [2], [], 0)[1]:
                os.write(2, f"\n{message}\n".encode())


@contextlib.contextmanager
def restore_interruption() -> Iterator[None]:
    """Raise `Interrupted` where a library has turned the one of a signal into another error.

    A signal may come at any instruction. Cleaning up what it has interrupted, or called from C++, a
    library then raises an error of its own. A `RunError` stays: it names what could not be saved.
    """
    try:
        yield
    except (RunError, JobError):
        raise
    except Exception as error:
        if _current is None or _current.raised_number is None:
            raise
        raise Interrupted(_current.raised_number) from error


def end_at_ctrl_c() -> None:
    """Let Ctrl-C end this process with one line, and not with a traceback.

    This is for the imports of a program, which take a second. A `StopRequest` takes over.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_process)


def _end_process(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\nstopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that ask a process to stop.

    Processes that are started meanwhile inherit it, until they call `unblock_signals`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _blockable())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Let the signals arrive that `signals_blocked` of the parent process has blocked."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _blockable())


def _blockable() -> set[signal.Signals]:
    names = [name for name in STOP_SIGNALS if hasattr(signal, name)]
    return {signal.SIGINT, *(getattr(signal, name) for name in names)}


def _identity_of_stderr() -> tuple[int, int] | None:
    """Which file descriptor 2 is.

    None if it was closed when the process started: any file may get the number.
    """
    if sys.__stderr__ is None:
        return None
    try:
        facts = os.fstat(2)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
