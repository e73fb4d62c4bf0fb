"""One job of a sweep as a launcher of Hydra runs it, in any process on any machine."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from spectral_exp.core.errors import Interrupted, JobEnding, JobError
from spectral_exp.core.file_locks import try_lock
from spectral_exp.sweeps import workers
from spectral_exp.sweeps.states import read_state

Ending = JobEnding | Literal["done", "interrupted", "unsaved", "died"]


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended.

    Attributes:
        folder: the name of the job's folder.
        ending: done; interrupted by a signal, and saved; unsaved (interrupted, but its last state
            is lost); died without an answer; or that of a `JobError`.
        message: one line for the user, "" if there is nothing to report.
    """

    folder: str
    ending: Ending
    message: str = ""


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@dataclass(frozen=True)
class SweepJob:
    """The task that a launcher calls with the configuration of each job.

    Args:
        run: trains one job; it raises `JobError` or `Interrupted`.
        defaults: the default settings, as returned by `names.identity`.
        failures: folder -> `JobState.attempt` of the failure to try again. A job that has failed
            in another attempt since then is left to the launcher that made the attempt.
    """

    run: Callable[[DictConfig], None]
    defaults: Mapping[str, Any]
    failures: Mapping[str, int] = field(default_factory=dict)
    driver: tuple[str, int] = field(default_factory=_this_process)

    def __call__(self, config: DictConfig) -> Outcome:
        """Train the job unless it is done, or runs elsewhere.

        Raises:
            Interrupted: a signal stopped the run, which was saved; only in the process that
                launches the sweep. A worker returns instead, because launchers react to an
                interrupt by killing the other workers while they save.
        """
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        with workers.job() as stopped_by:
            if stopped_by is not None:
                return Outcome(run_dir.name, "interrupted", "stopped before it began")
            with _claim(run_dir) as is_free:
                state = read_state(run_dir, self.defaults)
                if not is_free or state.state == "running":
                    return Outcome(run_dir.name, "busy")
                if state.state == "done":
                    return Outcome(run_dir.name, "done")
                if state.state == "failed" and state.attempt != self.failures.get(run_dir.name):
                    ending: Ending = "diverged" if state.status == "diverged" else "failed"
                    return Outcome(run_dir.name, ending, state.reason)
                return self._run(config, run_dir.name)

    def _run(self, config: DictConfig, folder: str) -> Outcome:
        try:
            self.run(config)
        except JobError as error:
            return Outcome(folder, error.ending, error.message)
        except Interrupted as error:
            if _this_process() == self.driver:
                raise
            if error.problem:
                return Outcome(folder, "unsaved", error.problem)
            return Outcome(folder, "interrupted", "stopped by a signal, and saved")
        return Outcome(folder, "done")


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Claim the folder of a job inside the `with` block, unless another launcher has claimed it.

    The lock of the run begins only after its state was read. Without the claim, another launcher
    could begin and finish the run between the two, and the run would get a second attempt.

    Yields:
        whether no other launcher holds the folder. A system or a file system that cannot lock
        folders prevents nothing.
    """
    descriptor = None
    # What is wrong with the folder is reported by the run.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    is_free = descriptor is None or try_lock(descriptor)
    try:
        yield is_free
    finally:
        if is_free:
            with contextlib.suppress(OSError):  # it is empty only if the run was refused
                folder.rmdir()
        if descriptor is not None:
            os.close(descriptor)
