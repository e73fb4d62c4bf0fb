"""Command line of training: compose the configuration, check it, hand it to Hydra, end with an exit code.

Exit codes: 0 done; 1 a run failed, or its last state could not be saved or backed up; 2 a mistake in settings or
files, told in one line each, nothing created; 130 and 143 interrupted by SIGINT and SIGTERM after a checkpoint.

torch is imported only once a run is really to start, so `--help`, `--cfg job` and the like answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, cast

import hydra
import psutil
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from spectral_exp.command_line import CONF_DIR, CommandLine, describe, help_text
from spectral_exp.errors import Interrupted, RunError, UserError
from spectral_exp.monitoring.helper_process import helper_process_ids

log = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

_JOB_NAME = "train"
"""What Hydra calls a job of this module."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit code."""
    # Hydra then raises what went wrong instead of printing it and exiting: which exit code it deserves is decided here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        command = CommandLine.parse(sys.argv[1:] if arguments is None else arguments)
        if command.arguments in (["--help"], ["-h"]):
            print(help_text())
            return 0
        if not command.informs_only:
            command = _checked(command)
        _hand_over(command)
    except Interrupted as stop:
        if stop.problem:
            print(f"error: {stop.problem}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except HydraException as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"error: {describe_refusal(error)}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside a run's own loop: pass it on to the workers of a parallel sweep, which then save; else stop."""
    helpers = helper_process_ids()
    workers = [child for child in psutil.Process().children(recursive=True) if child.pid not in helpers]
    for worker in workers:
        worker.send_signal(number)
    if not workers:
        raise Interrupted(number)


def describe_refusal(error: OSError) -> str:
    """One line on storage that takes nothing more."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}; free space on the disk, then give the same command again"


class JobError(Exception):
    """A run ended with an error that its own log tells in full.

    Args:
        message: what a user should read.
        exit_code: 2 for a user's mistake, 1 for everything else.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


def _checked(command: CommandLine) -> CommandLine:
    """Build every job of `command` on trial, so that all mistakes are told before anything is created on disk."""
    jobs = command.compose()
    from spectral_exp.build import check

    problems: dict[str, None] = {}
    for job in jobs:
        problems.update(dict.fromkeys(check(job.config, job.run_dir)))
    if problems:
        raise UserError("\nerror: ".join(problems))
    return command.with_run_dir(jobs[0])


def _hand_over(command: CommandLine) -> None:
    """Let Hydra do what `command` asks for."""
    if command.flags or command.multirun:
        sys.argv[1:] = command.arguments
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(run_job)()
        return
    # hydra.main does the same, but first composes everything once more to see whether a sweep is asked for.
    with hydra.initialize_config_dir(config_dir=str(CONF_DIR), job_name=_JOB_NAME, version_base="1.3"):
        single = GlobalHydra.instance().hydra
        assert single is not None
        single.run(command.config_name, run_job, list(command.overrides))


def run_job(config: DictConfig) -> None:
    """Build and run one job in the run directory that Hydra has made for it.

    Raises:
        Interrupted: a signal came; the run was saved.
        JobError: anything else went wrong; the job's own log has told it in full.
    """
    from spectral_exp.build import build
    from spectral_exp.summary import summary

    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    shown = Path(os.path.relpath(run_dir))
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    try:
        with build(plain, run_dir, list(job.overrides.task)) as runner:
            log.info("run directory: %s", shown)
            try:
                runner.run()
            finally:
                log.info("%s", summary(shown, runner.no_results))
    except UserError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=2) from error
    except RunError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", exit_code=1) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            message = f"{shown}: {describe_refusal(error)}"
            log.error("error: %s", message)
            raise JobError(message, exit_code=1) from error
        log.exception("the run failed")
        message = f"{shown}: {type(error).__name__}: {error} (traceback in {shown / 'train.log'})"
        raise JobError(message, exit_code=1) from error


if __name__ == "__main__":
    # Parallel launchers pickle the job by the name of its module, which must not be __main__.
    from spectral_exp.train import main as importable_main

    sys.exit(importable_main())
