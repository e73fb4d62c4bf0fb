"""The state that a run carries from step to step, and the report of a step."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from spectral_exp.runs.status import Status
from spectral_exp.training.budget import Budget


@dataclass
class TrainState:
    """The state of training that is not in the model or the optimizer.

    Attributes:
        step: number of optimizer steps done; the first step is 1.
        tokens: tokens trained on.
        train_s: seconds spent in training steps, over all attempts.
        bad_steps: steps skipped because of a non-finite loss or gradient.
        bad_in_a_row: skipped steps since the last good step.
        best_val_loss, best_val_bpb, best_step: the best validation so far; None before the first.
        evals_since_best: validations without improvement.
        stopped_early: whether patience has run out.
        is_out_of_time: whether the seconds of the budget ran out.
        pruned_because: why a search has ended the run early; "" if it has not.
        last_metrics: the newest validation, and `val_step`, the step whose weights it measured.
        val_error_bpb: its standard error with windows taken as independent; None if unknown.
        parent: the origin of the initial weights (see `runs.record.Parent`), or None.
        loss_history: cross-entropy of every step, nats per token.
    """

    step: int = 0
    tokens: int = 0
    train_s: float = 0.0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    best_val_loss: float | None = None
    best_val_bpb: float | None = None
    best_step: int | None = None
    evals_since_best: int = 0
    stopped_early: bool = False
    is_out_of_time: bool = False
    pruned_because: str = ""
    last_metrics: dict[str, float] | None = None
    val_error_bpb: float | None = None
    parent: dict[str, Any] | None = None
    loss_history: array[float] = field(default_factory=lambda: array("d"))

    def end(self, budget: Budget) -> Status:
        """Return how training has ended, or `interrupted` if there are steps left."""
        if self.stopped_early:
            return "stopped_early"
        if self.pruned_because:
            return "pruned"
        is_over = budget.is_over(self.step, self.is_out_of_time)
        return "completed" if is_over else "interrupted"

    def state_dict(self) -> dict[str, Any]:
        """Return all values except the loss history, which a checkpoint stores separately.

        Earlier versions can read the state of a run that does not use what is newer.
        """
        newer = ("parent", "is_out_of_time", "val_error_bpb")
        unused = {name for name in newer if not getattr(self, name)}
        left_out = {"loss_history", *unused}
        return {k: v for k, v in self.__dict__.items() if k not in left_out}

    def load_state_dict(self, state: Mapping[str, Any], loss_history: array[float]) -> None:
        """Load the values of `state_dict` and the loss history."""
        self.__dict__.update(TrainState(**state, loss_history=loss_history).__dict__)


class StepReport(NamedTuple):
    """Results of one training step.

    Tensors are 0-dimensional and stay on the device; reading one waits for the device.

    Attributes:
        loss: mean cross-entropy, nats per token.
        tokens: tokens trained on.
        learning_rate: learning rate of the first parameter group.
        grad_norm: gradient norm before clipping.
        parts: the named parts of the loss, for each micro-batch.
        numbers: loss and gradient norm as numbers; None if they are still on the device.
    """

    loss: Tensor
    tokens: int
    learning_rate: float
    grad_norm: Tensor
    parts: Sequence[Mapping[str, Tensor]]
    numbers: tuple[float, float] | None
