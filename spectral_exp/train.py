"""The training command: compose the configuration, check it, and run the jobs with Hydra.

Exit codes:
    0: done.
    1: a run failed, or its last state could not be saved or backed up.
    2: settings or files have mistakes, reported in one line each; nothing was created.
    128 + n: signal n stopped the run after a checkpoint (130 for SIGINT, 143 for SIGTERM).

torch is imported only when a run starts, so that `--help` and `--cfg job` are fast.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports
    from spectral_exp.core.signals import end_at_ctrl_c

    end_at_ctrl_c()

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    Job,
    describe,
    help_text,
    list_changed_settings,
    quote,
    requests_sweep,
    resolve_overrides,
    search_arguments,
    write_hydra_folder,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.config.threads import set_waiting_of_threads
from spectral_exp.core.display import print_error, protect_output
from spectral_exp.core.errors import DivergedError, Interrupted, JobError, RunError, UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.parent import die_with_parent
from spectral_exp.core.signals import StopRequest, restore_interruption, unblock_signals
from spectral_exp.distributed.settings import (
    DistributedSettings,
    can_divide_step,
    number_of_processes,
)
from spectral_exp.distributed.world import (
    LAUNCHED,
    SINGLE,
    World,
    address_from_environment,
    end_process,
    is_one_of_several,
    is_under_torchrun,
    world_from_environment,
)
from spectral_exp.runs import layout
from spectral_exp.runs.lock import RunInUseError
from spectral_exp.runs.log import log_to
from spectral_exp.sweeps import workers as sweep_workers
from spectral_exp.training.refusals import describe_refusal

if TYPE_CHECKING:
    from spectral_exp.distributed.launch import Launcher
    from spectral_exp.distributed.rendezvous import Rendezvous

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` and return the exit code.

    Args:
        arguments: None for the arguments of this process, which must then exit with the code.
    """
    # With this variable Hydra raises errors instead of printing them and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if arguments is None:
        protect_output()
        set_waiting_of_threads()
    # The launcher decides for its processes when to stop.
    is_launched = LAUNCHED in os.environ
    with StopRequest(
        immediate=True, delegate=sweep_workers.stop_workers, is_worker=is_launched
    ) as stop:
        try:
            try:
                if is_launched:
                    unblock_signals()
                with restore_interruption():
                    code = _run(sys.argv[1:] if arguments is None else arguments, stop)
            finally:
                stop.settle()  # a signal must not interrupt the message about the end
        except Interrupted as error:
            if error.problem:
                _print_problems(error.problem)
            elif stop.has_raised and not is_launched:
                print_error(f"stopped by {signal.Signals(error.signal_number).name}")
            code = error.exit_code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            code = _exit_code(error)
        if arguments is None:
            stop.finish()
            if is_one_of_several():
                end_process(code)
        return code


def _run(arguments: list[str], stop: StopRequest) -> int:
    """Check the command line, let Hydra run it, and return the exit code."""
    _require_working_directory()
    world = world_from_environment()
    if world.size > 1:
        # A launched process trains one run, which may be a job of a sweep.
        if LAUNCHED in os.environ or not requests_sweep(arguments):
            return _run_as_rank(world, arguments)
        if is_under_torchrun():
            if not world.is_main:
                return 2  # the first process prints the reason
            raise UserError(
                "torchrun starts the processes of one run, and this is a sweep of runs; give the "
                "command without torchrun, with distributed.nproc for the processes of each run"
            )
    command = CommandLine.parse(arguments)
    # Whatever is beside it, such as a study; Hydra would refuse the values of a sweep.
    if {"--help", "-h"}.intersection(command.arguments) and command.config_dir is None:
        print(help_text())
        return 0
    if command.informs_only:
        _run_by_hydra(command, run_job)
        return 0
    if not command.multirun:
        (job,) = command.compose()
        if not job.sweeps:
            return _run_alone(command, job)
    from spectral_exp.sweeps.driver import run_sweep

    return run_sweep(
        replace(command, multirun=True), _run_job_or_launch, lambda: stop.signal_number
    )


def _run_alone(command: CommandLine, job: Job) -> int:
    """Run a job that is no part of a sweep, on one process or several; return the exit code."""
    size = number_of_processes(job.config)
    if size == 1:
        _run_by_hydra(_check(command, job), run_job)
        return 0
    if not can_divide_step(job.config, size):
        _check(command, job)
    with _launch_processes(size, job.config, command.arguments) as launcher:
        launcher.run(_check(command, job).to_json())
    return 0


