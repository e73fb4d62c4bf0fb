"""The training loop of a run.

Tensor letters: B batch, T tokens.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectral_exp.core.clock import Clock
from spectral_exp.core.errors import Interrupted, RunError, UserError
from spectral_exp.core.signals import StopRequest
from spectral_exp.core.wording import counted
from spectral_exp.monitoring import Backup, CheckpointManager, ConfigTracker, MetricsLogger
from spectral_exp.monitoring.run_files import UnsyncedFiles
from spectral_exp.monitoring.visualization.manager import TextSample, VisualizationManager
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import LostRunError
from spectral_exp.runs.record import read_results
from spectral_exp.training.contracts import Data, Drawing, Measured, Schedule, Scheduled, Skipping
from spectral_exp.training.evaluation import Evaluation, evaluate
from spectral_exp.training.profiling import StepProfiler
from spectral_exp.training.progress import Progress
from spectral_exp.training.resume import refuse_foreign_checkpoint
from spectral_exp.training.seeding import process_settings, restore_rng_state, rng_state, seed_generators, step_seed
from spectral_exp.training.settings import TrainingSettings as TrainingSettings
from spectral_exp.training.state import Status, StepReport, TrainState

log = logging.getLogger(__name__)


@dataclass
class Runner:
    """Trains a model to the end, through interruptions, and keeps the four monitoring components at work.

    All parts come ready-made: the runner knows neither configuration files nor which model, optimizer, loss or text it
    works with.

    Attributes:
        compute: the model as it is called, compiled or not; `model` is the plain one that is saved.
        batches: (step, micro_step) -> inputs and targets, each (B, T) on the CPU; a pure function of its arguments.
        windows: fixed validation windows of (inputs, targets, bytes of the targets).
        sample: step -> (prompt, text that the model wrote after it).
        config: plain resolved configuration, stored with every checkpoint.
        check_owner: raises LostRunError once the run directory is no longer this process's.
        plot_sample: a real sentence for the plots of attention, and the printable text of any token.
    """

    paths: RunPaths
    settings: TrainingSettings
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
    check_owner: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.state = TrainState()
        self.clock = Clock()
        self.samples: list[dict[str, Any]] = []
        self.history: dict[str, tuple[array[int], array[float]]] = {}
        self._peak_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        # What a step would otherwise look for anew.
        self._parameters = list(self.model.parameters())
        modules = [*self.model.modules(), *self.loss.modules()]
        self._scheduled = [module for module in modules if isinstance(module, Scheduled)]
        # Seeding the generators costs more than most of what a step does beside its arithmetic. Whoever does not tell
        # may draw; optimizers do not.
        silent = [isinstance(part, Drawing) and not part.draws_random_numbers for part in (self.model, self.loss)]
        self._draws = not all(silent)
        self._measured = [part for part in (self.model, self.optimizer) if isinstance(part, Measured)]
        self._forward, self._objective = self._logits_of, self._loss_of
        if self.settings.precision == "bf16":
            autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
            self._forward, self._objective = autocast(self._forward), autocast(self._objective)
        # Whether steps are told apart on the device, whose answers are read when something is due.
        optimizer = self.optimizer
        self._lags = self.device.type == "cuda" and isinstance(optimizer, Skipping) and optimizer.skips_on_device
        self._moves = self.device.type != "cpu"
        self._unread: list[StepReport] = []
        self._read = (math.nan, math.nan)
        self._restored_step: int | None = None
        self._reported_saves = 0
        self._logged = (0.0, 0)
        self._started_s = time.perf_counter()
        self._files = UnsyncedFiles(self.paths.root)
        self.checkpoint.before_write, self.checkpoint.before_commit = self._require_owner, self._before_commit
        self.no_results = "training did not begin"
        """Why this attempt has written no results; empty once it has."""

    def run(self) -> TrainState:
        """Train from the newest checkpoint, or from the start, to the end; returns the final state.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the run was saved first and continues by `resume`.
            RunError: training cannot go on (loss no longer finite), or its last state could not be saved or backed up.
        """
        problem = ""
        with (
            process_settings(self.threads, self.settings.deterministic),
            StopRequest(self.settings.stop_signals) as stop,
        ):
            self.restore(refuse_foreign=True)
            if self._finished_before():
                log.info("nothing left to do: the run has finished (training.max_steps=%d)", self.settings.max_steps)
                self.no_results = ""
                if problem := self._close_backup():
                    raise RunError(problem)
                return self.state
            try:
                self._train(stop)
                problem = self._finish()
            except LostRunError:
                self.no_results = "the run directory is not this process's any more"
                self.backup.abandon()
                raise
            except KeyboardInterrupt:
                self._write_results("interrupted")
                raise
            except BaseException as error:
                self._write_results("failed", error=f"{type(error).__name__}: {error}")
                self.checkpoint.close()
                self.backup.close()
                raise
            finally:
                self.checkpoint.close()
                self.visualization.close()
            problem = "; ".join(filter(None, [problem, self._close_backup()]))
        if stop.signal_number is not None:
            if problem:
                log.error("error: %s", problem)
            raise Interrupted(stop.signal_number, problem)
        if problem:
            raise RunError(problem)
        return self.state

    def _train(self, stop: StopRequest) -> None:
        state, settings = self.state, self.settings
        first_step = state.step + 1
        interval = self.checkpoint.save_interval if self.checkpoint.enabled else None
        progress = Progress(settings.max_steps, interval if isinstance(interval, int) else None)
        with closing(progress), StepProfiler(settings.profile_steps, self.paths.root / "profile") as profiler:
            while state.step < settings.max_steps and not state.stopped_early and stop.signal_number is None:
                step = state.step + 1
                start_s = time.perf_counter()
                report = self.train_step(step)
                self.advance(report, time.perf_counter() - start_s)
                if step == first_step:
                    self.checkpoint.prepare(self.model, self.optimizer)
                profiler.step()
                values: dict[str, float] = {}
                improved = False
                if self.metrics.should_log(step):
                    values |= self._training_metrics(report)
                if step % settings.eval_interval == 0 or step == settings.max_steps:
                    evaluation = self._evaluate(step)
                    improved = self._remember_best(evaluation)
                    values |= evaluation.metrics()
                if values:
                    self._log(step, values)
                if self.visualization.should_visualize(step):
                    self._plot(step)
                # While steps are being skipped, what is on disk is better than what would replace it.
                if (self.checkpoint.should_checkpoint(step) or improved) and not self._skipping():
                    self.save(improved)
                if self.checkpoint.exceeds_risk(step):
                    self._save_or_stop()
                progress.update(step, values)

    def train_step(self, step: int) -> StepReport:
        """One optimizer update: gradients averaged over all micro-batches, clipped, and applied unless non-finite."""
        settings, optimizer = self.settings, self.optimizer
        if self._draws:
            seed_generators(step_seed(self.seed, step), self.device)
        self._set_schedules(step)
        parts: list[Mapping[str, Tensor]] = []
        tokens = 0
        for micro_step in range(settings.grad_accum_steps):
            x, y = self.batches(1 if settings.overfit_one_batch else step, micro_step)
            if self._moves:
                x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            objective, found = self._objective(x, y)
            if settings.grad_accum_steps > 1:
                objective = objective / settings.grad_accum_steps
            objective.backward()  # type: ignore[no-untyped-call]
            parts.append(found)
            tokens += y.numel()
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, settings.grad_clip or math.inf)
        loss = parts[0]["loss"] if len(parts) == 1 else _mean(parts, "loss")
        read: tuple[float, float] | None = None
        if self._lags:
            cast(Skipping, optimizer).step_if(torch.isfinite(loss) & torch.isfinite(grad_norm))
        else:
            read = (loss.item(), grad_norm.item())
            if math.isfinite(read[0]) and math.isfinite(read[1]):
                optimizer.step()
        optimizer.zero_grad()
        return StepReport(loss, tokens, optimizer.param_groups[0]["lr"], grad_norm, parts, read)

    def _logits_of(self, x: Tensor) -> Tensor:
        logits: Tensor = self.compute(x)
        return logits

    def _loss_of(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        objective, parts = self.loss(self.compute(x), y)
        return objective, parts

    def _set_schedules(self, step: int) -> None:
        factor = self.schedule.factor(step)
        for group, peak in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        for module in self._scheduled:
            module.set_progress(step / self.settings.max_steps)

    def advance(self, report: StepReport, seconds: float = 0.0) -> None:
        """Take a step that took `seconds` into the state. Raises RunError after too many skipped ones in a row."""
        state = self.state
        state.step += 1
        state.train_s += seconds
        if report.read is not None:
            self._take_in(state.step, report.tokens, *report.read)
            return
        self._unread.append(report)
        # A run that has to be given up ends at that very step, also where reports are read late.
        if state.bad_in_a_row + len(self._unread) >= self.settings.max_bad_steps:
            self.read_reports()

    def read_reports(self, also: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Read what the latest steps found, in one transfer, and take it into the state; the values of `also` as well.

        Raises:
            RunError: too many steps in a row were skipped.
        """
        if not (self._unread or also):
            return {}
        reports, self._unread = self._unread, []
        names, wanted = list(also or {}), list((also or {}).values())
        n = len(reports)
        values = _on_host([*(r.loss for r in reports), *(r.grad_norm for r in reports), *wanted])
        for step, report, loss, grad_norm in zip(
            range(self.state.step - n + 1, self.state.step + 1), reports, values[:n], values[n : 2 * n], strict=True
        ):
            self._take_in(step, report.tokens, loss, grad_norm)
        return dict(zip(names, values[2 * n :], strict=True))

    def _take_in(self, step: int, tokens: int, loss: float, grad_norm: float) -> None:
        state = self.state
        self._read = (loss, grad_norm)
        state.loss_history.append(loss)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            state.tokens += tokens
            state.bad_in_a_row = 0
            return
        state.bad_steps += 1
        state.bad_in_a_row += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", step, loss, grad_norm)
        if state.bad_in_a_row >= self.settings.max_bad_steps:
            raise RunError(
                f"{counted(state.bad_in_a_row, 'step')} in a row had a non-finite loss or gradient, the last of "
                f"them step {step} (training.max_bad_steps={self.settings.max_bad_steps}); the weights are those "
                f"of step {step - state.bad_in_a_row}. In a new run, lower "
                "optimizer.learning_rate, lengthen schedule.warmup_steps or set training.grad_clip"
            )

    def _skipping(self) -> bool:
        """Whether the last step was skipped."""
        self.read_reports()
        return self.state.bad_in_a_row > 0

    def _training_metrics(self, report: StepReport) -> dict[str, float]:
        before_s, before_step = self._logged
        train_s, step = self.state.train_s, self.state.step
        self._logged = (train_s, step)
        measured = {name: _mean(report.parts, name) for name in report.parts[0] if name != "loss"}
        for part in self._measured:
            measured |= part.metrics()
        extra = self.read_reports(also=measured)
        loss, grad_norm = self._read
        values = {"loss": loss, "learning_rate": report.learning_rate, "grad_norm": grad_norm}
        values["tokens_per_s"] = (step - before_step) * report.tokens / (train_s - before_s)
        values |= extra
        if self.checkpoint.enabled:
            values["steps_at_risk"] = self.checkpoint.steps_at_risk(step)
            values |= self._costs_of_new_saves()
        if self.backup.enabled:
            values["backup_steps_behind"] = step - (self.backup.stored_step or 0)
        if self.state.bad_steps:
            values["bad_steps"] = self.state.bad_steps
        return values

    def _costs_of_new_saves(self) -> dict[str, float]:
        """What the newest durable checkpoint cost, once for each."""
        if len(self.checkpoint.reports) == self._reported_saves:
            return {}
        self._reported_saves = len(self.checkpoint.reports)
        return self.checkpoint.metrics()

    def _log(self, step: int, values: dict[str, float]) -> None:
        self.check_owner()
        start_s = time.perf_counter()
        self.metrics.log_metrics(step, values)
        self.clock.add("metrics", time.perf_counter() - start_s)
        self._keep_history(step, values)

    def _keep_history(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name == "steps_at_risk" or name.startswith(("backup_", "checkpoint_")):
                continue  # about the machine, not about training
            if name not in self.history:
                self.history[name] = (array("q"), array("d"))
            steps, series = self.history[name]
            steps.append(step)
            series.append(value)

    def _evaluate(self, step: int) -> Evaluation:
        with self.clock.measure("evaluation"):
            evaluation = evaluate(self.model, self.windows, self.device, self._forward)
            self.state.last_metrics = {**evaluation.metrics(), "val_step": step}
            # A model whose weights are no longer finite has nothing to say.
            if self.settings.sample_tokens and math.isfinite(evaluation.val_loss):
                self._write_sample(step)
        floor = self.data.entropy_bits_per_byte
        if floor is not None and evaluation.val_bpb < floor - 4 * evaluation.standard_error_bpb:
            log.error(
                "LEAK: val_bpb %.4f at step %d lies below the entropy rate of the source, %.4f bits per byte. No model "
                "can do that honestly: it sees what it is to predict, or validation text was trained on",
                evaluation.val_bpb, step, floor,
            )  # fmt: skip
        return evaluation

    def _write_sample(self, step: int) -> None:
        prompt, text = self.sample(step)
        self.samples = [{"step": step, "prompt": prompt, "text": text}]
        self.metrics.log_message(f"sample at step {step}: {text!r}")

    def _remember_best(self, evaluation: Evaluation) -> bool:
        state = self.state
        best = math.inf if state.best_val_loss is None else state.best_val_loss
        if evaluation.val_loss < best - self.settings.min_delta:
            state.best_val_loss, state.best_val_bpb = evaluation.val_loss, evaluation.val_bpb
            state.best_step, state.evals_since_best = state.step, 0
            return True
        state.evals_since_best += 1
        if self.settings.patience is not None and state.evals_since_best >= self.settings.patience:
            state.stopped_early = True
            log.info("stopping early: no better val_loss in %d validations", state.evals_since_best)
        return False

    def _plot(self, step: int) -> None:
        self.check_owner()
        self._plotted_step = step
        self.read_reports()
        with self.clock.measure("visualization"):
            self.visualization.generate_training_plots(step, self.state.loss_history, self.history)
            self.visualization.generate_model_plots(
                step, self.model, sample=self.plot_sample, token_labels=self.token_text
            )

    def save(self, is_best: bool = False) -> None:
        """Save a checkpoint of the state reached. Raises LostRunError if the directory belongs to others now."""
        self.check_owner()
        arguments, extra = self._state_to_save()
        with self.clock.measure("checkpoint"):
            self.checkpoint.save_checkpoint(*arguments, extra=extra, is_best=is_best)

    def _save_last(self) -> str:
        """Save the last state, unless it is durable; what is lost and what to do about it, if it cannot be saved."""
        checkpoint, step = self.checkpoint, self.state.step
        if not checkpoint.enabled:
            return ""
        self.check_owner()
        arguments, extra = self._state_to_save()
        with self.clock.measure("checkpoint"):
            if checkpoint.save_last(*arguments, extra=extra, is_best=self.state.best_step == step):
                return ""
        durable = checkpoint.durable_step
        lost = f"steps {durable + 1} to {step} are" if durable + 1 < step else f"step {step} is"
        then = f"it continues after step {durable}" if durable else "it starts anew"
        return f"the last {lost} not saved: {checkpoint.problem}, then give the same command again: {then}"

    def _lost_results(self) -> str:
        """Why the results are not written and what to do about it; empty if they are, or are not wanted."""
        if not (self.tracker.enabled and self.tracker.problem):
            return ""
        return (
            f"{self.paths.results_file} is not written: {self.tracker.problem}; check the disk, and that it has space, "
            "then give the same command again"
        )

    def _close_backup(self) -> str:
        """Complete the backup; what is in this directory alone and what to do about it, if that fails."""
        if self.backup.close():
            return ""
        stored = self.backup.stored_step
        there = "nothing" if stored is None else f"step {stored}"
        return (
            f"the backup is not complete: step {self.state.step} and the results are only in {self.paths.root}, and "
            f"{self.backup.url} has {there}; give the same command again, which goes on with the backup"
        )

    def _state_to_save(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a save, and its further entries."""
        self.read_reports()
        state = self.state
        extra = {
            "train_state": state.state_dict(),
            "loss_state_dict": self.loss.state_dict(),
            "rng_state": rng_state(),
        }
        return (state.step, self.model, self.optimizer, state.loss_history, self.config), extra

    def _require_owner(self) -> None:
        """Raise OSError if the directory belongs to others now: the thread that writes checkpoints asks."""
        try:
            self.check_owner()
        except LostRunError as error:
            raise OSError(errno.ENOENT, "the run directory was moved or removed") from error

    def _before_commit(self) -> None:
        self._require_owner()
        self.sync()

    def sync(self) -> None:
        """Make the metrics and the small files of the run survive a power cut, as what a checkpoint refers to must."""
        self.metrics.sync()
        self._files.sync()

    def _save_or_stop(self) -> None:
        """Wait for a checkpoint because too many steps are at risk. Raises RunError if the storage refuses it too."""
        with self.clock.measure("checkpoint"):
            self.checkpoint.close()
        self.save()
        with self.clock.measure("checkpoint"):
            self.checkpoint.close()
        if self.checkpoint.exceeds_risk(self.state.step):
            at_risk = self.checkpoint.steps_at_risk(self.state.step)
            raise RunError(
                f"no checkpoint has become durable for {counted(at_risk, 'step')} "
                f"(monitoring.checkpoint.max_steps_at_risk={self.checkpoint.max_steps_at_risk}); mend the storage of "
                f"{self.paths.checkpoints}, then give the same command again"
            )

    def restore(self, *, refuse_foreign: bool = False) -> None:
        """Continue from the newest sound checkpoint; without one, start at step 1.

        Args:
            refuse_foreign: raise a UserError if the checkpoint holds another configuration than this run's.
        """
        found = self.checkpoint.load_latest_checkpoint(history_as_array=True)
        if found is not None:
            if refuse_foreign:
                refuse_foreign_checkpoint(found["step"], found["config"], self.config, self.paths)
            self.model.load_state_dict(found["model_state_dict"])
            self.optimizer.load_state_dict(found["optimizer_state_dict"])
            self.loss.load_state_dict(found["loss_state_dict"])
            self.state = TrainState.from_checkpoint(found["train_state"], found["loss_history"])
            best = self.state.best_step
            if best is not None and self.paths.checkpoint_file(best).is_file():
                self.checkpoint.mark_best(best)  # a kill may have come between its save and its link
            restore_rng_state(found["rng_state"])
            patience = self.settings.patience
            self.state.stopped_early = patience is not None and self.state.evals_since_best >= patience
            log.info("resuming after step %d", self.state.step)
            self._warn_of_another_rate()
        # A run that was killed between its last save and its results may lack its last plots.
        self._plotted_step = 0 if self._is_over() else self.state.step
        self._train_s_before = self.state.train_s
        self._logged = (self.state.train_s, self.state.step)
        self._restore_history()
        self.metrics.log_message(f"training from step {self.state.step + 1} to {self.settings.max_steps}")

    def _warn_of_another_rate(self) -> None:
        """Warn if the schedule now has another learning rate for the last step than the one it was made with."""
        step = self.state.step
        group, peak = self.optimizer.param_groups[0], self._peak_rates[0]
        then, now = float(group["lr"]), peak * self.schedule.factor(step)
        if step == 0 or math.isclose(then, now, rel_tol=1e-9, abs_tol=0.0):
            return
        if step < self.settings.max_steps:
            message = (
                f"the learning rate {'rises' if now > then else 'falls'} with another schedule: at step {step} it was "
                f"{then:.4g}, and would be {now:.4g} with training.max_steps={self.settings.max_steps}; step "
                f"{step + 1} is made with {peak * self.schedule.factor(step + 1):.4g}"
            )
            log.warning("%s", message)
            self.metrics.log_message(message)

    def _restore_history(self) -> None:
        """Take what was logged up to this step for the plots; entries of later steps will be logged again."""
        last_step = 0

        def keep(entry: Mapping[str, Any]) -> None:
            nonlocal last_step
            last_step = max(last_step, entry["step"])
            numbers = {name: value for name, value in entry.items() if isinstance(value, (int, float))}
            self._keep_history(int(numbers.pop("step")), numbers)

        self.metrics.cut_back(self.state.step, keep)
        if self.metrics.enabled and last_step < self.state.step - self.state.step % self.metrics.log_interval:
            log.warning(
                "the metrics of steps %d to %d are missing from %s: they were lost, as by a power cut, or not logged",
                last_step + 1, self.state.step, self.paths.metrics_file,
            )  # fmt: skip

    def _is_over(self) -> bool:
        return self.state.step >= self.settings.max_steps or self.state.stopped_early

    def _finished_before(self) -> bool:
        """Whether an earlier attempt has trained to the end and written its results, which then stay as they are."""
        if not (self._is_over() and self.paths.results_file.is_file()):
            return False
        try:
            results, findings = read_results(self.paths.results_file)
            if findings:
                raise UserError(findings[0])
        except UserError as error:
            log.warning("%s; it is written anew", error)
            return False
        # Results of a shorter run that was continued since are not those of this one.
        finished = results.get("status") in ("completed", "stopped_early")
        return finished and results.get("totals", {}).get("steps") == self.state.step

    def _finish(self) -> str:
        """Save, plot and record the state reached; what is lost, if it could not be saved."""
        self.read_reports()
        over = self.state.step >= self.settings.max_steps
        status: Status = "stopped_early" if self.state.stopped_early else "completed" if over else "interrupted"
        problem = self._save_last()
        if self.state.step > self._plotted_step:
            self._plot(self.state.step)
        with self.clock.measure("last plots"):
            self.visualization.close()
        if status == "stopped_early":
            self._restore_best()
        self._restore_sample()
        self._write_results("not_saved" if problem else status, problem or None)
        return problem or self._lost_results()

    def _restore_best(self) -> None:
        if not self.settings.restore_best:
            return
        try:
            best = self.checkpoint.load_best_checkpoint()
        except UserError as error:
            log.error("%s", error)
            best = None
        if best is None:
            log.warning("no checkpoint of the best step is left; the final weights are those of the last step")
            return
        self.model.load_state_dict(best["model_state_dict"])
        log.info("restored the weights of step %d, the best validation", best["step"])
        self._restored_step = int(best["step"])
        self._evaluate(self._restored_step)

    def _restore_sample(self) -> None:
        """Write the sample of the last validation again if the attempt that did so has left no results."""
        last = self.state.last_metrics or {}
        is_measured = last.get("val_step") == self.state.step and math.isfinite(last["val_loss"])
        if not self.samples and self.settings.sample_tokens and is_measured:
            self._write_sample(self.state.step)

    def _write_results(self, status: Status, error: str | None = None) -> None:
        self.check_owner()
        state = self.state
        best = {"step": state.best_step, "val_loss": state.best_val_loss, "val_bpb": state.best_val_bpb}
        self.tracker.save_results(
            self._final_metrics(),
            best_checkpoint=self._best_checkpoint(),
            generation_samples=self.samples,
            status=status,
            error=error,
            best_metrics=best if state.best_step is not None else None,
            totals=self._totals(),
            reference={
                "unigram_bits_per_byte": self.data.unigram_bits_per_byte,
                "entropy_bits_per_byte": self.data.entropy_bits_per_byte,
            },
            monitoring_cost=self.monitoring_cost(),
        )
        self.no_results = self.tracker.problem if self.tracker.enabled else "monitoring/tracking=off"

    def _final_metrics(self) -> dict[str, float]:
        """What was measured of the weights that the run ends with, and their `step`; `val_step` if that is another."""
        state = self.state
        step = self._restored_step or state.step
        final: dict[str, float] = {"step": step}
        if 1 <= step <= len(state.loss_history):
            final["loss"] = state.loss_history[step - 1]
        final |= state.last_metrics or {}
        if final.get("val_step") == step:
            del final["val_step"]
        return final

    def _best_checkpoint(self) -> str | None:
        """The file of the best step, relative to the run directory; None where none was kept."""
        if self.state.best_step is None:
            return None
        path = self.paths.checkpoint_file(self.state.best_step)
        return str(path.relative_to(self.paths.root)) if path.is_file() else None

    def _totals(self) -> dict[str, float]:
        state = self.state
        return {
            "steps": state.step,
            "tokens": state.tokens,
            "bad_steps": state.bad_steps,
            "train_s": state.train_s,
            "time_s": time.perf_counter() - self._started_s,
            "tokens_per_s": state.tokens / state.train_s if state.train_s else 0.0,
        }

    def monitoring_cost(self) -> dict[str, Any]:
        """Blocked seconds of this attempt by component, and their share of its training time."""
        components = ("checkpoint", "metrics", "visualization")
        blocked = {name: self.clock.seconds.get(name, 0.0) for name in components}
        train_s = self.state.train_s - self._train_s_before
        return {
            "blocked_s": blocked,
            "counts": {name: self.clock.counts.get(name, 0) for name in components},
            "train_s": train_s,
            "evaluation_s": self.clock.seconds.get("evaluation", 0.0),
            "share_of_training": sum(blocked.values()) / train_s if train_s else 0.0,
            "saves": [asdict(report) for report in self.checkpoint.reports],
            "saves_failed": self.checkpoint.failures,
            "saves_skipped": self.checkpoint.skipped,
            "plots": [asdict(report) for report in self.visualization.reports],
            "plots_failed": self.visualization.failures,
            "plots_skipped": self.visualization.skipped,
            # No training waited for it, but the end of the run did.
            "last_plots_s": self.clock.seconds.get("last plots", 0.0),
        }


def _mean(parts: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """The mean of a part of the loss over micro-batches; usually there is one."""
    return parts[0][name] if len(parts) == 1 else torch.stack([part[name] for part in parts]).mean()


def _on_host(values: list[Tensor]) -> list[float]:
    """0-dimensional tensors as numbers, by one transfer from a GPU."""
    if all(value.device.type == "cpu" for value in values):
        return [value.item() for value in values]
    return torch.stack([value.double() for value in values]).tolist()
