"""Child processes that help a run: fresh interpreters that find the same modules, and leave signals to the run.

No fork: a copy of a process that has used threads may hang. No `multiprocessing`: it would run the main script again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_STDERR = 2
_MASKS = hasattr(signal, "pthread_sigmask")
# What a terminal or a batch system sends to a whole job is for the run, which ends its helpers in order.
_LEFT_TO_THE_RUN = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
}
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.5


def start_helper(
    module: str, environment: Mapping[str, str] | None = None, stderr: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start `main()` of `module` in a process of its own, with pipes to its stdin and from its stdout.

    It is killed when the thread that starts it ends, and so with this process, however that ends.

    Args:
        module: dotted name.
        environment: variables beside those of this process.
        stderr: where its messages go; None for those of this process.

    Raises:
        OSError: it cannot be started.
    """
    modules = f"import sys; sys.path[:] = {list(map(os.path.abspath, sys.path))!r}"
    code = f"{modules}; {dying_with_this_process()}; from {module} import main; main()"
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_RUN) if _MASKS else set()
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if stderr is None and not _is_open(_STDERR) else stderr,
            env={**os.environ, **(environment or {})},
        )
    finally:
        if _MASKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


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
