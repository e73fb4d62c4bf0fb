"""Build the processes that train together, and what each of them trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from spectral_exp.config.optimizer import build_optimizer
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.distributed.settings import DistributedSettings
from spectral_exp.models.gpt import GPT

if TYPE_CHECKING:
    from spectral_exp.distributed.rendezvous import Rendezvous


def make_ranks(
    settings: DistributedSettings,
    device: torch.device,
    optimizer: torch.optim.Optimizer,
    rendezvous: Rendezvous | None,
) -> Ranks:
    """Return the processes that meet at `rendezvous`; None is a single process."""
    if rendezvous is None:
        return Ranks(device)
    if settings.strategy == "fsdp":
        from spectral_exp.distributed.sharded_ranks import ShardedRanks

        return ShardedRanks(rendezvous, settings, device)
    from spectral_exp.distributed.group import GroupRanks

    ranks = GroupRanks(rendezvous, settings, device)
    if settings.shard_optimizer:
        ranks.share_updates(optimizer)
    return ranks


def divide(
    config: Mapping[str, Any], model: GPT, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> tuple[GPT, torch.optim.Optimizer] | None:
    """Return what this process trains if it holds a part of the model only, else None."""
    if not ranks.is_sharded:
        return None
    from spectral_exp.distributed.sharded_ranks import ShardedRanks

    assert isinstance(ranks, ShardedRanks)
    if ranks.world.is_main:
        ranks.keep_copy(model, optimizer)
        model = copy.deepcopy(model)
    return model, ranks.shard(model, model.blocks, lambda divided: build_optimizer(config, divided))
