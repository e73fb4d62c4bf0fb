"""The torch device that the setting `device` names, and the processors of this machine."""

from __future__ import annotations

import os

import torch

from spectral_exp.core.errors import SettingError
from spectral_exp.distributed.world import SINGLE, World


def resolve_device(name: str, world: World = SINGLE) -> torch.device:
    """Return the device `name` of this process.

    "auto" is the first GPU of this machine, or the CPU. With several processes on a machine each
    one gets a GPU of its own; if there are not enough, they share them.

    Raises:
        SettingError: this machine has no such device, or several processes cannot use it.
    """
    if world.size > 1:
        return _own_device(name, world)
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        best = next((device for device in ("cuda:0", "mps") if device in available), "cpu")
        return torch.device(best)
    if name == "cuda" and "cuda:0" in available:
        name = "cuda:0"
    if name not in available:
        allowed = f"auto or one of the devices of this machine: {', '.join(available)}"
        raise SettingError("device", name, allowed)
    return torch.device(name)


def _own_device(name: str, world: World) -> torch.device:
    """Return the device of one of several processes."""
    gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if name not in ("auto", "cuda") or not gpus:
        allowed = "auto, cuda or cpu" if gpus else "auto or cpu"
        remedy = "each process takes a GPU of its own" if gpus else "this machine has no GPU"
        raise SettingError("device", name, f"{allowed} with {world.size} processes", remedy)
    return torch.device("cuda", world.local_rank % gpus)


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
