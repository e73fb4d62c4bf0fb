"""What the training loop requires of models, optimizers, losses, schedules and data."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasMetrics(Protocol):
    """A model or optimizer with values of its own in every line of metrics."""

    def metrics(self) -> dict[str, Tensor]:
        """Return name -> 0-dimensional detached tensor."""


@runtime_checkable
class SupportsConditionalStep(Protocol):
    """An optimizer that can skip a step on the device, so that the loop need not wait for the GPU.

    Attributes:
        can_step_conditionally: whether its present settings and parameters allow that.
    """

    can_step_conditionally: bool

    def step_if(self, finite: Tensor) -> None:
        """Do a step if `finite`, a 0-dimensional bool, is true; change nothing otherwise."""


@runtime_checkable
class UsesRandomness(Protocol):
    """A model or loss that declares whether a training step draws random numbers.

    Without the attribute, the loop assumes that it does.
    """

    uses_randomness: bool


@runtime_checkable
class HasProgress(Protocol):
    """A module of the model or the loss that changes with the progress of the run."""

    def set_progress(self, fraction: float) -> None:
        """Set the share of the run that is done, 0 to 1."""


@runtime_checkable
class Schedule(Protocol):
    """The share of its peak learning rate that each parameter group has at a step."""

    def factor(self, step: int) -> float:
        """Return the share at `step`, counted from 1: a pure function."""


class Data(Protocol):
    """Properties of the training text that bound what a model can reach."""

    @property
    def unigram_bits_per_byte(self) -> float:
        """Entropy of the byte frequencies of the validation text."""

    @property
    def entropy_bits_per_byte(self) -> float | None:
        """Entropy rate of the source, which no honest model undercuts; None if unknown."""