def prepare_run(arguments: list[str]) -> tuple[Path, Callable[[], None]]:
    """Check the command of one run; return its directory and the function that trains it.

    The function raises `Interrupted` if a signal has stopped the run, which is then saved.

    Raises:
        UserError: the command has mistakes, or is not that of a run.
    """
    _require_working_directory()
    command = CommandLine.parse(arguments)
    if command.informs_only or command.multirun:
        raise UserError("this trains one run; give overrides without --multirun, sweep and help")
    (job,) = command.compose()
    if job.sweeps:
        raise UserError("this trains one run, and a configuration file requests a sweep")
    checked = _check(command, job)
    (named,) = checked.compose()
    place = (str(named.config["outputs"]), str(named.config["experiment_id"]))
    size = number_of_processes(job.config)

    def run_it() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"
        with StopRequest(immediate=True):
            if size == 1:
                _run_by_hydra(checked, run_job)
                return
            with _launch_processes(size, job.config, command.arguments) as launcher:
                launcher.run(checked.to_json())

    return named.run_dir or Path(*place), run_it


@contextmanager
def _launch_processes(
    size: int, config: Mapping[str, Any], arguments: Sequence[str]
) -> Iterator[Launcher]:
    """Start the processes of a run; they load while the caller checks the command.

    Raises:
        Interrupted: a signal stopped the run, which was saved.
        JobError: the run failed.
    """
    from spectral_exp.distributed.launch import Launcher

    names = ("init_timeout_s", "step_timeout_s")
    given = {name: config["distributed"].get(name) for name in names}
    # Other values are reported by the checks.
    times: dict[str, Any] = {
        name: x for name, x in given.items() if isinstance(x, int | float) and 0 < x < 1e9
    }
    with (
        Launcher(size, arguments, DistributedSettings(**times)) as launcher,
        StopRequest(delegate=launcher.stop) as stop,
    ):
        try:
            yield launcher
        except Interrupted as error:
            # Whatever signal this process gets, it sends SIGTERM to the others.
            raise Interrupted(stop.signal_number or error.signal_number, error.problem) from error


def _run_as_rank(world: World, arguments: list[str]) -> int:
    """Run as one of several processes, of which the first one owns the run directory.

    The others print nothing: their messages are in the log of the run, and the first process
    reports their errors.
    """
    from spectral_exp.distributed.ending import send_ending
    from spectral_exp.distributed.group import close_group
    from spectral_exp.distributed.rendezvous import Rendezvous

    if is_under_torchrun():
        die_with_parent(os.getppid(), signal.SIGTERM)
    timeout_s = DistributedSettings().init_timeout_s
    rendezvous = Rendezvous(world, address_from_environment(), timeout_s)
    try:
        if LAUNCHED in os.environ:
            fields = rendezvous.get("shared")
        else:
            fields = rendezvous.share(lambda: _checked_fields(arguments, world))
        command = CommandLine.from_json(fields)
        if world.is_main:
            _run_by_hydra(command, functools.partial(run_job, rendezvous=rendezvous))
        elif not command.informs_only:
            _run_member(command, rendezvous)
    except BaseException as error:
        cause = error.__cause__ if isinstance(error, JobError) else None
        rendezvous.report(cause or error)
        if not world.is_main:
            return _member_exit_code(error)
        if LAUNCHED in os.environ and send_ending(rendezvous.store, error):
            return 1
        raise
    finally:
        close_group()
        rendezvous.leave()
    return 0


def _checked_fields(arguments: list[str], world: World) -> dict[str, Any]:
    """Return the checked command line, for all processes."""
    command = CommandLine.parse(arguments)
    if not command.informs_only:
        (job,) = command.compose()
        command = _check(command, job, world)
    return command.to_json()


def _run_member(command: CommandLine, rendezvous: Rendezvous) -> None:
    """Train as a process beyond the first, without Hydra's run directory."""
    from spectral_exp.config.build import build_member
    from spectral_exp.config.processes import find_shared_run

    config = command.compose()[0].config
    rendezvous.timeout_s = float(config["distributed"]["init_timeout_s"])
    root = find_shared_run(rendezvous)
    with log_to(layout.RunPaths(root).rank_log(rendezvous.world.rank)):
        try:
            with restore_interruption(), build_member(config, rendezvous) as runner:
                runner.run()
        except (UserError, RunError) as error:
            log.error("error: %s", error)
            raise
        except Exception:
            log.exception("the run failed")
            raise


def _member_exit_code(error: BaseException) -> int:
    """Return the exit code of a process beyond the first; a stop is no failure of it."""
    if isinstance(error, KeyboardInterrupt):
        return 0
    return 2 if isinstance(error, UserError) else 1


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working directory has been removed; change to one that exists"
        ) from error


def _exit_code(error: Exception) -> int:
    """Print an error and return its exit code; raise the error if it is a defect."""
    if isinstance(error, JobError):
        _print_problems(str(error))
        return error.exit_code
    if isinstance(error, UserError):
        _print_problems(str(error))
    elif isinstance(error, RunError):  # outside of a job: the processes cannot meet
        _print_problems(str(error))
        return 1
    elif isinstance(error, HydraException | yaml.YAMLError):
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
        # A message may hold a whole command to copy.
        print_error(f"error: {printable(line, 4000)}")


