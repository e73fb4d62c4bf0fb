"""Child processes that help a run: fresh interpreters that find the same modules, and leave signals to the run.

No fork: a copy of a process that has used threads may hang. No `multiprocessing`: it would run the main script again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from spectral_exp.core.parent import dying_with_this_process

_STDERR = 2
_MASKS = hasattr(signal, "pthread_sigmask")
# What a terminal or a batch system sends to a whole job is for the run, which ends its helpers in order.
_LEFT_TO_THE_RUN = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
}


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
