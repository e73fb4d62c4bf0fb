"""The content of `results.json`: metrics, totals, samples, and the cost of monitoring."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spectral_exp.core.clock import Clock
from spectral_exp.core.errors import UserError
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import CheckpointManager, ConfigTracker, VisualizationManager
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.record import read_results
from spectral_exp.runs.status import DONE, Status
from spectral_exp.training.budget import Budget
from spectral_exp.training.contracts import Data
from spectral_exp.training.evaluation import Evaluation
from spectral_exp.training.state import TrainState
from spectral_exp.training.usage import Usage

log = logging.getLogger(__name__)

LAST_PLOTS = "last plots"
"""The clock's name for the wait for plots at the end of a run."""


@dataclass
class RunResults:
    """Collects and writes the results of one attempt at a run.

    Attributes:
        budget: what ends the run.
        usage: the processor and device seconds of training.
        texts: "val" and "test", as far as they exist -> the windows that an evaluation reads.
        clock: the seconds that each component blocked training.
        component_names: names of the components beyond the built-in five.
        ranks: the processes that train together.
        samples: the newest sample text of the model: `step`, `prompt` and `text`.
        restored_step: the step whose weights replaced the last ones; None without replacement.
        train_s_before: seconds of training in earlier attempts.
        test: the evaluation of the final weights on the test text; None without.
        missing_because: why this attempt has not written results; "" once it has.
    """

    paths: RunPaths
    state: TrainState
    data: Data
    budget: Budget
    usage: Usage
    texts: Mapping[str, Any]
    clock: Clock
    tracker: ConfigTracker
    checkpoint: CheckpointManager
    visualization: VisualizationManager
    component_names: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
    samples: list[dict[str, Any]] = field(default_factory=list)
    restored_step: int | None = None
    train_s_before: float = 0.0
    test: Evaluation | None = None
    missing_because: str = "training did not begin"

    def __post_init__(self) -> None:
        self._started_s = time.perf_counter()

    def write(self, status: Status, error: str | None = None) -> None:
        """Write `results.json`. If that fails, set `missing_because`."""
        state = self.state
        best = {
            "step": state.best_step,
            "val_loss": state.best_val_loss,
            "val_bpb": state.best_val_bpb,
        }
        self.tracker.save_results(
            self.final_metrics(),
            best_checkpoint=self._best_checkpoint(),
            generation_samples=self.samples,
            status=status,
            error=error,
            pruned_because=state.pruned_because or None,
            best_metrics=best if state.best_step is not None else None,
            totals=self._totals(),
            attempts=self.usage.attempts(state.step, state.train_s),
            budget=self.budget.record(state.step, state.is_out_of_time),
            evaluation={name: self._describe_text(name) for name in self.texts},
            reference={
                "unigram_bits_per_byte": self.data.unigram_bits_per_byte,
                "entropy_bits_per_byte": self.data.entropy_bits_per_byte,
            },
            monitoring_cost=self.monitoring_cost(),
            processes=self._processes(),
        )
        enabled = self.tracker.enabled
        self.missing_because = self.tracker.problem if enabled else "monitoring/tracking=off"

    def are_complete(self) -> bool:
        """Return whether an earlier attempt has written the results of the current step."""
        if not self.paths.results_file.is_file():
            return False
        try:
            results, findings = read_results(self.paths.results_file)
            if findings:
                raise UserError(findings[0])
        except UserError as error:
            log.warning("%s; the file is written again", error)
            return False
        # While a finished run is prolonged, its results have the former number of steps.
        is_finished = results.get("status") in DONE
        is_tested = "test" not in self.texts or "test_loss" in results.get("final_metrics", {})
        has_all = is_tested or results.get("status") == "pruned"
        return is_finished and has_all and results.get("totals", {}).get("steps") == self.state.step

    def problem(self) -> str:
        """Return why the results could not be written, and the remedy; "" without a problem."""
        if not (self.tracker.enabled and self.tracker.problem):
            return ""
        return (
            f"{self.paths.results_file} is not written: {self.tracker.problem}; check the disk "
            "and its free space, then give the same command again"
        )

    def final_metrics(self) -> dict[str, float]:
        """Return the metrics of the final weights and their `step`.

        If the newest validation belongs to another step, that is in `val_step`.
        """
        state = self.state
        step = self.restored_step or state.step
        final: dict[str, float] = {"step": step}
        if 1 <= step <= len(state.loss_history):
            final["loss"] = state.loss_history[step - 1]
        final |= state.last_metrics or {}
        if final.get("val_step") == step:
            del final["val_step"]
        return final | ({} if self.test is None else self.test.test_metrics())

    def monitoring_cost(self) -> dict[str, Any]:
        """Return the seconds that each component blocked this attempt, and their share of it."""
        seconds, counts = self.clock.seconds, self.clock.counts
        names = ("checkpoint", "metrics", "visualization", *self.component_names)
        blocked = {name: seconds.get(name, 0.0) for name in names}
        train_s = self.state.train_s - self.train_s_before
        return {
            "blocked_s": blocked,
            "counts": {name: counts.get(name, 0) for name in names},
            "train_s": train_s,
            "evaluation_s": seconds.get("evaluation", 0.0),
            "test_s": seconds.get("test", 0.0),
            "pruning_s": seconds.get("pruning", 0.0),
            "share_of_training": sum(blocked.values()) / train_s if train_s else 0.0,
            "saves": [asdict(report) for report in self.checkpoint.reports],
            "saves_failed": self.checkpoint.failures,
            "saves_skipped": self.checkpoint.skipped,
            "plots": [asdict(report) for report in self.visualization.reports],
            "plots_failed": self.visualization.failures,
            "plots_skipped": self.visualization.skipped,
            # The end of the run waits for the last plots, training does not.
            "last_plots_s": seconds.get(LAST_PLOTS, 0.0),
        }

    def _best_checkpoint(self) -> str | None:
        """Return the checkpoint of the best step, relative to the run, or None if it is gone."""
        if self.state.best_step is None:
            return None
        path = self.paths.checkpoint_file(self.state.best_step)
        return str(path.relative_to(self.paths.root)) if path.is_file() else None

    def _processes(self) -> dict[str, Any]:
        """Return the number of processes, and the time that they waited for each other."""
        waited_s, train_s = self.ranks.communication_s, self.state.train_s - self.train_s_before
        return {
            **self.ranks.describe(),
            "communication_s": waited_s,
            "communication_share": waited_s / train_s if train_s else 0.0,
        }

    def _describe_text(self, name: str) -> dict[str, Any]:
        """Return how much of a text each evaluation reads, and the spread of the last one."""
        windows, error_bpb = self.texts[name], self.state.val_error_bpb
        if name == "test":
            error_bpb = None if self.test is None else self.test.window_error_bpb
        return {
            "windows": windows.n_windows,
            "available_windows": windows.n_available,
            "tokens": windows.n_targets,
            "repeated_share": self.data.repeated_shares[name],
            "standard_error_bpb": error_bpb,
        }

    def _totals(self) -> dict[str, float]:
        state = self.state
        return {
            "steps": state.step,
            "tokens": state.tokens,
            "bad_steps": state.bad_steps,
            "flops": state.step * self.budget.flops_per_step,
            "train_s": state.train_s,
            **self.usage.totals(),
            "time_s": time.perf_counter() - self._started_s,
            "tokens_per_s": state.tokens / state.train_s if state.train_s else 0.0,
        }
