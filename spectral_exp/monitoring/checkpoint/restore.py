"""Load a checkpoint into models, optimizers and other objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.monitoring.checkpoint.model_state import load_plain_state
from spectral_exp.monitoring.checkpoint.state import (
    STATES_KEY,
    HasState,
    LiveState,
    Models,
    Optimizers,
    check_states,
)


def restore(
    checkpoint: Mapping[str, Any],
    model: Models,
    optimizer: Optimizers | None,
    states: Mapping[str, HasState],
) -> int:
    """Load a checkpoint; see `CheckpointManager.restore`."""
    live = LiveState(checkpoint["step"], model, optimizer or {}, (), {})
    pairs = _pairs(checkpoint, "model_state_dict", live.models)
    pairs += _pairs(checkpoint, "optimizer_state_dict", live.optimizers)
    pairs += _pairs(checkpoint, STATES_KEY, check_states(STATES_KEY, states))
    for target, state in pairs:
        if isinstance(target, nn.Module):
            load_plain_state(target, state)
        else:
            target.load_state_dict(state)
    return live.step


def _pairs(
    checkpoint: Mapping[str, Any], key: str, targets: Mapping[str, Any]
) -> list[tuple[Any, Any]]:
    """Return each object with its state. Raises UserError if the checkpoint lacks one."""
    found = checkpoint.get(key) or {}
    if "" in targets:
        return [(targets[""], found)]
    missing = [name for name in targets if name not in found]
    if missing:
        raise UserError(
            f"the checkpoint of step {checkpoint['step']} has no {missing[0]} in {key}"
            f"{nearest(missing[0], found)}; it has {', '.join(map(str, found)) or 'none'}"
        )
    return [(target, found[name]) for name, target in targets.items()]
