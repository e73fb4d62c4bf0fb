"""A command line of training with a fixed name, so that each start continues the same run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.config.command_line import CommandLine, Job, as_user_errors
from spectral_exp.config.command_line.grammar import text_of
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.redact import redact
from spectral_exp.runs.overrides import setting_of

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
        command = CommandLine.parse(list(arguments))
        _refuse_other_flags(command)
        jobs = command.compose()
    _check_name(jobs[0], command.multirun)
    _check_jobs(jobs)
    named = command.with_run_dir(jobs[0])
    added = [*_fetched_run(command, arguments), *named.overrides[len(command.overrides) :]]
    return TrainingJob(
        arguments=(*arguments, *added),
        folder=_folder(named, jobs[0]),
        outputs=Path(str(jobs[0].config["outputs"])),
        is_sweep=named.multirun,
    )


def _refuse_secrets(arguments: Sequence[str]) -> None:
    """Refuse secrets, because the script of the job would hold them."""
    shown = redact(list(arguments))
    hidden = [setting_of(a) for a, b in zip(arguments, shown, strict=True) if a != b]
    if hidden:
        raise UserError(
            f"{', '.join(hidden)} is a secret, which is never written to a file; put it into an "
            "environment variable and name that: '${oc.env:VARIABLE}'"
        )


def _refuse_other_flags(command: CommandLine) -> None:
    for flag in command.flags:
        is_value = not flag.startswith("-")
        if not is_value and flag.partition("=")[0] not in _ALLOWED_FLAGS:
            raise UserError(
                f"{printable(flag)} is no flag of a training job; options of the batch system "
                "come before the first override"
            )


def _check_name(job: Job, is_sweep: bool) -> None:
    name = job.config.get("experiment_id")
    is_plain = name not in ("", ".", "..") and Path(str(name)).name == str(name)
    require(is_sweep or name is None or is_plain, "experiment_id", name, "a plain folder name")


def _check_jobs(jobs: Sequence[Job]) -> None:
    """Build every job on trial, on the CPU: this machine need not have the device of the job."""
    from spectral_exp.config.build import check

    problems: dict[str, None] = {}
    for job in jobs:
        device = str(job.config.get("device"))
        require(bool(_DEVICE.fullmatch(device)), "device", device, "auto, cpu, cuda, cuda:N or mps")
        problems.update(dict.fromkeys(check({**job.config, "device": "cpu"}, job.run_dir)))
    if problems:
        raise UserError("\nerror: ".join(problems))


def _fetched_run(command: CommandLine, arguments: Sequence[str]) -> list[str]:
    """Return the override that continues the local copy of a run that was given as a URL."""
    given = [text_of(o) for o in arguments if setting_of(o) == "resume" and "=" in o]
    if not given or "://" not in given[-1]:
        return []
    return [[o for o in command.overrides if setting_of(o) == "resume"][-1]]


def _folder(command: CommandLine, job: Job) -> Path:
    """Return the folder of the run or sweep."""
    if job.run_dir is not None:
        return job.run_dir
    values = {setting_of(o): o for o in command.overrides if "=" in o}
    if "hydra.sweep.dir" in values and command.multirun:
        return Path(text_of(values["hydra.sweep.dir"]))
    return Path(str(job.config["outputs"]), text_of(values["experiment_id"]))
