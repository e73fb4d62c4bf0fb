"""Build the budget of training from the settings and the sizes of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectral_exp.config.construct import Constructor
from spectral_exp.runs.planned import TRAINING_PASSES
from spectral_exp.training.budget import Budget
from spectral_exp.training.settings import TrainingSettings

NO_BUDGET = Budget(max_steps=1)
"""Stands for the budget of a configuration that has mistakes."""


def make_budget(
    config: Mapping[str, Any], settings: TrainingSettings | None, model: Any, make: Constructor
) -> Budget:
    """Return the budget of training; `NO_BUDGET` if parts that it depends on have mistakes."""
    section = config.get("model")
    block_size = section.get("block_size") if isinstance(section, Mapping) else None
    if settings is None or model is None or not isinstance(block_size, int | float):
        return NO_BUDGET
    flops = make.call("model", model.flops_per_token)
    return Budget(
        max_steps=settings.max_steps,
        max_tokens=settings.max_tokens,
        max_flops=settings.max_flops,
        max_train_s=settings.max_train_s,
        tokens_per_step=settings.batch_size * int(block_size) * settings.grad_accum_steps,
        flops_per_token=TRAINING_PASSES * int(flops or 0),
    )
