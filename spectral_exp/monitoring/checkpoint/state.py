"""The content of a checkpoint, read at once or, for what only the optimizer changes, later."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

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

STATES_KEY = "states"
"""The entry of further objects by name, if there are any."""

T = TypeVar("T")


class HasState(Protocol):
    """An optimizer, or any other object with such a `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in containers of tensors and numbers."""


Models: TypeAlias = "nn.Module | Mapping[str, nn.Module]"
"""A model, or several by name."""

Optimizers: TypeAlias = "HasState | Mapping[str, HasState]"
"""An optimizer, or several by name."""


@dataclass(frozen=True)
class LiveState:
    """The objects whose state a checkpoint holds, as the caller passes them.

    Attributes:
        step: step just finished.
        model: its weights are named as they are without wrappers. Several by name.
        optimizer: gives its `state_dict()`. Several by name.
        loss_history: one loss per step.
        config: for readers.
        extra: further entries; texts in them are kept without secrets.
        is_best: whether it is the best state so far.
        states: further objects by name, which may change at once.
    """

    step: int
    model: Models
    optimizer: Optimizers
    loss_history: Sequence[float] | torch.Tensor
    config: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    is_best: bool = False
    states: Mapping[str, HasState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", whole_step(self.step))

    @property
    def models(self) -> Mapping[str, nn.Module]:
        """The models by name; the only one without a name is called ""."""
        return _by_name("model", self.model)

    @property
    def optimizers(self) -> Mapping[str, HasState]:
        """The optimizers by name; the only one without a name is called ""."""
        return _by_name("optimizer", self.optimizer)


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
        from spectral_exp.monitoring.checkpoint.portable import portable_state

        clash = [key for key in (*CHECKPOINT_KEYS, STATES_KEY) if key in live.extra]
        names = [name for name in live.extra if not isinstance(name, str)]
        require(not names, "extra", names, "a mapping from names, which are strings")
        require(not clash, "extra", clash, "without the names of a checkpoint's own entries")
        self.urgent: list[torch.Tensor] = []
        self.watched: list[torch.Tensor] = []
        self._names: list[str] = []
        weights = {name: self._read_model(name, model) for name, model in live.models.items()}
        self.n_weights = len(self.watched)
        moments = {name: self._read_optimizer(one) for name, one in live.optimizers.items()}
        states = {name: state_of(one) for name, one in check_states("states", live.states).items()}
        self.entries: dict[str, Any] = {
            "step": int(live.step),
            "model_state_dict": weights.get("", weights),
            "optimizer_state_dict": moments.get("", moments),
            "loss_history": loss_history,
            "config": config,
            "timestamp": timestamp(),
            "git_hash": git_hash(),
            **({STATES_KEY: portable_state(states, STATES_KEY, self.urgent)} if states else {}),
            **without_secrets(portable_state(live.extra, "extra", self.urgent)),
        }

    def _read_model(self, model_name: str, model: nn.Module) -> dict[str, Any]:
        """Return the weights of a model: aliases of its parameters, and its present buffers."""
        from torch import nn

        from spectral_exp.monitoring.checkpoint.model_state import plain_state
        from spectral_exp.monitoring.checkpoint.portable import aliased_state, portable_state

        # A mapping of its own, whose values may be replaced.
        weights = plain_state(model)
        buffers = {
            name: value for name, value in weights.items() if not isinstance(value, nn.Parameter)
        }
        learned = {name: value for name, value in weights.items() if name not in buffers}
        weights.update(aliased_state(learned, self.watched, self.urgent))
        start = f"[{model_name!r}]" if model_name else ""
        self._names += [f"{start}[{name!r}]" for name in learned]
        weights.update(portable_state(buffers, f"model_state_dict{start}", self.urgent))
        return weights

    def _read_optimizer(self, optimizer: HasState) -> dict[str, Any]:
        """Return the state of an optimizer: aliases of its moments, and its present settings."""
        from spectral_exp.monitoring.checkpoint.portable import aliased_state, portable_state

        moments = dict(optimizer.state_dict())
        settings = {name: value for name, value in moments.items() if name != "state"}
        if "state" in moments:
            moments["state"] = aliased_state(moments["state"], self.watched, self.urgent)
        moments.update(portable_state(settings, "optimizer_state_dict", self.urgent))
        return moments

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
                return f"model_state_dict{name}"
        return "a tensor of optimizer_state_dict"


def state_of(source: HasState) -> dict[str, Any]:
    """Return the state of an object; that of a model without the names of wrappers."""
    from torch import nn

    from spectral_exp.monitoring.checkpoint.model_state import plain_state

    return plain_state(source) if isinstance(source, nn.Module) else source.state_dict()


def check_states(argument: str, sources: Mapping[str, T]) -> Mapping[str, T]:
    """Return objects with a state by name.

    Raises:
        SettingError: a name is no text or empty, or an object has no state.
    """
    wrong = [name for name in sources if not (isinstance(name, str) and name)]
    require(not wrong, argument, wrong, "by names, which are texts")
    lacking = [name for name, one in sources.items() if not hasattr(one, "state_dict")]
    require(not lacking, argument, lacking, "objects with a state_dict")
    return sources


def _by_name(argument: str, source: T | Mapping[str, T]) -> Mapping[str, T]:
    if isinstance(source, Mapping):
        return check_states(argument, source)
    allowed = "an object with a state_dict, or several in a mapping from names"
    require(hasattr(source, "state_dict"), argument, type(source).__name__, allowed)
    return {"": source}


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
