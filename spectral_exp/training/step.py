"""One optimizer update: schedules, gradients, clipping, and skipping of non-finite steps.

On a GPU the host does not wait for the loss of a step. The optimizer skips a non-finite step on the
device, and the host reads the reports of several steps in one transfer when it needs a number.

Tensor letters: B batch, T tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from spectral_exp.core.errors import DivergedError
from spectral_exp.core.wording import format_count
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.training.budget import Budget
from spectral_exp.training.contracts import (
    HasMetrics,
    HasProgress,
    Schedule,
    SupportsConditionalStep,
    UsesRandomness,
)
from spectral_exp.training.seeding import seed_generators, step_seed
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.state import StepReport, TrainState
from spectral_exp.training.usage import Usage

log = logging.getLogger(__name__)


@dataclass
class Stepper:
    """Makes the updates of a run and records their results in `state`.

    Attributes:
        budget: what the schedule follows.
        usage: measures the time in which the host waits for the results of steps.
        model: the plain model, whose parameters are trained.
        compute: the model as it is called, compiled or not.
        batches: (step, micro_batch) -> inputs and targets, each (B, T) on the CPU; a pure function.
        ranks: the processes that train together.
        reads_late: whether loss and gradient norm stay on the device until they are needed.
    """

    settings: TrainingSettings
    budget: Budget
    usage: Usage
    seed: int
    device: torch.device
    model: nn.Module
    compute: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss: nn.Module
    batches: Callable[[int, int], tuple[Tensor, Tensor]]
    state: TrainState
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        optimizer = self.optimizer
        self._peak_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._last_loss, self._last_grad_norm = math.nan, math.nan
        self.speed_measured_at = (0.0, 0)
        self.reads_late = (
            self.device.type == "cuda"
            and isinstance(optimizer, SupportsConditionalStep)
            and optimizer.can_step_conditionally
        )
        self._moves_batches = self.device.type != "cpu"
        self._unread_reports: list[StepReport] = []
        self._tokens = 0
        # Collected once, since every step needs them.
        self._parameters = list(self.model.parameters())
        modules = [*self.model.modules(), *self.loss.modules()]
        self._modules_with_progress = [m for m in modules if isinstance(m, HasProgress)]
        self._parts_with_metrics = [
            part for part in (self.model, optimizer) if isinstance(part, HasMetrics)
        ]
        # Seeding is expensive compared to the rest of a step's overhead, so it is done only if
        # needed. Optimizers draw no random numbers.
        self._uses_randomness = not all(
            isinstance(part, UsesRandomness) and not part.uses_randomness
            for part in (self.model, self.loss)
        )
        if self.budget.max_train_s is not None:
            self.ranks.budget_s = lambda: self.state.train_s + self.usage.elapsed_s()
        self._trained = self.ranks.wrap(self.compute, self.model)
        self.forward, self._objective = self._compute_logits, self._compute_objective
        if self.settings.precision == "bf16":
            autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
            self.forward, self._objective = autocast(self.forward), autocast(self._objective)

    def take_timed_step(self, step: int) -> StepReport:
        """Take a step and record it, with its time and whether that of the budget is used up."""
        self.usage.start()
        report = self.take_step(step)
        self.record(report, self.usage.stop())
        if self.budget.max_train_s is not None:
            used_s = self.ranks.agreed_s(self.state.train_s)
            self.state.is_out_of_time = self.budget.has_reached_time(used_s)
        return report

    def take_step(self, step: int) -> StepReport:
        """Average the gradients over all micro-batches, clip them, and update if finite.

        The parameters keep their gradients until the next step.
        """
        settings, optimizer = self.settings, self.optimizer
        # Not after the update, so that components can read the gradients of a step.
        optimizer.zero_grad()
        self._set_schedules(step)
        count = settings.grad_accum_steps
        own = self.ranks.micro_batches(count)
        parts: Sequence[Mapping[str, Tensor]] = [
            self._add_gradients(step, micro_batch, is_last=micro_batch == own[-1])
            for micro_batch in own
        ]
        parts = self.ranks.exchange(step, parts, count)
        grad_norm = self.ranks.clip(self._parameters, settings.grad_clip or math.inf)
        loss = _mean(parts, "loss")
        numbers: tuple[float, float] | None = None
        if self.reads_late:
            is_finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
            cast(SupportsConditionalStep, optimizer).step_if(is_finite)
        else:
            numbers = (loss.item(), grad_norm.item())
            if math.isfinite(numbers[0]) and math.isfinite(numbers[1]):
                optimizer.step()
        learning_rate = optimizer.param_groups[0]["lr"]
        return StepReport(loss, self._tokens, learning_rate, grad_norm, parts, numbers)

    def _add_gradients(self, step: int, micro_batch: int, is_last: bool) -> Mapping[str, Tensor]:
        """Add the gradients of one micro-batch, and return the parts of its loss."""
        settings = self.settings
        if self._uses_randomness:
            seed_generators(step_seed(self.seed, step, micro_batch), self.device)
        x, y = self.batches(1 if settings.overfit_one_batch else step, micro_batch)
        if self._moves_batches:
            x = x.to(self.device, non_blocking=True)
            y = y.to(self.device, non_blocking=True)
        with self.ranks.gradients(is_last):
            objective, parts = self._objective(x, y)
            if settings.grad_accum_steps > 1:
                objective = objective / settings.grad_accum_steps
            objective.backward()  # type: ignore[no-untyped-call]
        self._tokens = y.numel() * settings.grad_accum_steps
        return parts

    def record(self, report: StepReport, seconds: float = 0.0) -> None:
        """Advance the state by a step that took `seconds`.

        Raises:
            DivergedError: too many steps in a row were skipped.
        """
        state = self.state
        state.step += 1
        state.train_s += seconds
        if report.numbers is not None:
            self._record_numbers(state.step, report.tokens, *report.numbers)
            return
        self._unread_reports.append(report)
        # With late reading, the run must fail at the same step as without.
        if state.bad_in_a_row + len(self._unread_reports) >= self.settings.max_bad_steps:
            self.read_reports()

    def read_reports(self, also: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Read the reports of the latest steps, and the values of `also`, in one transfer.

        Returns:
            The values of `also` as numbers.

        Raises:
            DivergedError: too many steps in a row were skipped.
        """
        if not (self._unread_reports or also):
            return {}
        reports, self._unread_reports = self._unread_reports, []
        names, tensors = list(also or {}), list((also or {}).values())
        n = len(reports)
        self.usage.start_wait()
        values = _to_host([*(r.loss for r in reports), *(r.grad_norm for r in reports), *tensors])
        if reports:
            # The host has only submitted these steps, which last until their results are there.
            self.state.train_s += self.usage.stop_wait()
        first_step = self.state.step - n + 1
        for i, report in enumerate(reports):
            self._record_numbers(first_step + i, report.tokens, values[i], values[n + i])
        return dict(zip(names, values[2 * n :], strict=True))

    def is_skipping(self) -> bool:
        """Return whether the last step was skipped."""
        self.read_reports()
        return self.state.bad_in_a_row > 0

    def metrics(self, report: StepReport) -> dict[str, float]:
        """Return the metrics of the last recorded step; reads all reports."""
        (before_s, before_step), state = self.speed_measured_at, self.state
        self.restart_speed()
        tensors = {name: _mean(report.parts, name) for name in report.parts[0] if name != "loss"}
        for part in self._parts_with_metrics:
            tensors |= part.metrics()
        numbers = self.read_reports(also=tensors)
        return {
            "loss": self._last_loss,
            "learning_rate": report.learning_rate,
            "grad_norm": self._last_grad_norm,
            "tokens_per_s": (state.step - before_step) * report.tokens / (state.train_s - before_s),
            **numbers,
        }

    def describe_changed_rate(self) -> str:
        """Return a message if the schedule changes the learning rate of the last step, else ""."""
        step, last = self.state.step, self.budget.last_step
        if self.budget.max_train_s is not None or last is None:
            return ""  # the rates follow the time
        peak = self._peak_rates[0]
        then, now = float(self.optimizer.param_groups[0]["lr"]), peak * self.schedule.factor(step)
        is_same = math.isclose(then, now, rel_tol=1e-9, abs_tol=0.0)
        if step == 0 or step >= last or is_same:
            return ""
        return (
            f"the learning rate {'rises' if now > then else 'falls'} with another schedule: at "
            f"step {step} it was {then:.4g}, and would be {now:.4g} with "
            f"{self.budget.describe()}; step {step + 1} uses "
            f"{peak * self.schedule.factor(step + 1):.4g}"
        )

    def restart_speed(self) -> None:
        """Measure the next `tokens_per_s` from the current state on."""
        self.speed_measured_at = (self.state.train_s, self.state.step)

    def _compute_logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.compute(x)
        return logits

    def _compute_objective(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        objective, parts = self.loss(self._trained(x), y)
        return objective, parts

    def _set_schedules(self, step: int) -> None:
        budget, train_s = self.budget, self.ranks.agreed_s(self.state.train_s)
        factor = self.schedule.factor(budget.schedule_step(self.schedule, step, train_s))
        for group, peak in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        for module in self._modules_with_progress:
            module.set_progress(budget.fraction(step, train_s))

    def _record_numbers(self, step: int, tokens: int, loss: float, grad_norm: float) -> None:
        state = self.state
        self._last_loss, self._last_grad_norm = loss, grad_norm
        state.loss_history.append(loss)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            state.tokens += tokens
            state.bad_in_a_row = 0
            return
        state.bad_steps += 1
        state.bad_in_a_row += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", step, loss, grad_norm)
        if state.bad_in_a_row >= self.settings.max_bad_steps:
            raise DivergedError(
                f"{format_count(state.bad_in_a_row, 'step')} in a row had a non-finite loss or "
                f"gradient, the last of them step {step} "
                f"(training.max_bad_steps={self.settings.max_bad_steps}); the weights are those of "
                f"step {step - state.bad_in_a_row}. In a new run, lower optimizer.learning_rate, "
                "lengthen schedule.warmup_steps or set training.grad_clip"
            )


def _mean(parts: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """Return the mean of a part of the loss over micro-batches, of which most runs have one."""
    if len(parts) == 1:
        return parts[0][name]
    return torch.stack([part[name] for part in parts]).mean()


def _to_host(values: list[Tensor]) -> list[float]:
    """Return 0-dimensional tensors as numbers, with a single transfer from a GPU."""
    if all(value.device.type == "cpu" for value in values):
        return [value.item() for value in values]
    return torch.stack([value.double() for value in values]).tolist()
