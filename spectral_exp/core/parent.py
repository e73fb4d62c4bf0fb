"""Child processes that end with the process that started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


def die_with_parent_statement(number: int | None = None) -> str:
    """Return a Python statement that makes a child process end with this one, by `die_with_parent`.

    It runs this file and imports nothing of the package, of which the child may use another
    version.
    """
    arguments = (os.getpid(), None if number is None else int(number))
    return (
        "import runpy;"
        f" runpy.run_path({str(Path(__file__).resolve())!r})['die_with_parent'](*{arguments!r})"
    )


def die_with_parent(parent: int, number: int | None = None) -> None:
    """Send this process the signal `number` (None: SIGKILL) when its parent process `parent` ends.

    On Linux the kernel sends it, also to a stopped process, as soon as the thread that started this
    process ends. On other systems a thread checks the parent twice a second.
    """
    number = getattr(signal, "SIGKILL", signal.SIGTERM) if number is None else number
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the kernel knew
            os.kill(os.getpid(), number)
    elif hasattr(os, "getppid"):
        threading.Thread(
            target=_watch, args=(parent, number), name="parent watch", daemon=True
        ).start()


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), number)
