"""The length that a run is planned to have, by its recorded settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from spectral_exp.core.errors import UserError
from spectral_exp.runs.overrides import BUDGET

TRAINING_PASSES = 3
"""FLOPs of a training step per FLOP of its forward pass: the backward pass computes the gradients
of the inputs and of the weights of each operation."""

_SIZES = ("training.batch_size", "model.block_size", "training.grad_accum_steps")


def planned_steps(settings: Mapping[str, Any], record: Mapping[str, Any]) -> int | None:
    """Return the first step that reaches a limit in steps, tokens or FLOPs; None if unknown.

    Args:
        settings: dotted name -> value.
        record: the content of `config.json`.
    """
    sizes = [settings.get(name, 1) for name in _SIZES]
    model = record.get("model")
    per_token = model.get("flops_per_token") if isinstance(model, Mapping) else None
    tokens = math.prod(sizes) if all(_is_positive(size) for size in sizes) else None
    flops = tokens * TRAINING_PASSES * per_token if tokens and _is_positive(per_token) else None
    costs = {"max_steps": 1, "max_tokens": tokens, "max_flops": flops}
    last_steps = []
    for name, cost in costs.items():
        limit = settings.get(f"training.{name}")
        if _is_positive(limit) and cost:
            last_steps.append(-(-math.ceil(limit) // math.ceil(cost)))
    return min(last_steps, default=None)


def describe_limits(settings: Mapping[str, Any]) -> str:
    """Return the limits of a run as settings, such as `training.max_steps=1200`.

    Args:
        settings: dotted name -> value.
    """
    known = {name: settings.get(name) for name in BUDGET}
    return ", ".join(f"{name}={value}" for name, value in known.items() if value is not None)


def refuse_time_budget(run: object, config: Mapping[str, Any]) -> None:
    """Raise a UserError if the length and the learning rates of a run depend on its speed."""
    seconds = config.get("training", {}).get("max_train_s")
    if seconds is not None:
        raise UserError(
            f"{run} cannot be repeated: its last step, and the learning rates of most schedules, "
            f"depend on the speed of the machine (training.max_train_s={seconds}); budgets in "
            "steps, tokens or FLOPs can be repeated"
        )


def _is_positive(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