def _check(command: CommandLine, job: Job, world: World = SINGLE) -> CommandLine:
    """Build the run on trial, so that mistakes are reported before any file exists.

    Args:
        command: the command line.
        job: its job.
        world: the processes that train, unless `distributed.nproc` starts them.

    Returns:
        The command line with the run's name.
    """
    from spectral_exp.config.build import check

    if world == SINGLE:
        size = number_of_processes(job.config)
        world = World(size=size, local_size=size)
    problems = check(job.config, job.run_dir, command.arguments, world)
    sampler = (job.config.get("search") or {}).get("sampler")
    if sampler is not None and job.config["resume"] is None:
        problems.append(f"search={sampler} trains several runs; add -m")
    if problems:
        raise UserError("\nerror: ".join(problems))
    trust.remember_choices(job.config, command.config_dir)
    return command.with_run_dir(job)


def _run_by_hydra(command: CommandLine, run_one: Callable[[DictConfig], None]) -> None:
    """Let Hydra run the job of `command` by `run_one`, or print what its flags ask for."""
    failed: list[JobError] = []

    def task(config: DictConfig) -> None:
        try:
            run_one(config)
        except JobError as error:  # Hydra would print it with all overrides
            failed.append(error)

    if command.flags:
        sys.argv[1:] = command.arguments
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(task)()
    else:
        # hydra.main does the same, but composes all twice to find out whether it is a sweep.
        with hydra.initialize_config_dir(
            config_dir=str(CONF_DIR), job_name=JOB_NAME, version_base="1.3"
        ):
            single = GlobalHydra.instance().hydra
            assert single is not None
            single.run(command.config_name, task, list(command.overrides))
    if failed:
        raise failed[0]


def run_job(config: DictConfig, rendezvous: Rendezvous | None = None) -> None:
    """Build and run one job in the run directory that Hydra has made for it.

    Args:
        config: the configuration of the job.
        rendezvous: where this process, the first of several, meets the others.

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
        with restore_interruption():
            changed = list_changed_settings(job, plain)
            why_prune = make_pruner(plain, run_dir, overrides)
            with build(plain, run_dir, overrides, search, changed, rendezvous) as runner:
                runner.validator.why_prune = why_prune
                write_hydra_folder(config, run_dir)
                log.info("run directory: %s", shown)
                try:
                    runner.run()
                finally:
                    missing = runner.results.missing_because
                    log.info("%s", summary(_relative(run_dir), search, missing))
    except RunInUseError as error:  # not logged, because the log belongs to the other process
        raise JobError(f"{shown}: {error}", "busy") from error
    except UserError as error:
        log.error("error: %s", error)
        raise JobError(f"{shown}: {error}", "mistake") from error
    except RunError as error:
        log.error("error: %s", error)
        is_diverged = isinstance(error, DivergedError)
        raise JobError(f"{shown}: {error}", "diverged" if is_diverged else "failed") from error
    except Exception as error:
        if problem := describe_refusal(error, run_dir):
            message = f"{shown}: {problem}"
            log.error("error: %s", message)
            raise JobError(message) from error
        log.exception("the run failed")
        traceback_file = layout.RunPaths(shown).run_log
        message = f"{shown}: {type(error).__name__}: {error} (traceback in {traceback_file})"
        raise JobError(message) from error


def _relative(path: Path) -> Path:
    """Return `path` relative to the working directory, or unchanged if that was removed."""
    try:
        return Path(os.path.relpath(path))
    except FileNotFoundError:
        return path


def _run_job_or_launch(config: DictConfig) -> None:
    """Run one job of a sweep in this process, or start its processes and wait for them.

    Raises:
        Interrupted, JobError: as `run_job`.
    """
    job = HydraConfig.get()
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    size = number_of_processes(plain)
    if size == 1:
        run_job(config)
        return
    run_dir = Path(job.runtime.output_dir)
    if not can_divide_step(plain, size):
        from spectral_exp.config.build import check

        problems = check(plain, run_dir, world=World(size=size, local_size=size))
        raise JobError(f"{_relative(run_dir)}: {'; '.join(problems)}", "mistake")
    overrides = [*resolve_overrides(job, plain), f"hydra.run.dir={quote(str(run_dir))}"]
    command = replace(CommandLine.parse([*search_arguments(job), *overrides]), multirun=False)
    with _launch_processes(size, plain, command.arguments) as launcher:
        launcher.run(command.to_json())


if __name__ == "__main__":
    # Parallel launchers pickle the job by the name of its module, which must not be `__main__`.
    from spectral_exp.train import main as importable_main

    sys.exit(importable_main())
