"""The content of a checkpoint, read at once or, for what only the optimizer changes, later."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from spectral_exp.core.errors import require
from spectral_exp.core.git import git_hash
from spectral_exp.core.redact import with_fields, without_secrets
from spectral_exp.core.steps import whole_step
from spectral_exp.core.timestamps import timestamp

if TYPE_CHECKING:
    import torch
    from torch import nn

CHECKPOINT_KEYS = (
    "step",
    "model_state_dict",
    "optimizer_state_dict",
    "loss_history",
    "config",
    "timestamp",
    "git_hash",
)
"""The entries of every checkpoint."""


class HasState(Protocol):
    """An optimizer, or any other object with such a `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in containers of tensors and numbers."""


@dataclass(frozen=True)
class LiveState:
    """The objects whose state a checkpoint holds, as the caller passes them.

    Attributes:
        step: step just finished.
        model: its weights are named as they are without wrappers.
        optimizer: gives its `state_dict()`.
        loss_history: one loss per step.
        config: for readers.
        extra: further entries; texts in them are kept without secrets.
        is_best: whether it is the best state so far.
    """

    step: int
    model: nn.Module
    optimizer: HasState
    loss_history: Sequence[float] | torch.Tensor
    config: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    is_best: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", whole_step(self.step))


class CheckpointState:
    """The state after a step, as a checkpoint keeps it.

    The constructor reads everything that may change at once: buffers, which a forward changes,
    learning rates and every plain value. Of parameters and moments it keeps aliases, which takes a
    fraction of the time. They show the same memory even if a parameter's `.data` is replaced, and
    `complete` reads them.

    Args:
        live: the objects to read.
        loss_history: of `live`, as `LossHistory.tensor` makes it.
        config: of `live`, as `KeptConfig.of` makes it.

    Attributes:
        urgent: the tensors that may change at once.
        watched: the aliases, whose values must stay until they are copied or written; those of the
            `n_weights` parameters come first.
        entries: the entries to write, once `complete` has been called.

    Raises:
        SettingError: `extra` uses a standard key.
        TypeError: the state holds objects that cannot be loaded safely.
    """

    def __init__(
        self, live: LiveState, loss_history: torch.Tensor, config: Mapping[str, Any]
    ) -> None:
        from torch import nn

        from spectral_exp.monitoring.checkpoint.model_state import plain_state
        from spectral_exp.monitoring.checkpoint.portable import aliased_state, portable_state

        clash = [key for key in CHECKPOINT_KEYS if key in live.extra]
        names = [name for name in live.extra if not isinstance(name, str)]
        require(not names, "extra", names, "a mapping from names, which are strings")
        require(not clash, "extra", clash, "without the names of a checkpoint's own entries")
        self.urgent: list[torch.Tensor] = []
        self.watched: list[torch.Tensor] = []
        # Mappings of their own, whose values may be replaced.
        weights = plain_state(live.model)
        moments = dict(live.optimizer.state_dict())
        buffers = {
            name: value for name, value in weights.items() if not isinstance(value, nn.Parameter)
        }
        learned = {name: value for name, value in weights.items() if name not in buffers}
        weights.update(aliased_state(learned, self.watched, self.urgent))
        self.n_weights = len(self.watched)
        self._names = list(learned)
        weights.update(portable_state(buffers, "model_state_dict", self.urgent))
        settings = {name: value for name, value in moments.items() if name != "state"}
        if "state" in moments:
            moments["state"] = aliased_state(moments["state"], self.watched, self.urgent)
        moments.update(portable_state(settings, "optimizer_state_dict", self.urgent))
        self.entries: dict[str, Any] = {
            "step": int(live.step),
            "model_state_dict": weights,
            "optimizer_state_dict": moments,
            "loss_history": loss_history,
            "config": config,
            "timestamp": timestamp(),
            "git_hash": git_hash(),
            **without_secrets(portable_state(live.extra, "extra", self.urgent)),
        }

    def complete(self) -> list[torch.Tensor]:
        """Look at parameters and moments, and return all tensors of model and optimizer.

        Raises:
            TypeError: the state holds objects that cannot be loaded safely.
        """
        from spectral_exp.monitoring.checkpoint.portable import portable_state

        tensors: list[torch.Tensor] = []
        for name in ("model_state_dict", "optimizer_state_dict"):
            self.entries[name] = portable_state(self.entries[name], name, tensors)
        return tensors

    def name_of(self, watched: torch.Tensor) -> str:
        """Return the name of a watched tensor in messages."""
        for name, tensor in zip(self._names, self.watched, strict=False):
            if tensor is watched:
                return f"model_state_dict[{name!r}]"
        return "a tensor of optimizer_state_dict"


class KeptConfig:
    """The configuration for checkpoints: plain, without secrets, converted only after a change."""

    def __init__(self) -> None:
        self._newest: tuple[Any, dict[str, Any]] = (None, {})

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` for a checkpoint; objects other than numbers and strings are kept as text."""
        from spectral_exp.monitoring.checkpoint.portable import portable_config

        plain = portable_config(with_fields(config))
        if plain != self._newest[0]:
            # In one assignment, between which and the next no signal handler can raise.
            self._newest = (plain, without_secrets(plain))
        return self._newest[1]


class LossHistory:
    """Converts losses to one float64 tensor, which is saved a hundred times faster than a list.

    A list that has only grown since the last call costs a comparison of its old part.
    """

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._values = array("d")

    def tensor(self, losses: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """The losses, as they are now, (steps,)."""
        import torch

        if isinstance(losses, torch.Tensor):
            return losses.detach().to("cpu", torch.float64, copy=True)
        if len(losses) and isinstance(losses[-1], torch.Tensor):
            losses = [float(torch.as_tensor(loss).detach()) for loss in losses]
        if not isinstance(losses, array):
            try:
                losses = self._array(losses)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"loss_history holds values that are no numbers: {error}"
                ) from error
        return (
            torch.frombuffer(losses, dtype=torch.float64).clone()
            if losses
            else torch.empty(0, dtype=torch.float64)
        )

    def _array(self, losses: Sequence[float]) -> array[float]:
        if not isinstance(losses, list):
            return array("d", losses)
        if losses[: len(self._seen)] != self._seen:
            self._seen, self._values = [], array("d")
        del self._values[len(self._seen) :]  # what an interrupted call has added
        new = losses[len(self._seen) :]
        self._values += array("d", new)
        self._seen += new
        return self._values
