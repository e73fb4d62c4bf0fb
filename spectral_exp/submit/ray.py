"""Jobs for a running Ray cluster, through its command `ray job submit`.

Training itself does not import Ray, which only finds a place for the command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.shell import shell_command
from spectral_exp.submit.script import Environment, script_bytes
from spectral_exp.submit.training_job import TrainingJob

SYSTEM = "ray"

_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class RayOptions:
    """What a job requests.

    Args:
        address: of the cluster's dashboard, as `http://head:8265`.
        gpus: number of GPUs.
        cpus: number of cores.
        memory_gb: memory.
        workers: number of jobs, which share the runs of a sweep.
        save_time_s: how long `ray job stop` waits until the run has saved, in seconds.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: float | None = None
    memory_gb: float | None = None
    workers: int = 1
    save_time_s: int = 120

    def __post_init__(self) -> None:
        require(self.workers >= 1, "--workers", self.workers, ">= 1")
        require(self.save_time_s >= 1, "--save-time", self.save_time_s, ">= 1 second")
        for name in ("gpus", "cpus", "memory_gb"):
            value = getattr(self, name)
            is_amount = value is None or 0 <= value < float("inf")
            require(is_amount, f"--{name.replace('_', '-')}", value, ">= 0")

    def arguments(self, submission_id: str, file: Path) -> list[str]:
        """Return the arguments of `ray` that submit the script `file`."""
        # Ray's process that stops the job has this environment too.
        environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(self.save_time_s)}}
        options = {
            "address": self.address,
            "submission-id": submission_id,
            "runtime-env-json": json.dumps(environment),
            "entrypoint-num-gpus": self.gpus,
            "entrypoint-num-cpus": self.cpus,
            "entrypoint-memory": self.memory_gb and int(self.memory_gb * 2**30),
        }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return ["job", "submit", "--no-wait", *given, "--", "bash", str(file)]


def ray_script(job: TrainingJob, options: RayOptions, environment: Environment) -> bytes:
    """Return the script of a job, for the current folder.

    Raises:
        UserError: the options do not fit the job.
    """
    allowed = "1, because a single run is the work of one job; --workers is for sweeps (-m)"
    require(job.is_sweep or options.workers == 1, "--workers", options.workers, allowed)
    return script_bytes(
        [
            "#!/bin/bash",
            "# Trains as written by `spectral-exp submit ray`.",
            "",
            *environment.opening(Path.cwd()),
            "",
            f"exec {environment.command(job)}",
        ]
    )


def new_submission_ids(job: TrainingJob, workers: int) -> list[str]:
    """Return an id for each worker; Ray accepts every id once."""
    name = re.sub(r"[^\w.-]+", "-", job.name, flags=re.ASCII)
    first = f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    return [first] if workers == 1 else [f"{first}-{number}" for number in range(workers)]


def submit(file: Path, options: RayOptions, submission_ids: Sequence[str]) -> Iterator[str]:
    """Submit a script once for each id, and yield each id that Ray has accepted.

    Raises:
        UserError: there is no Ray, or it refuses a job.
    """
    program = find_ray(os.environ)
    if options.address is None and not any(os.environ.get(name) for name in _ADDRESS_VARIABLES):
        raise UserError(
            f"the Ray cluster is not named; give --address=http://HEAD:8265, or set "
            f"{_ADDRESS_VARIABLES[0]}"
        )
    for position, submission_id in enumerate(submission_ids):
        done = subprocess.run(
            [program, *options.arguments(submission_id, file)],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = os.fsdecode(done.stderr or done.stdout).strip().splitlines()
            accepted = ", ".join(submission_ids[:position])
            before = f" after it has accepted {accepted}" if position else ""
            reason = printable(lines[-1] if lines else f"exit code {done.returncode}", 500)
            raise UserError(f"Ray refuses the job {submission_id}{before}: {reason}")
        yield submission_id


def find_ray(environment: Mapping[str, str]) -> str:
    """Return the path of the command `ray`, beside this interpreter or on the path."""
    beside = Path(sys.executable).with_name("ray")
    found = shutil.which("ray", path=environment.get("PATH"))
    if found is None and os.access(beside, os.X_OK):
        return str(beside)
    if found is None:
        raise UserError(
            "ray is not installed here: pip install 'ray[default]' in the version of the cluster, "
            "or print the script with --dry-run"
        )
    return found


def dry_run_text(script: bytes, options: RayOptions, file: Path, ids: list[str]) -> bytes:
    """Return the script, followed by the commands that would submit it as comments."""
    commands = [shell_command(["ray", *options.arguments(name, file)]) for name in ids]
    return script + os.fsencode("".join(f"\n# {command}" for command in commands) + "\n")
