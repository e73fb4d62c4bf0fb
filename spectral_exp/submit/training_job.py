"""A command line of training with a fixed name, so that each start continues the same run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectral_exp.config.command_line import (
    CommandLine,
    Composer,
    Job,
    as_user_errors,
    open_composer,
    quote,
    text_of,
)
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.redact import redact
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.overrides import setting_of
from spectral_exp.sweeps.plan import Plan

_ALLOWED_FLAGS = (
    "--multirun", "-m", "--config-dir", "-cd", "--config-name", "-cn",
)  # fmt: skip

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


@dataclass(frozen=True)
class TrainingJob:
    """A checked command line of training.

    Attributes:
        arguments: flags and overrides; the same at every start.
        folder: the run directory, or the folder of the sweep.
        outputs: the folder that holds run directories.
        is_sweep: whether the job has several runs, which workers can share.
    """

    arguments: tuple[str, ...]
    folder: Path
    outputs: Path
    is_sweep: bool

    @property
    def name(self) -> str:
        """The name of the run or sweep."""
        return self.folder.resolve().name


def prepare(arguments: Sequence[str]) -> TrainingJob:
    """Check a command line of training, and name its run if it has no name.

    The text is read and tokenized as at the start of training, so the job finds it in the cache.

    Raises:
        UserError: the settings have mistakes, one line each.
    """
    _refuse_secrets(arguments)
    with as_user_errors():
        _refuse_other_flags(arguments)
        command = CommandLine.parse(list(arguments))
        if not command.multirun:
            (job,) = command.compose()
            if not job.sweeps:
                return _single_run(command, job, arguments)
        with open_composer(command.config_name, command.config_dir) as composer:
            return _sweep(replace(command, multirun=True), composer)


def _single_run(command: CommandLine, job: Job, arguments: Sequence[str]) -> TrainingJob:
    """Return the job of one run."""
    name = job.config.get("experiment_id")
    is_plain = name not in ("", ".", "..") and Path(str(name)).name == str(name)
    require(name is None or is_plain, "experiment_id", name, "a plain folder name")
    _check_jobs([job])
    named = command.with_run_dir(job)
    added = [*_fetched_run(command, arguments), *named.overrides[len(command.overrides) :]]
    outputs = Path(str(job.config["outputs"]))
    values = {setting_of(o): o for o in named.overrides if "=" in o}
    folder = job.run_dir or outputs / text_of(values["experiment_id"])
    return TrainingJob((*arguments, *added), folder, outputs, is_sweep=False)


def _sweep(command: CommandLine, composer: Composer) -> TrainingJob:
    """Return the job of a sweep, which several workers may run at the same time."""
    plan = Plan(command, composer)
    own = [*plan.hydra_overrides, f"sweep={quote(plan.name)}"]
    jobs = composer.compose_all(
        [*overrides, *own] for overrides in [*plan.requested, *plan.examples]
    )
    _check_jobs(jobs)
    outputs = Path(str(jobs[0].config["outputs"]))
    return TrainingJob(tuple(plan.arguments), plan.folder, outputs, is_sweep=True)


def _refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse secrets, because the script of the job would hold them."""
    shown = redact(list(arguments))
    hidden = [setting_of(a) for a, b in zip(arguments, shown, strict=True) if a != b]
    if hidden:
        raise UserError(
            f"{', '.join(hidden)} is a secret, which is never written to a file; put it into an "
            "environment variable and name that: '${oc.env:VARIABLE}'"
        )


def _refuse_other_flags(arguments: Sequence[str]) -> None:
    for flag in arguments:
        if flag.startswith("-") and flag.partition("=")[0] not in _ALLOWED_FLAGS:
            raise UserError(
                f"{printable(flag)} is not a flag of a training job; options of the batch system "
                "come before the first override"
            )


def _check_jobs(jobs: Sequence[Job]) -> None:
    """Build every job on trial, on the CPU: this machine need not have the device of the job."""
    from spectral_exp.config.build import check

    problems: dict[str, None] = {}
    for job in jobs:
        device = str(job.config.get("device"))
        require(bool(_DEVICE.fullmatch(device)), "device", device, "auto, cpu, cuda, cuda:N or mps")
        # A job that is submitted while its run goes on waits for it, and then continues it.
        is_busy = job.run_dir is not None and is_running(job.run_dir)
        found = check({**job.config, "device": "cpu"}, None if is_busy else job.run_dir)
        problems.update(dict.fromkeys("\nerror: ".join(found).split("\nerror: ") if found else []))
    if problems:
        raise UserError("\nerror: ".join(problems))


def _fetched_run(command: CommandLine, arguments: Sequence[str]) -> list[str]:
    """Return the override that continues the local copy of a run that was given as a URL."""
    if not any("://" in o for o in arguments if setting_of(o) == "resume"):
        return []
    return [[o for o in command.overrides if setting_of(o) == "resume"][-1]]
