"""What the training loop asks of models, optimizers, losses, schedules and data."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Measured(Protocol):
    """A model or optimizer that has something to log at every metrics line."""

    def metrics(self) -> dict[str, Tensor]:
        """Name -> 0-dimensional detached tensor."""


@runtime_checkable
class Skipping(Protocol):
    """An optimizer that can leave out a step by itself, so that nobody has to wait for what a GPU found."""

    skips_on_device: bool

    def step_if(self, finite: Tensor) -> None:
        """Do a step where `finite`, a 0-dimensional bool, is true, and nothing else where not."""


@runtime_checkable
class Drawing(Protocol):
    """A model or loss that tells whether a training step of it draws random numbers."""

    draws_random_numbers: bool


@runtime_checkable
class Scheduled(Protocol):
    """A module of the model or the loss that changes over the run."""

    def set_progress(self, fraction: float) -> None:
        """Take in how much of the run is done, 0 to 1."""


@runtime_checkable
class Schedule(Protocol):
    """Share of each group's peak learning rate at a step."""

    def factor(self, step: int) -> float:
        """A pure function of the step, counted from 1."""


class Data(Protocol):
    """What the runner needs to know of the text it trains on."""

    @property
    def unigram_bits_per_byte(self) -> float:
        """Entropy of the validation bytes one by one: what knowing the byte frequencies alone would reach."""

    @property
    def entropy_bits_per_byte(self) -> float | None:
        """Entropy rate of the source where it is known: no honest model stays below it."""
