"""One save under way: the state of its moment, its copy, and every optimizer that has to wait for it."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from spectral_exp.monitoring.checkpoint.state import CheckpointState, HasState

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spectral_exp.monitoring.checkpoint.staging import Staged, StagingArena, Watch

_SMALL_BYTES = 1 << 20
"""A state of this size is copied before the call returns: that takes less time than to guard it."""


class Saver(Protocol):
    """A manager of checkpoints."""

    def fence(self) -> None:
        """Return once the state being saved may be changed."""

    def close(self) -> bool:
        """Wait for the save under way."""


saving: set[Saver] = set()
"""The managers with a save under way."""


@atexit.register
def _close_all() -> None:
    """Let no save be cut off by the end of the process, even if nothing refers to its manager any more."""
    for saver in tuple(saving):
        saver.close()


def _fence_all(*_: object) -> None:
    """Called by torch before every optimizer's step."""
    for saver in tuple(saving):
        saver.fence()


@functools.cache
def _guard_optimizers() -> None:
    """Let every optimizer of this process wait for the copies under way, from now on and for good.

    The hook costs a step a fraction of a microsecond while nothing is copied. Taking it away again could fail in a
    thread whose optimizer is just going through its hooks.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(_fence_all)


@dataclass
class Save:
    """A save, shared by the thread that trains and the one that writes: calling it writes it.

    Attributes:
        step: the step whose state it holds.
        is_best: whether it is the best so far.
        started_s: when it was asked for.
        write: does the writing.
        state: what to write.
        staged: the copy of the state; None if the caller waits and the state itself is written.
        watch: the tensors that are written without a copy.
        blocked_s: seconds that training has waited for it.
        is_durable: whether it has become a checkpoint.
    """

    step: int
    is_best: bool
    started_s: float
    write: Callable[[Save], None]
    state: CheckpointState = field(init=False)
    staged: Staged | None = None
    watch: Watch | None = None
    blocked_s: float = 0.0
    is_durable: bool = False

    def __call__(self) -> None:
        """Write it. For the writer's thread."""
        self.write(self)

    def capture(
        self,
        model: nn.Module,
        optimizer: HasState,
        loss_history: torch.Tensor,
        config: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> None:
        """Take the state of this moment, which must not change before it has been written.

        Raises:
            SettingError, TypeError: as `CheckpointState` does.
        """
        from spectral_exp.monitoring.checkpoint.staging import Watch, synchronize_gpus

        self.state = CheckpointState(self.step, model, optimizer, loss_history, config, extra)
        self.watch = Watch(self.state.watched, self.state.n_weights)
        synchronize_gpus(self.state.watched)

    def capture_copy(
        self,
        model: nn.Module,
        optimizer: HasState,
        loss_history: torch.Tensor,
        config: Mapping[str, Any],
        extra: Mapping[str, Any],
        arena: StagingArena,
        at_once: bool,
    ) -> None:
        """Take the state of this moment, and begin to copy it; with `at_once` it is copied when this returns."""
        import torch

        from spectral_exp.monitoring.checkpoint.staging import Staged, storages_of

        _guard_optimizers()
        self.state = state = CheckpointState(self.step, model, optimizer, loss_history, config, extra)
        at_once |= not isinstance(optimizer, torch.optim.Optimizer)  # nothing guards what it changes
        at_once |= sum(tensor.nbytes for tensor in state.watched) <= _SMALL_BYTES
        self.staged = Staged(
            arena,
            storages_of(state.urgent),
            lambda: storages_of(state.complete()),
            state.watched,
            state.n_weights,
            at_once=at_once,
        )

    def finish_copy(self, timeout_s: float | None) -> None:
        """Return once the state has been copied, or after `timeout_s`."""
        if self.staged is None or self.staged.is_free:
            return
        started = time.perf_counter()
        self.staged.finish(timeout_s)
        self.blocked_s += time.perf_counter() - started
