"""Child processes that end with the process that has started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.5


def dying_with_this_process(number: int | None = None) -> str:
    """A Python statement with which a child process begins that is to end with this one, as `die_with_parent` does.

    It runs this file and imports nothing of the package: the child may use another version of it.
    """
    arguments = (os.getpid(), None if number is None else int(number))
    return f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['die_with_parent'](*{arguments!r})"


def die_with_parent(parent: int, number: int | None = None) -> None:
    """Send this process the signal `number` (None: SIGKILL) when the process `parent`, which started it, has ended.

    On Linux the kernel does it, also to a process that is stopped; it does so as soon as the thread that started this
    process ends. Elsewhere a thread looks twice a second.
    """
    number = getattr(signal, "SIGKILL", signal.SIGTERM) if number is None else number
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the kernel knew
            os.kill(os.getpid(), number)
    elif hasattr(os, "getppid"):
        threading.Thread(target=_watch, args=(parent, number), name="parent watch", daemon=True).start()


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os.kill(os.getpid(), number)
