"""The training command: compose the configuration, check it, hand it to Hydra.

Exit codes: 0 done; 1 a run failed, or its last state could not be saved or backed up; 2 a mistake
in settings or files, reported in one line each, nothing created; 128 + n stopped by signal n after
a checkpoint, so 130 for SIGINT and 143 for SIGTERM.

torch is imported only when a run starts, so `--help`, `--cfg job` and the like answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spectral_exp.config import trust
from spectral_exp.config.command_line import (
    CommandLine,
    describe,
    help_text,
    recordable,
    search_arguments,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.display import print_error, protect_output
from spectral_exp.core.errors import Interrupted, RunError, UserError
from spectral_exp.core.files import atomic_writer
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.signals import StopRequest
from spectral_exp.runs import layout
from spectral_exp.sweeps import workers as sweep_workers

log = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_FAILING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "ENXIO",
        "ENODEV",
        "EACCES",
        "EPERM",
        "ETIMEDOUT",
        "ENOTCONN",
        "ESTALE",
        "EREMOTEIO",
        "EHOSTDOWN",
    )
    if hasattr(errno, name)
)

_JOB_NAME = "train"
"""The name that Hydra gives to a job of this module."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` and return the exit code.

    By default they are those of the process, which then is about to end.
    """
    # Hydra then raises errors instead of printing them and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if arguments is None:
        protect_output()
    with StopRequest(immediate=True, delegate=sweep_workers.stop_workers) as stop:
        try:
            _run(sys.argv[1:] if arguments is None else arguments)
            code = 0
        except Interrupted as error:
            if error.problem:
                _report(error.problem)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            code = _exit_code(error, stop.signal_number)
        if arguments is None:
            stop.finish()
        return code


def _run(arguments: list[str]) -> None:
    """Check the command line, then hand it to Hydra."""
    _require_working_directory()
    command = CommandLine.parse(arguments)
    if command.arguments in (["--help"], ["-h"]):
        print(help_text())
        return
    if not command.informs_only:
        command = _check(command)
    _hand_over(command)


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working directory has been removed; change to one that exists"
        ) from error


def _exit_code(error: Exception, signal_number: int | None) -> int:
    """Print an error and return its exit code; raise the error if it is a defect."""
    if isinstance(error, JobError):
        _report(str(error))
        was_stopped = signal_number is not None and error.exit_code > 128
        return 128 + cast(int, signal_number) if was_stopped else error.exit_code
    if signal_number is not None:
        # A library may turn `Interrupted` into another error.
        return 128 + signal_number
    if isinstance(error, UserError):
        _report(str(error))
    elif isinstance(error, HydraException):
        _report(describe(error))
    elif isinstance(error, RecursionError):
        # Of a job that runs it would be a JobError: this was met in composing the settings.
        _report("a configuration file is nested too deeply, or its interpolations are; simplify it")
    elif refused := describe_refusal(error):
        _report(refused)
        return 1
    else:
        raise error
    return 2


def _report(message: str) -> None:
    """Print the errors of `message`, a line for each."""
    for line in message.split("\nerror: "):
        print_error(f"error: {printable(line)}")


def describe_refusal(error: Exception, run_dir: Path | None = None) -> str:
    """One line on storage or memory that the machine refuses; empty if `error` is of another kind.

    Whatever goes wrong with a file in `run_dir` is the storage's fault: somebody may have removed
    the folder.
    """
    from spectral_exp.monitoring.checkpoint.file import refusal

    refused = refusal(error)
    if refused is None:
        return ""
    if refused.errno == errno.ENOMEM:
        reason = printable(str(error), 200)
        return f"not enough memory ({reason}); free memory, or train smaller batches, then give the same command again"
    is_inside = run_dir is not None and str(refused.filename).startswith(f"{run_dir}{os.sep}")
    if refused.errno not in _FULL | _FAILING and not is_inside:
        return ""
    where = f" ({refused.filename})" if refused.filename else ""
    remedy = "free space on" if refused.errno in _FULL else "check"
    return f"{refused.strerror}{where}; {remedy} the disk, then give the same command again"


class JobError(Exception):
    """A run ended with an error; its own log has the details.

    Args:
        message: one line for the user.
        exit_code: 2 for a user's mistake, 1 for everything else.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


def _check(command: CommandLine) -> CommandLine:
    """Build every job on trial, so that mistakes are reported before any file exists."""
    jobs = command.compose()
    from spectral_exp.config.build import check

    problems: dict[str, None] = {}
    for job in jobs:
        problems.update(dict.fromkeys(check(job.config, job.run_dir)))
    if problems:
        raise UserError("\nerror: ".join(problems))
    for job in jobs:
        # A place from a record is in it only if the user has named it before.
        if url := job.config["monitoring"]["backup"]["url"]:
            trust.remember_place(url)
    return command.with_run_dir(jobs[0])


