"""Build the processes that train together, and what each of them trains."""

from __future__ import annotations

import copy
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectral_exp.config.optimizer import build_optimizer
from spectral_exp.core.errors import UserError
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.distributed.settings import DistributedSettings
from spectral_exp.models.gpt import GPT
from spectral_exp.runs.lock import read_owner

if TYPE_CHECKING:
    from spectral_exp.distributed.rendezvous import Rendezvous


_RUN_DIR_KEY = "run_dir"
_APPEARANCE_S = 60.0
"""How long a network file system may hide a new folder from another host."""


def share_run(rendezvous: Rendezvous, root: Path) -> None:
    """Let the other processes know the run directory, which this process owns."""
    rendezvous.put(_RUN_DIR_KEY, str(root.absolute()))


def find_shared_run(rendezvous: Rendezvous) -> Path:
    """Return the run directory of process 0, as soon as it appears on this host.

    Raises:
        UserError: it does not appear, so the hosts do not share it.
    """
    root = Path(rendezvous.get(_RUN_DIR_KEY))
    main = rendezvous.member(0)

    def is_visible() -> bool:
        owner = read_owner(root)
        return owner is not None and (owner["host"], owner["pid"]) == (main["host"], main["pid"])

    # Process 0, which waits for this one meanwhile, has to last until it gets the reason.
    if not rendezvous.wait_until(is_visible, min(rendezvous.timeout_s / 2, _APPEARANCE_S)):
        raise UserError(
            f"{root} on {socket.gethostname()} is not the run directory of rank 0 on "
            f"{main['host']}; all processes need outputs= on a disk that they share"
        )
    return root


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
