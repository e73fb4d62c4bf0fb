"""The training command: compose the configuration, check it, and run the jobs with Hydra.

Exit codes:
    0: done.
    1: a run failed, or its last state could not be saved or backed up.
    2: settings or files have mistakes, reported in one line each; nothing was created.
    128 + n: signal n stopped the run after a checkpoint (130 for SIGINT, 143 for SIGTERM).

torch is imported only when a run starts, so that `--help` and `--cfg job` are fast.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from spectral_exp.config import trust
from spectral_exp.config.command_line import (
    JOB_NAME,
    CommandLine,
    describe,
    help_text,
    resolve_overrides,
    search_arguments,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.display import print_error, protect_output
from spectral_exp.core.errors import Interrupted, JobError, RunError, UserError
from spectral_exp.core.files import atomic_writer
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.signals import StopRequest
from spectral_exp.runs import layout
from spectral_exp.runs.lock import RunInUseError
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` and return the exit code.

    Args:
        arguments: None for the arguments of this process, which must then exit with the code.
    """
    # With this variable Hydra raises errors instead of printing them and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if arguments is None:
        protect_output()
    with StopRequest(immediate=True, delegate=sweep_workers.stop_workers) as stop:
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments, stop)
        except Interrupted as error:
            if error.problem:
                _print_problems(error.problem)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            code = _exit_code(error, stop.signal_number)
        if arguments is None:
            stop.finish()
        return code


def _run(arguments: list[str], stop: StopRequest) -> int:
    """Check the command line, then let Hydra run it; return the exit code."""
    _require_working_directory()
    command = CommandLine.parse(arguments)
    if command.arguments in (["--help"], ["-h"]):
        print(help_text())
        return 0
    if not command.informs_only and not command.multirun:
        command = _check(command)
    if command.multirun and not command.informs_only:
        from spectral_exp.sweeps.driver import run_sweep

        return run_sweep(command, run_job, lambda: stop.signal_number)
    _run_by_hydra(command)
    return 0


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
        _print_problems(str(error))
        was_stopped = signal_number is not None and error.exit_code > 128
        return 128 + cast(int, signal_number) if was_stopped else error.exit_code
    if signal_number is not None:
        # A library may turn `Interrupted` into another error.
        return 128 + signal_number
    if isinstance(error, UserError):
        _print_problems(str(error))
    elif isinstance(error, HydraException):
        _print_problems(describe(error))
    elif isinstance(error, RecursionError):
        # It comes from composing the settings: in a job it would be a JobError.
        _print_problems(
            "a configuration file or its interpolations are nested too deeply; simplify the file"
        )
    elif problem := describe_refusal(error):
        _print_problems(problem)
        return 1
    else:
        raise error
    return 2


def _print_problems(message: str) -> None:
    """Print each problem in `message` on a line of its own."""
    for line in message.split("\nerror: "):
        print_error(f"error: {printable(line)}")


def describe_refusal(error: Exception, run_dir: Path | None = None) -> str:
    """Return one line if the machine refused storage or memory; "" for any other error.

    An OSError on a file in `run_dir` always counts, because the folder may have been removed.
    """
    from spectral_exp.monitoring.checkpoint.failures import refusal

    refused = refusal(error)
    if refused is None:
        return ""
    if refused.errno == errno.ENOMEM:
        reason = printable(str(error), 200)
        return (
            f"not enough memory ({reason}); free memory, or train smaller batches, then give the "
            "same command again"
        )
    is_inside = run_dir is not None and str(refused.filename).startswith(f"{run_dir}{os.sep}")
    if refused.errno not in _FULL | _FAILING and not is_inside:
        return ""
    file = f" ({refused.filename})" if refused.filename else ""
    remedy = "free space on" if refused.errno in _FULL else "check"
    return f"{refused.strerror}{file}; {remedy} the disk, then give the same command again"


def _check(command: CommandLine) -> CommandLine:
    """Build the run on trial, so that mistakes are reported before any file exists.

    Returns:
        The command line with the run's name, or as a sweep if the configuration makes it one.
    """
    (job,) = command.compose()
    if job.sweeps:
        return replace(command, multirun=True)
    from spectral_exp.config.build import check

    problems = check(job.config, job.run_dir)
    sampler = (job.config.get("search") or {}).get("sampler")
    if sampler is not None and job.config["resume"] is None:
        problems.append(f"search={sampler} trains several runs; add -m")
    if problems:
        raise UserError("\nerror: ".join(problems))
    # A recorded address is in the configuration only if the user has named it before.
    if url := job.config["monitoring"]["backup"]["url"]:
        trust.remember_backup_url(url)
    return command.with_run_dir(job)


def _run_by_hydra(command: CommandLine) -> None:
    """Let Hydra run a single job, or print what its flags ask for."""
    if command.flags:
        sys.argv[1:] = command.arguments
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(run_job)()
        return
    # hydra.main does the same, but composes everything twice to find out whether it is a sweep.
    with hydra.initialize_config_dir(
        config_dir=str(CONF_DIR), job_name=JOB_NAME, version_base="1.3"
    ):
        single = GlobalHydra.instance().hydra
        assert single is not None
        failed: list[JobError] = []

        def run(config: DictConfig) -> None:
            try:
                run_job(config)
            except JobError as error:  # Hydra would print it with all overrides
                failed.append(error)

        single.run(command.config_name, run, list(command.overrides))
    if failed:
        raise failed[0]


def run_job(config: DictConfig) -> None:
    """Build and run one job in the run directory that Hydra has made for it.

    Raises:
        Interrupted: a signal stopped the run, which was saved.
        JobError: any other error, which is in the log of the job.
    """
    from spectral_exp.config.build import build
    from spectral_exp.sweeps.search.pruning import make_pruner
    from spectral_exp.training.summary import summary

    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    shown = _relative(run_dir)
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    search = search_arguments(job)
    overrides = resolve_overrides(job, plain)
    try:
        why_prune = make_pruner(plain, run_dir, overrides)
        with build(plain, run_dir, overrides, search, why_prune) as runner:
            _record(config, run_dir)
            log.info("run directory: %s", shown)
            try:
                runner.run()
            finally:
                log.info("%s", summary(_relative(run_dir), search, runner.results.missing_because))
    except RunInUseError as error:  # not logged, because the log belongs to the other process
        raise JobError(f"{shown}: {error}", exit_code=2) from error
    except UserError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=2) from error
    except RunError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=1) from error
    except Exception as error:
        if problem := describe_refusal(error, run_dir):
            message = f"{shown}: {problem}"
            log.error("error: %s", message)
            raise JobError(message, exit_code=1) from error
        log.exception("the run failed")
        traceback_file = layout.RunPaths(shown).run_log
        message = f"{shown}: {type(error).__name__}: {error} (traceback in {traceback_file})"
        raise JobError(message, exit_code=1) from error


def _relative(path: Path) -> Path:
    """Return `path` relative to the working directory, or unchanged if that was removed."""
    try:
        return Path(os.path.relpath(path))
    except FileNotFoundError:
        return path


def _record(config: DictConfig, run_dir: Path) -> None:
    """Write the files of the `.hydra` folder as Hydra does, but redacted."""
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