def _hand_over(command: CommandLine) -> None:
    """Let Hydra run the jobs of `command`."""
    if command.flags or command.multirun:
        sys.argv[1:] = command.arguments
        if command.multirun:
            sweep_workers.prepare_joblib()
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(
            run_sweep_job
        )()
        return
    # hydra.main does the same, but first composes everything again to see whether it is a sweep.
    with hydra.initialize_config_dir(
        config_dir=str(CONF_DIR), job_name=_JOB_NAME, version_base="1.3"
    ):
        single = GlobalHydra.instance().hydra
        assert single is not None
        failed: list[JobError] = []

        def run(config: DictConfig) -> None:
            try:
                run_job(config)
            except JobError as error:  # Hydra would announce it with the whole list of overrides
                failed.append(error)

        single.run(command.config_name, run, list(command.overrides))
    if failed:
        raise failed[0]


def run_job(config: DictConfig) -> None:
    """Build and run one job in the run directory that Hydra has made for it.

    Raises:
        Interrupted: a signal came; the run was saved.
        JobError: any other error, which is in the log of the job.
    """
    from spectral_exp.config.build import build
    from spectral_exp.training.summary import summary

    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    shown = _relative(run_dir)
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    search = search_arguments(job)
    try:
        with build(plain, run_dir, recordable(job, plain), search) as runner:
            _record(config, run_dir)
            log.info("run directory: %s", shown)
            try:
                runner.run()
            finally:
                log.info("%s", summary(_relative(run_dir), search, runner.results.missing_because))
    except UserError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=2) from error
    except RunError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=1) from error
    except Exception as error:
        if refused := describe_refusal(error, run_dir):
            message = f"{shown}: {refused}"
            log.error("error: %s", message)
            raise JobError(message, exit_code=1) from error
        log.exception("the run failed")
        message = f"{shown}: {type(error).__name__}: {error} (traceback in {layout.RunPaths(shown).run_log})"
        raise JobError(message, exit_code=1) from error


def _relative(path: Path) -> Path:
    """Return `path` relative to the working directory; unchanged if that has been removed."""
    try:
        return Path(os.path.relpath(path))
    except FileNotFoundError:
        return path


def run_sweep_job(config: DictConfig) -> None:
    """Do the same as `run_job`, but in a worker of a parallel sweep turn an interrupt into a
    failure.

    joblib answers an interrupt by killing the other workers, which are saving. No job begins after
    the interrupt.

    Raises:
        Interrupted: a signal came and this process is no worker; the run was saved.
        JobError: any other error.
    """
    run_dir = HydraConfig.get().runtime.output_dir
    with sweep_workers.job() as stopped_by:
        if stopped_by is not None:
            raise JobError(
                f"{run_dir}: the sweep was stopped before this job began", 128 + stopped_by
            )
        try:
            run_job(config)
        except Interrupted as error:
            if not sweep_workers.is_worker():
                raise
            raise JobError(f"{run_dir}: stopped and saved", error.exit_code) from error


def _record(config: DictConfig, run_dir: Path) -> None:
    """Write the configuration and overrides as Hydra does, but without secrets."""
    from spectral_exp.core.redact import redact

    job = HydraConfig.get()
    folder = layout.RunPaths(run_dir).hydra
    folder.mkdir(exist_ok=True)
    hydra_only = OmegaConf.masked_copy(cast(DictConfig, HydraConfig.instance().cfg), "hydra")
    sections = {
        layout.HYDRA_CONFIG_NAME: config,
        layout.HYDRA_OWN_NAME: hydra_only,
        layout.HYDRA_OVERRIDES_NAME: job.overrides.task,
    }
    for name, section in sections.items():
        _write_yaml(
            folder / name, redact(OmegaConf.to_container(section, resolve=False, enum_to_str=True))
        )
    # The sweeper writes this file.
    sweep = Path(job.sweep.dir) / layout.SWEEP_NAME
    if job.mode == RunMode.MULTIRUN and sweep.is_file() and not sweep.is_symlink():
        content = OmegaConf.to_container(OmegaConf.load(sweep), resolve=False)
        if (shown := redact(content)) != content:
            _write_yaml(sweep, shown)


def _write_yaml(path: Path, content: Any) -> None:
    with atomic_writer(path) as file:
        file.write(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(
                errors="backslashreplace"
            )
        )


if __name__ == "__main__":
    # Parallel launchers pickle the job by the name of its module, which must not be `__main__`.
    from spectral_exp.train import main as importable_main

    sys.exit(importable_main())
