"""Run the jobs of a sweep: skip what is done, continue what was interrupted, start what is new.

What is to be done follows from the runs themselves at every moment, so any number of launchers
may work on one sweep: each takes the jobs that nobody runs, waits for the others at its end, and
takes over the jobs of those that died.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from spectral_exp.config.command_line import CommandLine, open_composer
from spectral_exp.core.display import print_error
from spectral_exp.core.errors import Interrupted, JobError, UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import format_count
from spectral_exp.monitoring.companion.alerts import Alert, send_at_once
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import read_owner
from spectral_exp.sweeps import workers
from spectral_exp.sweeps.job import Outcome, SweepJob
from spectral_exp.sweeps.ledger import PlannedJob
from spectral_exp.sweeps.plan import Plan
from spectral_exp.sweeps.report import command_to_continue, comparison_text, count_states
from spectral_exp.sweeps.search.jobs import SearchJobs
from spectral_exp.sweeps.search.report import search_text
from spectral_exp.sweeps.states import JobState, read_state

MAX_ATTEMPTS = 3
"""Attempts at a job that fails, within one command."""

_MAX_FUTILE = 6  # launches in a row that fail before a job begins
_POLL_S = 2.0
_ALERT_TIMEOUT_S = 10.0
_FLAGS = ("-m", "--multirun", "--config-name", "-cn", "--config-dir", "-cd")


def run_sweep(
    command: CommandLine,
    run_job: Callable[[DictConfig], None],
    stopped_by: Callable[[], int | None] = lambda: None,
) -> int:
    """Run the jobs of a command line that is a sweep, and print their comparison.

    Args:
        command: the command line.
        run_job: trains one job; it raises `JobError` or `Interrupted`.
        stopped_by: returns the number of the signal that this process has received, if any.

    Returns:
        The exit code: 0 if all jobs are done, 2 if some need a change by the user and no other has
        failed, else 1.

    Raises:
        Interrupted: a signal stopped the sweep; its jobs were saved.
        JobError: the launcher does not work.
        UserError: jobs have mistakes; nothing was begun.
    """
    for flag in command.flags:
        if flag.startswith("-") and flag.partition("=")[0] not in _FLAGS:
            raise UserError(f"{flag} is not a flag of a sweep; choose from {', '.join(_FLAGS)}")
    with open_composer(command.config_name, command.config_dir) as composer:
        plan = Plan(command, composer)
        plan.check_searches()
        search = SearchJobs(plan.folder, plan.searches) if plan.searches else None
        plan.add(plan.requested)
        if search is not None:
            plan.add(search.earlier_jobs(plan.jobs), are_proposals=True)
        driver = Driver(plan, run_job, stopped_by, search)
        had_work = len(plan.done) < len(plan.jobs) or search is not None
        try:
            driver.run()
        except (KeyboardInterrupt, JobError):
            print(f"\nto continue the sweep: {command_to_continue(plan.arguments)}", flush=True)
            raise
    if had_work:
        driver.send_alert()
    return driver.report()


class Driver:
    """Launches the jobs of a plan until none is left.

    Attributes:
        plan: the jobs.
        given_up: hash of a job -> how its last attempt in this command ended.
    """

    def __init__(
        self,
        plan: Plan,
        run_job: Callable[[DictConfig], None],
        stopped_by: Callable[[], int | None],
        search: SearchJobs | None,
    ) -> None:
        self.plan = plan
        self.given_up: dict[str, Outcome] = {}
        self._run_job = run_job
        self._stopped_by = stopped_by
        self._search = search
        self._failures: Counter[str] = Counter()
        self._suspects: set[str] = set()
        self._waits_for: set[str] = set()
        self._n_launched = 0
        self._n_futile = 0

    def run(self) -> None:
        """Run the jobs until each is done or given up.

        Raises:
            Interrupted: a signal stopped the sweep.
        """
        # A new command tries these again, since the code or the machine may be another one.
        to_retry = _find_diverged(self._print_plan())
        while True:
            self._raise_if_stopped([])
            states = self._states()
            for key in _find_diverged(states) - to_retry - self.given_up.keys():
                # In another launcher.
                folder = self.plan.jobs[key].folder
                self.given_up[key] = Outcome(folder, "diverged", states[key].reason)
            pending = [
                key
                for key, state in states.items()
                if state.state not in ("done", "running") and key not in self.given_up
            ]
            if pending:
                for keys in self._batches(pending):
                    self._launch(keys, states)
            elif not self._propose() and not self._wait_for_others(states):
                return

    def send_alert(self) -> None:
        """Send a message to the addresses of `alerts` that the sweep is done."""
        if self.plan.alerts:
            failed = f", {len(self.given_up)} failed" if self.given_up else ""
            text = f"{len(self.plan.jobs) - len(self.given_up)} jobs done{failed}"
            alert = Alert("sweep_done", self.plan.name, text)
            send_at_once(self.plan.alerts, alert, _ALERT_TIMEOUT_S)

    def report(self) -> int:
        """Print failures, comparison and command of the sweep; return the exit code."""
        folder, n_jobs = self.plan.folder, len(self.plan.jobs)
        for key, outcome in self.given_up.items():
            prefix = "" if outcome.folder in outcome.message else f"{folder / outcome.folder}: "
            n_tries = self._failures[key]
            tries = f" (tried {format_count(n_tries, 'time')})" if n_tries > 1 else ""
            print_error(f"error: {prefix}{printable(outcome.message)}{tries}")
        if self.plan.requested:
            print(f"\n{comparison_text(folder)}")
        if self._search is not None:
            print(f"\n{search_text(folder)}")
        print(f"{folder}: {n_jobs - len(self.given_up)} of {format_count(n_jobs, 'job')} done")
        print("The same command continues this sweep, and other values extend it:")
        print(f"  {command_to_continue(self.plan.arguments)}", flush=True)
        if not self.given_up:
            return 0
        endings = {outcome.ending for outcome in self.given_up.values()}
        return 2 if endings == {"mistake"} else 1

    def _print_plan(self) -> dict[str, JobState]:
        states = self._states()
        counts = count_states(state.state for state in states.values())
        found = f"{format_count(len(states), 'job')}, {counts}" if states else "no job yet"
        print(f"{self.plan.folder}: {found}", flush=True)
        return states

    def _states(self) -> dict[str, JobState]:
        """Return the state of every job. What was done once is not read again."""
        states = {}
        for key, job in self.plan.jobs.items():
            is_done = key in self.plan.done
            state = (
                JobState("done")
                if is_done
                else read_state(self.plan.folder / job.folder, self.plan.defaults)
            )
            if state.state == "done":
                self.plan.done.add(key)
                self.given_up.pop(key, None)  # another launcher has succeeded
            states[key] = state
        return states

    # --- launching --------------------------------------------------------------------------------

    def _batches(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Yield the jobs that are launched together; suspects of killing their worker alone."""
        if together := [key for key in keys if key not in self._suspects]:
            yield together
        yield from ([key] for key in keys if key in self._suspects)

    def _launch(self, keys: Sequence[str], states: Mapping[str, JobState]) -> None:
        """Run jobs with the launcher of Hydra, and record how their attempts ended.

        Raises:
            Interrupted: this process was asked to stop.
        """
        jobs = [self.plan.jobs[key] for key in keys]
        steps_before = {key: self._last_step(key) for key in keys}
        failures = {self.plan.jobs[key].folder: states[key].attempt for key in keys}
        outcomes: dict[str, Outcome] = {}
        broken = ""
        try:
            outcomes = {outcome.folder: outcome for outcome in self._call(jobs, failures)}
        except UserError:
            raise
        except Exception as error:
            # A worker was killed, or a folder cannot be made. The states of the runs show which
            # jobs are left.
            broken = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        self._raise_if_stopped(outcomes.values())
        if broken:
            self._warn_of_launcher(broken, {key: states[key] for key in keys})
        for key, job in zip(keys, jobs, strict=True):
            outcome = outcomes.get(job.folder) or Outcome(job.folder, "died", broken)
            has_progressed = self._last_step(key) > steps_before[key]
            self._record(key, outcome, has_progressed, is_alone=len(jobs) == 1)
        workers.replace_workers()
        if all(outcome.ending == "busy" for outcome in outcomes.values()) and not broken:
            time.sleep(_POLL_S)  # also if the state of a run does not show that it is in use

    def _warn_of_launcher(self, reason: str, before: Mapping[str, JobState]) -> None:
        """Warn that a launcher failed.

        Raises:
            JobError: it has failed several times in a row before a job began.
        """
        now = self._states()
        has_begun = any(now[key] != state for key, state in before.items())
        self._n_futile = 0 if has_begun else self._n_futile + 1
        if self._n_futile >= _MAX_FUTILE:
            raise JobError(f"the launcher fails before any job begins: {reason}")
        print_error(f"warning: the launcher failed: {printable(reason)}")

    def _raise_if_stopped(self, outcomes: Iterable[Outcome]) -> None:
        """Raise Interrupted if this process was asked to stop while workers saved their jobs."""
        if (signal_number := self._stopped_by()) is not None:
            unsaved = [outcome.message for outcome in outcomes if outcome.ending == "unsaved"]
            raise Interrupted(signal_number, "\nerror: ".join(unsaved))

    def _call(self, jobs: Sequence[PlannedJob], failures: Mapping[str, int]) -> list[Outcome]:
        """Call the launcher of Hydra and return how each attempt ended."""
        plan = self.plan
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        workers.prepare_joblib()
        config = hydra.compose_config(
            config_name=plan.config_name,
            overrides=[*plan.hydra_overrides, *plan.job_arguments(jobs[0])],
            run_mode=RunMode.MULTIRUN,
        )
        callbacks = Callbacks(config)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
            task_function=SweepJob(self._run_job, plan.defaults, failures),
            config=config,
        )
        callbacks.on_multirun_start(config=config, config_name=plan.config_name)
        first, self._n_launched = self._n_launched, self._n_launched + len(jobs)
        returned = launcher.launch([plan.job_arguments(job) for job in jobs], first)
        callbacks.on_multirun_end(config=config, config_name=plan.config_name)
        return [job.return_value for job in returned]

    def _record(self, key: str, outcome: Outcome, has_progressed: bool, is_alone: bool) -> None:
        """Decide whether a job is tried again after an attempt.

        A mistake of the user and a loss that is no longer finite would come again.
        What a signal or a dead worker interrupted is continued without limit while it progresses.
        If the launcher failed, any job of its batch may be the reason, so they are tried alone.
        """
        if outcome.ending == "done":
            self.plan.done.add(key)
        elif outcome.ending in ("mistake", "diverged"):
            self.given_up[key] = outcome
        elif outcome.ending == "died" and not is_alone:
            self._suspects.add(key)
        elif outcome.ending in ("failed", "unsaved") or (
            outcome.ending in ("interrupted", "died") and not has_progressed
        ):
            self._failures[key] += 1
            if self._failures[key] >= MAX_ATTEMPTS:
                self.given_up[key] = outcome
            else:
                attempt = f"attempt {self._failures[key] + 1} of {MAX_ATTEMPTS} follows"
                print(f"{outcome.folder}: {printable(outcome.message)}; {attempt}", flush=True)

    def _last_step(self, key: str) -> int:
        """Return the step of a job's newest checkpoint, or 0."""
        try:
            paths = RunPaths(self.plan.folder / self.plan.jobs[key].folder)
            return max(paths.checkpoint_steps(), default=0)
        except UserError:
            return 0

    # --- other launchers, and searches ------------------------------------------------------------

    def _wait_for_others(self, states: Mapping[str, JobState]) -> bool:
        """Wait a moment if jobs run elsewhere; return whether some do."""
        running = {key for key, state in states.items() if state.state == "running"}
        for key in sorted(running - self._waits_for):
            run = self.plan.folder / self.plan.jobs[key].folder
            owner = read_owner(run)
            place = f" in process {owner['pid']} on {owner['host']}" if owner else ""
            print(f"waiting for {run.name}, which runs{place}", flush=True)
        self._waits_for = running
        if running:
            time.sleep(_POLL_S)
        return bool(running)

    def _propose(self) -> bool:
        """Add the jobs that a search proposes; return whether there are some."""
        if self._search is None:
            return False
        with self.plan.lock:
            proposed = self._search.propose(self._n_workers, self.plan.jobs)
            return bool(self.plan.add(proposed, are_proposals=True))

    @cached_property
    def _n_workers(self) -> int:
        """The number of jobs that the launcher runs at the same time, as far as it is known."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        launcher = hydra.compose_config(
            config_name=self.plan.config_name,
            overrides=self.plan.hydra_overrides,
            run_mode=RunMode.MULTIRUN,
        ).hydra.launcher
        count = int(launcher.get("n_jobs") or launcher.get("array_parallelism") or 1)
        # joblib counts down from the number of cores: -1 is all of them.
        return count if count > 0 else max(1, (os.cpu_count() or 1) + 1 + count)


def _find_diverged(states: Mapping[str, JobState]) -> set[str]:
    """Return the keys of jobs whose loss was no longer finite."""
    return {key for key, state in states.items() if state.status == "diverged"}
