"""Child processes of a run: fresh interpreters that find the same modules and ignore job signals.

No fork: a copy of a process that has used threads may hang. No `multiprocessing`: it would run the
main script again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from spectral_exp.core.parent import die_with_parent_statement

_STDERR = 2
_MASKS = hasattr(signal, "pthread_sigmask")
# A terminal or a batch system signals a whole job; the run ends its helpers itself.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_JOB_SIGNALS = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}


def start_helper(
    module: str,
    environment: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
    *,
    outlives: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `main()` of `module` in a new process, with pipes to its stdin and from its stdout.

    The system kills it when the thread that starts it ends, thus also when this process ends,
    unless it `outlives` this process.

    Args:
        module: dotted name.
        environment: variables beside those of this process.
        stderr: where its messages go; None for those of this process.
        outlives: the helper ends by itself. It has a session of its own, so that no signal of the
            terminal reaches it, and no standard error, so that nobody waits for it at a pipe.

    Raises:
        OSError: it cannot be started.
    """
    modules = f"import sys; sys.path[:] = {list(map(os.path.abspath, sys.path))!r}"
    dies = "" if outlives else f"; {die_with_parent_statement()}"
    code = f"{modules}{dies}; from {module} import main; main()"
    is_silent = outlives or (stderr is None and not _is_open(_STDERR))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _JOB_SIGNALS) if _MASKS else set()
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if is_silent else stderr,
            env={**os.environ, **(environment or {})},
            start_new_session=outlives,
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
