"""The training loop of a run.

Tensor letters: B batch, T tokens.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spectral_exp.core.clock import Clock
from spectral_exp.core.errors import DivergedError, Interrupted, RunError
from spectral_exp.core.signals import StopRequest
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import Backup, CheckpointManager, ConfigTracker, MetricsLogger
from spectral_exp.monitoring.component import Observer
from spectral_exp.monitoring.run_files import UnsyncedFiles
from spectral_exp.monitoring.visualization.manager import TextSample, VisualizationManager
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import LostRunError
from spectral_exp.runs.status import Status
from spectral_exp.training.budget import Budget
from spectral_exp.training.cautions import warn_of_limits
from spectral_exp.training.contracts import Data, Schedule
from spectral_exp.training.divided import DividedState
from spectral_exp.training.final_weights import FinalWeights
from spectral_exp.training.history import History
from spectral_exp.training.observers import Observers
from spectral_exp.training.profiling import StepProfiler
from spectral_exp.training.progress import Progress
from spectral_exp.training.results import LAST_PLOTS, RunResults
from spectral_exp.training.resume import load_newest_checkpoint, refuse_foreign_checkpoint
from spectral_exp.training.saved_state import SavedState
from spectral_exp.training.seeding import process_settings
from spectral_exp.training.settings import TrainingSettings as TrainingSettings
from spectral_exp.training.speed import SpeedWatch
from spectral_exp.training.state import StepReport, TrainState
from spectral_exp.training.step import Stepper
from spectral_exp.training.unsaved import (
    describe_lost_steps,
    describe_missing_backup,
    describe_steps_at_risk,
)
from spectral_exp.training.usage import Usage
from spectral_exp.training.validation import Validator

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """Trains a model, continues interrupted runs, and calls the monitoring components.

    All parts are passed in: the runner depends neither on configuration files nor on the kind of
    model, optimizer, loss or text.

    Attributes:
        budget: what ends the run.
        model: the plain model, which is saved.
        compute: the model as it is called, compiled or not.
        batches: (step, micro_batch) -> inputs and targets, each (B, T) on the CPU; a pure function.
        windows: fixed validation windows of inputs, targets and bytes of the targets.
        test_windows: all windows of the test text; None without a test text.
        sample: step -> (prompt, text that the model wrote after it).
        plot_sample: a sentence for the plots of attention.
        token_text: token -> printable text.
        config: plain resolved configuration, stored with every checkpoint.
        companion: starts the process for mirrors, alerts and system metrics, and lets it end.
        observers: name in the configuration -> component beyond the built-in five.
        check_owner: raises LostRunError if the run directory no longer belongs to this process.
        ranks: the processes that train together; all but the first have disabled components.
        trained: the model and the optimizer that are trained, if `model` and `optimizer` are copies
            of them, which `ranks` brings up to date.
    """

    paths: RunPaths
    settings: TrainingSettings
    budget: Budget
    seed: int
    threads: int | None
    device: torch.device
    model: nn.Module
    compute: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: nn.Module
    batches: Callable[[int, int], tuple[Tensor, Tensor]]
    windows: Any
    test_windows: Any
    data: Data
    sample: Callable[[int], tuple[str, str]]
    plot_sample: TextSample
    token_text: Callable[[int], str]
    config: dict[str, Any]
    backup: Backup
    checkpoint: CheckpointManager
    metrics: MetricsLogger
    visualization: VisualizationManager
    tracker: ConfigTracker
    companion: AbstractContextManager[object] = field(default_factory=nullcontext)
    observers: Mapping[str, Observer] = field(default_factory=dict)
    check_owner: Callable[[], None] = lambda: None
    ranks: Ranks = field(default_factory=Ranks)
    trained: tuple[nn.Module, torch.optim.Optimizer] | None = None
    clock: Clock = field(init=False, default_factory=Clock)

    def __post_init__(self) -> None:
        self.state = TrainState()
        trained_model, trained_optimizer = self.trained or (self.model, self.optimizer)
        self.usage = Usage(self.device, self.ranks)
        self._speed = SpeedWatch(self.device)
        self.stepper = Stepper(
            settings=self.settings,
            budget=self.budget,
            usage=self.usage,
            seed=self.seed,
            device=self.device,
            model=trained_model,
            compute=self.compute,
            optimizer=trained_optimizer,
            schedule=self.schedule,
            loss=self.loss,
            batches=self.batches,
            state=self.state,
            ranks=self.ranks,
        )
        self._saved = SavedState(self.config, self.model, self.optimizer, self.loss, self.stepper)
        self.results = self._make_results()
        self.validator = Validator(
            settings=self.settings,
            budget=self.budget,
            device=self.device,
            model=trained_model,
            forward=self.stepper.forward,
            windows=self.windows,
            data=self.data,
            sample=self.sample,
            state=self.state,
            results=self.results,
            metrics=self.metrics,
            clock=self.clock,
            ranks=self.ranks,
        )
        self._final_weights = FinalWeights(
            settings=self.settings,
            budget=self.budget,
            state=self.state,
            device=self.device,
            model=self.model,
            checkpoint=self.checkpoint,
            stepper=self.stepper,
            validator=self.validator,
            results=self.results,
            test_windows=self.test_windows,
            clock=self.clock,
            ranks=self.ranks,
        )
        self._observer_calls = Observers(self.observers, self.clock, self.check_owner)
        self.history = History(self._observer_calls.machine_prefixes)
        self._divided = DividedState(self.ranks, self.checkpoint, self.clock)
        self._reported_saves = self._plotted_step = 0
        self._files = UnsyncedFiles(self.paths.root)
        self._problems: list[str] = []
        self.checkpoint.before_write = self._require_owner
        self.checkpoint.before_commit = self._before_commit
        self.ranks.main_may_wait = self.checkpoint.exceeds_risk

    def _make_results(self) -> RunResults:
        texts = {"val": self.windows, "test": self.test_windows}
        return RunResults(
            paths=self.paths,
            state=self.state,
            data=self.data,
            budget=self.budget,
            usage=self.usage,
            texts={name: text for name, text in texts.items() if text is not None},
            clock=self.clock,
            tracker=self.tracker,
            checkpoint=self.checkpoint,
            visualization=self.visualization,
            component_names=tuple(self.observers),
            ranks=self.ranks,
        )

    def run(self) -> TrainState:
        """Train from the newest checkpoint, or from the start, to the end; return the state.

        Raises:
            Interrupted: one of `training.stop_signals` stopped training after a save;
                `resume` continues it.
            RunError: training cannot continue (the loss is no longer finite), or its last state
                could not be saved or backed up.
        """
        with (
            process_settings(self.threads, self.settings.deterministic),
            StopRequest(self.settings.stop_signals) as stop,
            self.ranks.translate_errors(),
            self.companion,
        ):
            self.ranks.stop = stop
            self.restore(refuse_foreign=True)
            with self._components():
                if self.ranks.from_main(self._is_over() and self.results.are_complete()):
                    self.ranks.leave()
                    limits = self.budget.describe()
                    log.info("nothing left to do: the run has finished (%s)", limits)
                    self.results.missing_because = ""
                else:
                    if self.ranks.world.is_main and self.state.step == 0:
                        warn_of_limits(self.settings, self.stepper, self.windows, self.data)
                    self._train_and_record()
        problem = "; ".join(self._problems)
        if signal_number := self.ranks.stop_signal or stop.signal_number:
            if problem:
                log.error("error: %s", problem)
            raise Interrupted(signal_number, problem)
        if problem:
            raise RunError(problem)
        return self.state

    def _components(self) -> ExitStack:
        """Return a context that closes all components at its end, the last registered one first."""
        with ExitStack() as components:
            # The backup closes last, because it copies the files of the other components.
            components.push(self._close_backup)
            components.push(self.companion)
            components.push(self._close_metrics)
            for part in (self.visualization, *self.observers.values()):
                components.callback(part.close)
            components.callback(self.checkpoint.close)
            return components.pop_all()

    def _train_and_record(self) -> None:
        """Train, and write the results even if training fails."""
        try:
            with self.ranks.translate_errors():
                self._train()
                if self._divided.is_at_risk(self.state.step):
                    self.save(self.state.best_step == self.state.step)
                # What process 0 needs when the other processes have ended.
                self._divided.collect(moments=not self._divided.saves_shards, gradients=True)
                self._final_weights.test_together()
                self.usage.leave()
            self._finish()
        except LostRunError:
            self.results.missing_because = "the run directory no longer belongs to this process"
            # Before the checkpoint component closes: its last save must not start a backup.
            self.backup.abandon()
            raise
        except KeyboardInterrupt:
            self._write_results("interrupted")
            raise
        except BaseException as error:
            status: Status = "diverged" if isinstance(error, DivergedError) else "failed"
            self._write_results(status, error=f"{type(error).__name__}: {error}")
            raise

    def _train(self) -> None:
        first_step = self.state.step + 1
        profiler = StepProfiler(self.settings.profile_steps, self.paths.profile)
        with closing(self._progress()) as progress, profiler:
            while not self._is_over() and self.ranks.stop_signal is None:
                step = self.state.step + 1
                report = self.stepper.take_timed_step(step)
                if step == first_step:
                    self.checkpoint.prepare(self.model, self.optimizer)
                profiler.step()
                shows_model, saves, is_at_risk = self.ranks.decide(
                    self.visualization.should_visualize(step) or self._observer_calls.is_due(step),
                    self.checkpoint.should_checkpoint(step),
                    self.checkpoint.exceeds_risk(step),
                )
                validates = self.validator.should_validate(step)
                if validates:
                    self.stepper.read_reports()  # before the time of the validation begins
                if shows_model or validates:
                    self._divided.collect(gradients=shows_model)
                values: dict[str, float] = {}
                improved = False
                if self.metrics.should_log(step):
                    values |= self._training_metrics(report)
                if validates:
                    evaluation = self.validator.validate(step)
                    improved = self.validator.record_best(evaluation)
                    self.validator.prune(evaluation)
                    values |= evaluation.metrics()
                if self.observers:
                    values |= self._observer_calls.observe(step, self.model)
                if values:
                    self._log(step, values)
                if self.visualization.should_visualize(step):
                    self._plot(step)
                if improved:
                    self.save(is_best=True)
                elif saves:
                    # While steps are skipped, the newest checkpoint is better than the current
                    # state, unless a validation has just shown otherwise.
                    if self.stepper.is_skipping():
                        self.checkpoint.postpone(step)
                    else:
                        self.save()
                with self.ranks.waiting_for_main(step):
                    if is_at_risk:
                        self._save_or_stop()
                progress.update(step, values)

    def _progress(self) -> Progress:
        interval = self.checkpoint.save_interval if self.checkpoint.enabled else None
        return Progress(
            self.budget.last_step,
            interval if isinstance(interval, int) else None,
            share=lambda step: self.budget.fraction(step, self.state.train_s),
            compiles=self.settings.compile,
        )

    def _is_over(self) -> bool:
        return self.state.end(self.budget) != "interrupted"

    def _training_metrics(self, report: StepReport) -> dict[str, float]:
        step = self.state.step
        values = self.stepper.metrics(report)
        rate = values["tokens_per_s"]
        if slowdown := self._speed.check(rate, self.state.train_s):
            values["slowdown"] = slowdown
            if slow := self._speed.warning(step, rate, slowdown):
                log.warning("%s", slow)
                self.metrics.log_message(slow)
        if self.checkpoint.enabled:
            values["steps_at_risk"] = self.checkpoint.steps_at_risk(step)
            # The cost of each durable checkpoint is logged once.
            if len(self.checkpoint.reports) != self._reported_saves:
                self._reported_saves = len(self.checkpoint.reports)
                values |= self.checkpoint.metrics()
        if self.backup.enabled:
            values["backup_steps_behind"] = step - (self.backup.stored_step or 0)
        if self.state.bad_steps:
            values["bad_steps"] = self.state.bad_steps
        return values

    def _log(self, step: int, values: dict[str, float]) -> None:
        self.check_owner()
        start_s = time.perf_counter()
        self.metrics.log_metrics(step, values)
        self.clock.add("metrics", time.perf_counter() - start_s)
        self.history.add(step, values)

    # --- plots and checkpoints -------------------------------------------------------------------

    def _plot(self, step: int) -> None:
        self.check_owner()
        self._plotted_step = step
        self.stepper.read_reports()
        with self.clock.measure("visualization"):
            self.visualization.generate_training_plots(step, self.state.loss_history, self.history)
            self.visualization.generate_model_plots(
                step, self.model, sample=self.plot_sample, token_labels=self.token_text
            )

    def save(self, is_best: bool = False) -> None:
        """Save a checkpoint. Raises LostRunError if the directory belongs to another process."""
        self.check_owner()
        if not self._divided.saves_shards:
            self._divided.collect(moments=True)
        state = self._saved.collect(is_best)
        with self.clock.measure("checkpoint"):
            if self._divided.saves_shards:
                self._divided.save_shards(state, self.paths.root)
            else:
                self.checkpoint.save_checkpoint(**vars(state))

    def _save_last(self) -> str:
        """Save the last state if it is not durable; return the problem and its remedy, or ""."""
        checkpoint, step = self.checkpoint, self.state.step
        if not checkpoint.enabled:
            return ""
        self.check_owner()
        state = self._saved.collect(is_best=self.state.best_step == step)
        with self.clock.measure("checkpoint"):
            # Shards have been saved before the other processes ended.
            if checkpoint.close() if self._divided.saves_shards else checkpoint.save_last(state):
                return ""
        return describe_lost_steps(checkpoint, step)

    def _require_owner(self) -> None:
        """Raise OSError if the run is lost; the thread that writes checkpoints calls this."""
        try:
            self.check_owner()
        except LostRunError as error:
            raise OSError(errno.ENOENT, "the run directory was moved or removed") from error

    def _before_commit(self) -> None:
        self._require_owner()
        self.sync()

    def sync(self) -> None:
        """Make metrics and small files durable, before the checkpoint that depends on them."""
        self.metrics.sync()
        self._observer_calls.sync()
        self._files.sync()

    def _save_or_stop(self) -> None:
        """Save a checkpoint and wait for it. Raises RunError if too many steps stay at risk."""
        with self.clock.measure("checkpoint"):
            self.checkpoint.close()
        self.save(is_best=self.state.best_step == self.state.step)
        with self.clock.measure("checkpoint"):
            self.checkpoint.close()
        if self.checkpoint.exceeds_risk(self.state.step):
            raise RunError(describe_steps_at_risk(self.checkpoint, self.state.step))

    # --- start of the run ------------------------------------------------------------------------

    def restore(self, *, refuse_foreign: bool = False) -> None:
        """Continue from the newest intact checkpoint; without one, start at step 1.

        Args:
            refuse_foreign: raise a UserError if the checkpoint holds another configuration.
        """
        found = load_newest_checkpoint(self.checkpoint, self.ranks)
        if found is not None:
            if refuse_foreign:
                refuse_foreign_checkpoint(found["step"], found["config"], self.config, self.paths)
            self._saved.load(found)
            best = self.state.best_step
            if best is not None and self.paths.checkpoint_file(best).is_file():
                # The process may have been killed between the save and its link.
                self.checkpoint.mark_best(best)
            self.state.stopped_early = self.validator.is_out_of_patience()
            # The budget may be larger now. It ends a run only after a step, which is validated.
            self.state.is_out_of_time &= self.budget.has_reached_time(self.state.train_s)
            if not self.ranks.from_main(int(self.validator.why_prune is not None)):
                self.state.pruned_because = ""
            log.info("resuming after step %d", self.state.step)
            if change := self.stepper.describe_changed_rate():
                log.warning("%s", change)
                self.metrics.log_message(change)
        self.ranks.refuse_different_weights(self.state.step, self.model)
        # A run that was killed after its last save and before its results may lack its last plots.
        self._plotted_step = 0 if self._is_over() else self.state.step
        self.results.train_s_before = self.state.train_s
        self._observer_calls.cut_back(self.state.step)
        self.history.restore(self.metrics, self.state.step)
        first, limits = self.state.step + 1, self.budget.describe()
        self.metrics.log_message(f"training from step {first}, limited by {limits}")

    # --- end of the run --------------------------------------------------------------------------

    def _finish(self) -> None:
        """Save and plot the last state and write the results; add failures to the problems."""
        self.stepper.read_reports()
        state = self.state
        status = state.end(self.budget)
        problem = self._save_last()
        if state.step > self._plotted_step:
            self._plot(state.step)
        with self.clock.measure(LAST_PLOTS):
            self.visualization.close()
        if self.ranks.world.is_main:
            self._final_weights.settle()
        self.validator.restore_sample()
        self._write_results("not_saved" if problem else status, problem or None)
        if problem := problem or self.results.problem():
            self._problems.append(problem)

    def _write_results(self, status: Status, error: str | None = None) -> None:
        self.check_owner()
        self.results.write(status, error)

    def _close_metrics(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Closing writes, and a lost run directory must not be changed.
        if not isinstance(error, LostRunError):
            self.metrics.close()

    def _close_backup(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Complete the backup; if that fails, add its missing steps to the problems."""
        if isinstance(error, LostRunError):
            self.backup.abandon()
            return
        # After a KeyboardInterrupt the process must not wait for storage.
        if isinstance(error, KeyboardInterrupt) or self.backup.close():
            return
        self._problems.append(describe_missing_backup(self.backup, self.paths, self.state.step))
