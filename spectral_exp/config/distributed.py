"""Build the settings of training on several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectral_exp.config.construct import Constructor
from spectral_exp.config.parts import make_part
from spectral_exp.distributed.settings import (
    DistributedSettings,
    refuse_indivisible,
    refuse_unshardable,
)
from spectral_exp.distributed.world import World
from spectral_exp.training.settings import TrainingSettings


def make_distributed_settings(
    config: Mapping[str, Any], world: World, training: TrainingSettings | None, make: Constructor
) -> DistributedSettings | None:
    """Return the settings of several processes; a run recorded before they existed has none."""
    if "distributed" not in config:
        return DistributedSettings()
    settings: DistributedSettings | None = make_part(config, "distributed", make)
    if settings is None or world.size == 1:
        return settings
    make.call("", lambda: settings.refuse_other_size(world))
    if training is not None:
        count, batch_size = training.grad_accum_steps, training.batch_size
        make.call("", lambda: refuse_indivisible(world.size, count, batch_size))
        if settings.strategy == "fsdp":
            make.call("", lambda: refuse_unshardable(training.compile))
    return settings
