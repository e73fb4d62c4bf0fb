"""The settings of training on several processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spectral_exp.core.errors import SettingError, require
from spectral_exp.distributed.world import World


@dataclass(frozen=True)
class DistributedSettings:
    """The settings of training on several processes; conf/distributed/default.yaml explains each.

    None of them is part of the experiment: a run may continue on another number of processes.
    """

    nproc: int | None = None
    strategy: Literal["ddp", "fsdp"] = "ddp"
    exact: bool = False
    shard_optimizer: bool = False
    init_timeout_s: float = 1800.0
    step_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        require(self.nproc is None or self.nproc >= 1, "nproc", self.nproc, ">= 1 or null")
        require(self.strategy in ("ddp", "fsdp"), "strategy", self.strategy, "ddp or fsdp")
        for name in ("init_timeout_s", "step_timeout_s"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, name, value, "a finite number > 0")

    def refuse_other_size(self, world: World) -> None:
        """Raise a SettingError if `nproc` contradicts the number of processes that were started."""
        if self.nproc is not None and world.size > 1 and self.nproc != world.size:
            raise SettingError(
                "distributed.nproc",
                self.nproc,
                f"{world.size}, the number of processes that were started, or null",
            )


def refuse_unshardable(compiles: bool) -> None:
    """Raise a SettingError if a model cannot be divided among processes here.

    Args:
        compiles: whether the model is to be compiled.
    """
    require(not compiles, "training.compile", "true", "false with distributed.strategy=fsdp")
    from torch.distributed import fsdp

    if not hasattr(fsdp, "fully_shard"):
        remedy = "install torch >= 2.6"
        raise SettingError("distributed.strategy", "fsdp", "ddp with this version of torch", remedy)


def refuse_unshareable(optimizer: object) -> None:
    """Raise a SettingError if processes cannot share the updates of `optimizer`."""
    require(
        hasattr(optimizer, "owners"),
        "distributed.shard_optimizer",
        "true",
        f"false with {type(optimizer).__name__}, whose updates cannot be shared; RGD's can",
    )


def refuse_indivisible_optimizer(optimizer: object) -> None:
    """Raise a SettingError if `optimizer` needs whole matrices and does not collect them."""
    require(
        not getattr(optimizer, "needs_whole_matrices", False),
        "distributed.strategy",
        "fsdp",
        "ddp with optimizer=muon, which needs whole matrices",
        "optimizer=rgd optimizer.direction=muon optimizer.resonance_strength=0 takes the same "
        "steps and collects them",
    )


def refuse_indivisible(size: int, grad_accum_steps: int, batch_size: int) -> None:
    """Raise a SettingError unless `size` processes can share the micro-batches of a step equally.

    Args:
        size: number of processes.
        grad_accum_steps: micro-batches of a step, over all processes.
        batch_size: sequences of a micro-batch.
    """
    if grad_accum_steps % size == 0:
        return
    sequences = grad_accum_steps * batch_size
    if sequences % size == 0:
        count = math.lcm(grad_accum_steps, size)
        count = count if sequences % count == 0 else size
        remedy = (
            f"training.grad_accum_steps={count} training.batch_size={sequences // count} trains "
            f"the same {sequences} sequences in a step"
        )
    else:
        remedy = (
            f"a step of {sequences} sequences (batch_size x grad_accum_steps) cannot be divided "
            f"by {size}"
        )
    raise SettingError(
        "training.grad_accum_steps",
        grad_accum_steps,
        f"a multiple of {size}, the number of processes (distributed.nproc), each of which "
        "computes whole micro-batches",
        remedy,
    )


def number_of_processes(config: Mapping[str, Any]) -> int:
    """Return `distributed.nproc` if it is a number; other values are reported by the checks."""
    settings = config.get("distributed")
    size = settings.get("nproc") if isinstance(settings, Mapping) else None
    return size if isinstance(size, int) and size > 1 else 1


def can_divide_step(config: Mapping[str, Any], size: int) -> bool:
    """Return whether `size` processes may share a step.

    Otherwise the run is refused, before a misspelt number starts a thousand processes.
    """
    training = config.get("training")
    count = training.get("grad_accum_steps") if isinstance(training, Mapping) else None
    return isinstance(count, int) and count % size == 0
