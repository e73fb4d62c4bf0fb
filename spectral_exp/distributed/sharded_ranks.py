"""One of several processes that hold a part of the model each: `ShardedRanks`, by FSDP2."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spectral_exp.distributed.full_state import (
    SplitState,
    collect_gradients,
    collect_optimizer,
    collect_weights,
    divide_model_state,
    divide_optimizer_state,
    split_state,
)
from spectral_exp.distributed.group import GroupRanks
from spectral_exp.distributed.owners import ShardedOwners
from spectral_exp.distributed.sharding import (
    clip_gradients,
    complete_gradients,
    set_gradient_sync,
    shard_model,
)


class ShardedRanks(GroupRanks):
    """One of several processes that hold a part of the model each.

    Process 0 has a whole copy of the model and its optimizer too, in the memory of its CPU. It is
    brought up to date (`collect`) when process 0 plots, samples or saves, and is what is left when
    the other processes have ended.
    """

    is_sharded = True
    _copy: tuple[nn.Module, torch.optim.Optimizer] | None = None

    def shard(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        build_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    ) -> torch.optim.Optimizer:
        """Divide `model` among the processes, and return the optimizer of its parts.

        Args:
            model: equal on all processes.
            blocks: its parts that are made whole one after the other.
            build_optimizer: called with the divided model.
        """
        self._model = model
        exact = self._settings.exact
        with self.translate_errors():
            shard_model(model, blocks, self._device, exact=exact, group=self._group)
        self._optimizer = build_optimizer(model)
        if hasattr(self._optimizer, "owners"):
            self._optimizer.owners = ShardedOwners(self._group)
        return self._optimizer

    def keep_copy(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let `collect` bring a whole model and its optimizer up to date. For process 0."""
        self._copy = model, optimizer

    # --- the computation of a step ---------------------------------------------------------------

    def wrap(self, compute: nn.Module, model: nn.Module) -> nn.Module:
        """Return the module to train with: `compute`, which is divided."""
        return compute

    @contextmanager
    def gradients(self, is_last: bool) -> Iterator[None]:
        """Return a context that adds the gradients of all processes, at the last backward pass."""
        set_gradient_sync(self._model, is_last)
        yield
        if is_last:
            start_s = time.perf_counter()
            complete_gradients(self._model, self._group)
            self.communication_s += time.perf_counter() - start_s

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients down to a norm of at most `max_norm`, and return their norm."""
        exact = self._settings.exact
        return clip_gradients(parameters, max_norm, exact=exact, group=self._group)

    def missing_batches(self, count: int) -> int:
        """Return how many batches make this process call the model as often as process 0."""
        own = len(range(self.world.rank, count, self.world.size))
        return -(-count // self.world.size) - own

    def refuse_different_weights(self, step: int, model: nn.Module) -> None:
        """Compare nothing: no two processes hold the same weights."""

    # --- the state -------------------------------------------------------------------------------

    def decide(self, *flags: bool) -> tuple[bool, ...]:
        """Return the flags of process 0."""
        values = torch.tensor(flags, dtype=torch.uint8)
        dist.broadcast(values, 0)
        return tuple(map(bool, values.tolist()))

    def collect(self, *, moments: bool = False, gradients: bool = False) -> None:
        """Bring the whole copy of process 0 up to date; all processes call this together."""
        model, optimizer = self._copy or (None, None)
        collect_weights(self._model, model)
        if moments:
            collect_optimizer(self._optimizer, optimizer)
        if gradients:
            collect_gradients(self._model, model)

    def split(self) -> SplitState:
        """Return the state as this process holds it."""
        return split_state(self._model, self._optimizer)

    def load(
        self, state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Load this process's parts of a checkpoint, and bring the copy up to date.

        Args:
            state: of the checkpoint, the same on all processes.
            model, optimizer: unused.
        """
        self._model.load_state_dict(divide_model_state(state["model_state_dict"], self._model))
        moments = divide_optimizer_state(state["optimizer_state_dict"], self._optimizer)
        self._optimizer.load_state_dict(moments)
        self.collect(moments=True)
