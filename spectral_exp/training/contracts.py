"""Protocols of the models, optimizers, losses, schedules and data that training can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasMetrics(Protocol):
    """A model or optimizer that adds its own values to every line of metrics."""

    def metrics(self) -> dict[str, Tensor]:
        """Return name -> 0-dimensional detached tensor."""


@runtime_checkable
class SupportsConditionalStep(Protocol):
    """An optimizer that can skip a step on the device, so that the loop need not wait for the GPU.

    Attributes:
        can_step_conditionally: whether its current settings and parameters allow `step_if`.
    """

    can_step_conditionally: bool

    def step_if(self, finite: Tensor) -> None:
        """Update the parameters if `finite`, a 0-dimensional bool tensor, is true."""


@runtime_checkable
class UsesRandomness(Protocol):
    """A model or loss that declares whether a training step draws random numbers.

    Without this attribute, the training loop assumes that it does.
    """

    uses_randomness: bool


@runtime_checkable
class HasProgress(Protocol):
    """A module of the model or the loss that depends on the progress of the run."""

    def set_progress(self, fraction: float) -> None:
        """Set the fraction of the run that is done, 0 to 1."""


@runtime_checkable
class Schedule(Protocol):
    """A learning rate schedule: a factor on the peak rate of every parameter group."""

    def factor(self, step: int) -> float:
        """Return the factor at `step`, counted from 1. Pure: equal steps give equal factors."""


class Data(Protocol):
    """Properties of the text that bound the loss of any model."""

    @property
    def unigram_bits_per_byte(self) -> float:
        """Entropy of the byte frequencies of the validation text."""

    @property
    def entropy_bits_per_byte(self) -> float | None:
        """Entropy rate of the source, a lower bound of the validation loss; None if unknown."""

    @property
    def repeated_shares(self) -> Mapping[str, float]:
        """ "val" and "test", as far as they exist -> share that stands in the training text too."""
