"""Child processes that help a run: fresh interpreters that find the same modules, and leave signals to the run.

No fork: a copy of a process that has used threads may hang. No `multiprocessing`: it would run the main script again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import IO

_STDERR = 2
_MASKS = hasattr(signal, "pthread_sigmask")
_helpers: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def helper_process_ids() -> set[int]:
    """Those of this process's helpers that may be alive."""
    return {helper.pid for helper in list(_helpers) if helper.returncode is None}


def start_helper(
    module: str, environment: Mapping[str, str] | None = None, stderr: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start `main()` of `module` in a process of its own, with pipes to its stdin and from its stdout.

    Args:
        module: dotted name.
        environment: variables beside those of this process.
        stderr: where its messages go; None for those of this process.

    Raises:
        OSError: it cannot be started.
    """
    code = f"import sys; sys.path[:] = {list(map(os.path.abspath, sys.path))!r}; from {module} import main; main()"
    # Inherited: Ctrl-C, and what is sent to a whole job, is for the run, which ends its helpers in order.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}) if _MASKS else set()
    try:
        helper = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if stderr is None and not _is_open(_STDERR) else stderr,
            env={**os.environ, **(environment or {})},
        )
    finally:
        if _MASKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    _helpers.add(helper)
    return helper


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
