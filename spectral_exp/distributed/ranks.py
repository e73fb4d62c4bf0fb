"""What the training loop asks of the processes that train together.

`Ranks` is one process alone, for which nothing is to be done. `group.GroupRanks` is one of several.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spectral_exp.core.signals import StopRequest
from spectral_exp.distributed.world import SINGLE, World

if TYPE_CHECKING:
    from spectral_exp.distributed.full_state import SplitState

Parts = Mapping[str, Tensor]

_NOTHING: AbstractContextManager[None] = nullcontext()


class Ranks:
    """One process that trains alone.

    Args:
        device: of this process; by default the CPU.

    Attributes:
        world: the place of this process.
        stop: the signals that this process has received.
        main_may_wait: step -> whether process 0 is about to wait for a checkpoint.
        budget_s: returns the seconds of the budget that this process has used until now.
        communication_s: seconds in which this process waited for others in training steps.
        is_sharded: whether each process holds a part of the model only.
    """

    world: World = SINGLE
    communication_s = 0.0
    is_sharded = False

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self.stop: StopRequest | None = None
        self.main_may_wait: Callable[[int], bool] = lambda step: False
        self.budget_s: Callable[[], float] = lambda: 0.0
        self._own_use = [0.0, 0.0]

    @property
    def stop_signal(self) -> int | None:
        """The signal that ends training after the current step, the same in all processes."""
        return None if self.stop is None else self.stop.signal_number

    def wrap(self, compute: nn.Module, model: nn.Module) -> nn.Module:
        """Return the module to train with: `compute`, with gradients added over all processes.

        Args:
            compute: the model as it is called, compiled or not.
            model: the plain model.
        """
        return compute

    def micro_batches(self, count: int) -> range:
        """Return which of the `count` micro-batches of a step this process computes."""
        return range(count)

    def gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Return a context for the computation of a micro-batch, forward and backward.

        Args:
            is_last: whether this process computes no further micro-batch in this step.
        """
        return _NOTHING

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to a norm of at most `max_norm`, and return their norm."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def exchange(self, step: int, parts: Sequence[Parts], count: int) -> Sequence[Parts]:
        """Return the named parts of the loss of all `count` micro-batches of `step`, in order.

        Stop signals, `add_use` and `budget_s` are exchanged too.

        Args:
            step: the current step.
            parts: those of the micro-batches of this process.
            count: number of micro-batches of the step.
        """
        return parts

    def add_use(self, cpu_s: float, device_s: float) -> None:
        """Record processor and device seconds of this process, for the next `exchange`."""
        self._own_use[0] += cpu_s
        self._own_use[1] += device_s

    def take_use(self) -> list[float]:
        """Return the seconds of all processes that were exchanged since the last call."""
        use, self._own_use = self._own_use, [0.0, 0.0]
        return use

    def agreed_s(self, own_s: float) -> float:
        """Return the used seconds of the budget, the same in all processes.

        They are `own_s` of one process alone, and what `budget_s` of process 0 returned at the last
        `exchange` of several. Before the first exchange, `own_s` must be the same in all of them.
        """
        return own_s

    def batches_here(self, index: int) -> bool:
        """Return whether this process evaluates validation batch `index`."""
        return True

    def missing_batches(self, count: int) -> int:
        """Return how many batches this process must compute beyond its own of `count`."""
        return 0

    def add_rows(self, table: Tensor) -> Tensor:
        """Return the sum of `table` over all processes, which fill different rows of it."""
        return table

    def waiting_for_main(self, step: int) -> AbstractContextManager[None]:
        """Return a context in which process 0 may wait for long after `step`."""
        return _NOTHING

    def from_main(self, number: int) -> int:
        """Return `number` of process 0."""
        return number

    def decide(self, *flags: bool) -> tuple[bool, ...]:
        """Return what is to be done: the flags of this process, or those of process 0.

        Processes that hold parts of a model need each other for what only process 0 does.
        """
        return flags

    def collect(self, *, moments: bool = False, gradients: bool = False) -> None:
        """Let process 0 have the present state of a model that is divided among processes.

        Args:
            moments: the state of the optimizer too.
            gradients: those of the last step too.
        """

    def split(self) -> SplitState | None:
        """Return the state of a divided model as this process holds it; None for a whole model."""
        return None

    def load(
        self, state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Load the weights and the optimizer's state of a checkpoint."""
        model.load_state_dict(state["model_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])

    def refuse_different_weights(self, step: int, model: nn.Module) -> None:
        """Raise a RunError if the parameters of the processes differ after `step`."""

    def translate_errors(self) -> AbstractContextManager[None]:
        """Return a context in which the failure of another process becomes a RunError."""
        return _NOTHING

    def leave(self) -> None:
        """Wait until all processes have finished together, and exchange the last `add_use`."""

    def describe(self) -> dict[str, Any]:
        """Return the record of the processes: their number, hosts and devices."""
        return {
            "processes": 1,
            "hosts": [socket.gethostname()],
            "devices": [str(self._device)],
        }
