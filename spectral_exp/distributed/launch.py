"""Start several processes on this machine, and end as the first one does.

torch's own `elastic_launch` is not used, because it kills all processes 30 seconds after one of
them has ended or a signal has come, also while rank 0 still saves, and because a second signal
makes it leave them behind. The variables of the processes are those of torchrun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from spectral_exp.core.errors import Interrupted, JobError
from spectral_exp.core.parent import die_with_parent_statement
from spectral_exp.core.signals import signals_blocked
from spectral_exp.distributed.ending import receive_ending
from spectral_exp.distributed.rendezvous import Report, attempt_store, publish
from spectral_exp.distributed.settings import DistributedSettings
from spectral_exp.distributed.world import LAUNCHED

_HOST = "127.0.0.1"
_POLL_S = 0.02
# For the other processes after rank 0 has ended, and for all of them after a second signal.
_GRACE_S = 5.0
_TRAIN = "from spectral_exp.train import main; sys.exit(main())"


class Launcher:
    """Processes that train one model together: `with Launcher(...) as launcher: ...`.

    They load while the caller checks the command, wait for it in the store, and are killed at the
    end of the block if they still run.

    Args:
        size: number of processes.
        arguments: of this command, as the process list shows them.
        settings: of training on several processes.
    """

    def __init__(self, size: int, arguments: Sequence[str], settings: DistributedSettings) -> None:
        self._settings = settings
        self._server = TCPStore(
            _HOST,
            0,
            is_master=True,
            timeout=timedelta(seconds=settings.init_timeout_s),
            wait_for_workers=False,
        )
        self._store = attempt_store(self._server)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signalled = False
        code = (
            f"import sys; sys.path[:] = {list(map(os.path.abspath, sys.path))!r}; "
            f"sys.orig_argv[:] = {sys.orig_argv!r}; {die_with_parent_statement(signal.SIGTERM)}; "
            f"{_TRAIN}"
        )
        try:
            # A signal must not end a process before it can report that.
            with signals_blocked():
                for rank in range(size):
                    process = subprocess.Popen(
                        [sys.executable, "-c", code, *arguments],
                        stdin=subprocess.DEVNULL,
                        env={**os.environ, **self._variables(rank, size)},
                    )
                    self._processes.append(process)
        except BaseException:  # no memory for one more process, or a signal
            self._kill()
            raise

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._kill()

    def _variables(self, rank: int, size: int) -> dict[str, str]:
        return {
            LAUNCHED: str(os.getpid()),
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "MASTER_ADDR": _HOST,
            "MASTER_PORT": str(self._server.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }

    def stop(self) -> bool:
        """Ask all processes to save and end; return whether there are any.

        They ignore SIGINT, which a terminal sends to them as well, so they get SIGTERM.
        """
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        self._signalled = bool(running)
        return bool(running)

    def run(self, shared: Mapping[str, Any]) -> None:
        """Let the processes train, and wait for their end.

        Args:
            shared: the command line that they wait for, as JSON values.

        Raises:
            Interrupted: a signal stopped the run after a save, or a second signal came and the
                processes have been killed.
            JobError: the run failed.
        """
        self._store.set("shared", json.dumps(shared))
        try:
            code = self._wait()
            pid = self._processes[0].pid
            if code < 0:
                publish(self._store, Report(0, "run", _describe_end(code, pid)))
            self._let_end(self._processes[1:])
        finally:
            self._kill()
        if code == 0:
            return
        if (error := receive_ending(self._store)) is not None:
            raise error
        if code > 128 or (code == -signal.SIGTERM and self._signalled):  # before it had begun
            raise Interrupted(code - 128 if code > 0 else -code)
        remedy = "give the same command again to continue" if code < 0 else "see its messages"
        raise JobError(f"rank 0 {_describe_end(code, pid)}; {remedy}")

    def _wait(self) -> int:
        """Return the exit code of rank 0 when it has ended.

        Raises:
            JobError: it has not ended in time after another process failed.
        """
        main, *others = self._processes
        failed_at: float | None = None
        seen: set[int] = set()
        while main.poll() is None:
            for rank, process in enumerate(others, 1):
                code = process.poll()
                if code is not None and rank not in seen:
                    seen.add(rank)
                    if code != 0:
                        failed_at = failed_at or time.monotonic()
                        publish(self._store, Report(rank, "run", _describe_end(code, process.pid)))
            allowed_s = self._settings.step_timeout_s + _GRACE_S
            if failed_at is not None and time.monotonic() > failed_at + allowed_s:
                raise JobError(
                    f"rank 0 (process {main.pid}) has not ended {allowed_s:.0f} s after another "
                    "process failed, so it is killed; give the same command again to continue"
                )
            time.sleep(_POLL_S)
        return main.returncode

    def _let_end(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        deadline = time.monotonic() + _GRACE_S
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()


def _describe_end(code: int, pid: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} (process {pid})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name} (process {pid})"
