"""A save in progress: its state, the copy, and the optimizers that wait for the copy."""

from __future__ import annotations

import atexit
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from spectral_exp.monitoring.checkpoint.state import (
    CheckpointState,
    KeptConfig,
    LiveState,
    LossHistory,
)

if TYPE_CHECKING:
    import torch

    from spectral_exp.monitoring.checkpoint.staging import Staged, StagingArena, Watch

log = logging.getLogger(__name__)

_SMALL_BYTES = 1 << 20
"""A state up to this size is copied before the call returns, which is faster than guarding it."""


class Saver(Protocol):
    """A manager of checkpoints."""

    def fence(self) -> None:
        """Return once the state being saved may be changed."""

    def close(self) -> bool:
        """Wait for the save in progress."""


saving: set[Saver] = set()
"""The managers with a save in progress."""


@atexit.register
def _close_all() -> None:
    """Finish every save before the process ends, even if nothing refers to its manager any more."""
    for saver in tuple(saving):
        saver.close()


def _fence_all(*_: object) -> None:
    """Called by torch before every optimizer's step."""
    for saver in tuple(saving):
        saver.fence()


@functools.cache
def _guard_optimizers() -> None:
    """Make every optimizer of this process wait for copies in progress, from now on and for good.

    The hook costs a step a fraction of a microsecond while nothing is copied. Removing it could
    fail in a thread whose optimizer is just going through its hooks.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(_fence_all)


@dataclass(frozen=True)
class SaveReport:
    """The cost of one durable checkpoint.

    Attributes:
        step: the step it holds.
        blocked_s: seconds that training waited for it.
        durable_s: seconds from the call until it would have survived a power cut.
        size_bytes: of the file.
        compression_ratio: bytes of the state for each byte of the file.
    """

    step: int
    blocked_s: float
    durable_s: float
    size_bytes: int
    compression_ratio: float

    def metrics(self, *, with_compression: bool) -> dict[str, float]:
        """Return the cost under metric names."""
        cost = {
            "checkpoint_blocked_ms": 1e3 * self.blocked_s,
            "checkpoint_durable_s": self.durable_s,
            "checkpoint_size_mb": self.size_bytes / 1e6,
        }
        if with_compression:
            cost["checkpoint_compression"] = self.compression_ratio
        return cost


@dataclass
class Save:
    """A save, shared by the thread that trains and the one that writes: calling it writes it.

    Attributes:
        step: the step whose state it holds.
        is_best: whether it is the best so far.
        started_s: when it was requested.
        write: does the writing.
        state: the state to write.
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

    def complete(self, *, size_bytes: int, state_bytes: int) -> SaveReport:
        """Mark it as durable and return its cost. For the writer's thread."""
        self.is_durable = True
        durable_s = time.perf_counter() - self.started_s
        if self.staged is None:
            self.blocked_s = durable_s
        ratio = state_bytes / size_bytes
        return SaveReport(self.step, self.blocked_s, durable_s, size_bytes, ratio)

    def capture(self, state: CheckpointState) -> None:
        """Take a state, which must not change before it has been written."""
        from spectral_exp.monitoring.checkpoint.staging import Watch, synchronize_gpus

        self.state = state
        self.watch = Watch(state.watched, state.n_weights)
        synchronize_gpus(state.watched)

    def capture_copy(self, state: CheckpointState, arena: StagingArena, at_once: bool) -> None:
        """Take a state and begin to copy it; with `at_once` it is copied before this returns."""
        from spectral_exp.monitoring.checkpoint.staging import Staged, storages_of

        self.state = state
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


class StateCapture:
    """Takes the state of a moment for a save, and keeps what the next save can use again.

    Attributes:
        copies_at_once: copy the state before `take` returns, instead of while training goes on.
    """

    def __init__(self) -> None:
        self.copies_at_once = False
        self._history = LossHistory()
        self._config = KeptConfig()
        self._arena: StagingArena | None = None

    def take(self, live: LiveState, save: Save, *, with_copy: bool) -> None:
        """Give `save` the state of `live`, or begin to copy it.

        Raises:
            SettingError, TypeError: as `CheckpointState`.
            MemoryError, OSError, RuntimeError: there is no memory for it.
        """
        from torch.optim import Optimizer

        losses = self._history.tensor(live.loss_history)
        config = self._config.of(live.config)
        if not with_copy:
            save.capture(CheckpointState(live, losses, config))
            return
        _guard_optimizers()
        is_guarded = all(isinstance(one, Optimizer) for one in live.optimizers.values())
        at_once = self.copies_at_once or not is_guarded
        save.capture_copy(CheckpointState(live, losses, config), self._staging(), at_once)

    def reserve(self, storages: Sequence[torch.UntypedStorage]) -> None:
        """Allocate the memory for a copy of `storages`, if there is enough."""
        try:
            self._staging().reserve(storages)
        except (OSError, MemoryError, RuntimeError) as error:
            log.debug("no memory reserved for checkpoints: %s", error)  # the first save reports it

    def release_memory(self) -> None:
        """Drop the memory for copies."""
        self._arena = None

    def _staging(self) -> StagingArena:
        from spectral_exp.monitoring.checkpoint.staging import StagingArena

        self._arena = self._arena or StagingArena()
        return self._arena
