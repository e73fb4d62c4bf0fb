"""Interrupt a call at a chosen moment, as an exception raised by a signal handler does.

`interrupt_at` raises before the N-th line (or bytecode) that a call executes in our own files:
counting N up to the first call that ends undisturbed tries every moment. `interrupt_after` raises
from a real signal handler after so many seconds, wherever the interpreter then is, in the standard
library and in torch too.

    for moment in itertools.count(1):
        logger = MetricsLogger(tmp_path / str(moment))
        if not interrupt_at(moment, lambda: logger.log_metrics(1, {"loss": 1.0})):
            break
        ...  # the logger must still work, and what it has written must be whole
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import spectral_exp

_OUR_FILES = str(Path(spectral_exp.__file__).parent)


class Interruption(BaseException):
    """Stands for KeyboardInterrupt, and cannot be mistaken for a real one."""


def interrupt_at(moment: int, call: Callable[[], object], *, bytecodes: bool = False) -> bool:
    """Run `call` and raise before the `moment`-th line that it executes in our files, counted from
    1.

    Only the calling thread is counted and interrupted, as signal handlers run in one thread only.

    Args:
        moment: when to raise.
        call: raises nothing else.
        bytecodes: count the instructions of the interpreter instead of lines: every moment that
            there is.

    Returns:
        Whether it was interrupted; False if the call was over before.
    """
    left = moment

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "call":
            if not frame.f_code.co_filename.startswith(_OUR_FILES):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = bytecodes, not bytecodes
            return count
        if event == ("opcode" if bytecodes else "line"):
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interruption
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
        release_logging_locks()
    return False


def interrupt_after(seconds: float, call: Callable[[], object]) -> bool:
    """Run `call` and raise from a handler of SIGALRM after `seconds`; whether the call was
    interrupted.

    A timer that was set before, such as the one that ends a test which hangs, goes on once this one
    has fired.
    """
    handler = signal.getsignal(signal.SIGALRM)
    start_s = time.monotonic()

    def restore() -> None:
        """Restore the handler and the remaining time of the earlier timer."""
        signal.signal(signal.SIGALRM, handler)
        left_s = max(delay_s - (time.monotonic() - start_s), 1e-3) if delay_s else 0.0
        signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)

    def strike(number: int, frame: FrameType | None) -> None:
        restore()
        raise Interruption

    delay_s, interval_s = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, strike)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            restore()
    except Interruption:
        return True
    finally:
        release_logging_locks()
    return False


def release_logging_locks() -> None:
    """Release the locks of log handlers that an exception inside of `logging` has left to this
    thread.

    The handlers of the test session outlive the test, and threads of later ones would wait for
    ever.
    """
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        lock = getattr(reference(), "lock", None)
        while lock is not None and lock._is_owned():
            lock.release()
