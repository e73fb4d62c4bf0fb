"""Validation during training: the metrics, a sample text, the best step so far, and patience."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectral_exp.core.clock import Clock
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.training.budget import Budget
from spectral_exp.training.contracts import Data
from spectral_exp.training.evaluation import Evaluation, evaluate
from spectral_exp.training.results import RunResults
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.state import TrainState

log = logging.getLogger(__name__)


@dataclass
class Validator:
    """Evaluates the model, and ends training when it stops improving.

    Attributes:
        budget: what ends the run.
        forward: inputs (B, T) -> logits (B, T, V), with the precision of training.
        windows: fixed validation windows of inputs, targets and bytes of the targets.
        sample: step -> (prompt, text that the model wrote after it).
        ranks: the processes that share the windows.
        why_prune: (step, metrics of its validation) -> why a search ends the run there, or "";
            None outside of searches.
    """

    settings: TrainingSettings
    budget: Budget
    device: torch.device
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    windows: Any
    data: Data
    sample: Callable[[int], tuple[str, str]]
    state: TrainState
    results: RunResults
    metrics: MetricsLogger
    clock: Clock
    ranks: Ranks
    why_prune: Callable[[int, Mapping[str, float]], str] | None = None

    def should_validate(self, step: int) -> bool:
        """Return whether to validate after `step`: at every interval and after the last step."""
        return step % self.settings.eval_interval == 0 or self._is_last(step)

    def validate(self, step: int) -> Evaluation:
        """Evaluate the weights of `step` and let the model write a sample text."""
        with self.clock.measure("evaluation"):
            self.ranks.refuse_different_weights(step, self.model)
            evaluation = evaluate(self.model, self.windows, self.device, self.forward, self.ranks)
            self.state.last_metrics = {**evaluation.metrics(), "val_step": step}
            self.state.val_error_bpb = evaluation.window_error_bpb
            # A model with non-finite weights cannot write a text.
            if self.settings.sample_tokens and math.isfinite(evaluation.loss):
                self.write_sample(step)
        floor = self.data.entropy_bits_per_byte
        if floor is not None and evaluation.bpb < floor - 4 * evaluation.token_error_bpb:
            log.error(
                "LEAK: val_bpb %.4f at step %d lies below the entropy rate of the source, %.4f "
                "bits per byte. No model can do that honestly: it sees the tokens that it has to "
                "predict, or it was trained on validation text",
                evaluation.bpb, step, floor,
            )  # fmt: skip
        return evaluation

    def write_sample(self, step: int) -> None:
        """Let the model of `step` write a sample text, for the results and the log."""
        prompt, text = self.sample(step)
        self.results.samples = [{"step": step, "prompt": prompt, "text": text}]
        self.metrics.log_message(f"sample at step {step}: {text!r}")

    def restore_sample(self) -> None:
        """Write the sample of the last validation again if an earlier attempt lost it."""
        step, last = self.state.step, self.state.last_metrics or {}
        is_measured = last.get("val_step") == step and math.isfinite(last["val_loss"])
        if not self.results.samples and self.settings.sample_tokens and is_measured:
            self.write_sample(step)

    def record_best(self, evaluation: Evaluation) -> bool:
        """Record the validation in the state, and return whether it is the best so far."""
        state = self.state
        best = math.inf if state.best_val_loss is None else state.best_val_loss
        if evaluation.loss < best - self.settings.min_delta:
            state.best_val_loss, state.best_val_bpb = evaluation.loss, evaluation.bpb
            state.best_step, state.evals_since_best = state.step, 0
            return True
        state.evals_since_best += 1
        if self.is_out_of_patience():
            state.stopped_early = True
            count = state.evals_since_best
            log.info("stopping early: no better val_loss in %d validations", count)
        return False

    def prune(self, evaluation: Evaluation) -> None:
        """End the run if a search gives a reason, unless it ends here anyway."""
        state = self.state
        if state.stopped_early or self._is_last(state.step):
            return
        reason = ""
        if self.why_prune is not None:
            with self.clock.measure("pruning"):
                reason = self.why_prune(state.step, evaluation.metrics())
            if reason:
                log.info("pruned: %s", reason)
        # Only process 0 knows the search.
        if self.ranks.from_main(int(bool(reason))):
            state.pruned_because = reason or "process 0 has decided so"

    def _is_last(self, step: int) -> bool:
        return self.budget.is_over(step, self.state.is_out_of_time)

    def is_out_of_patience(self) -> bool:
        """Return whether the last `training.patience` validations brought no improvement."""
        patience = self.settings.patience
        return patience is not None and self.state.evals_since_best >= patience
