"""The torch device that the setting `device` names."""

from __future__ import annotations

import torch

from spectral_exp.core.errors import SettingError


def resolve_device(name: str) -> torch.device:
    """Return the device `name`; "auto" is the first GPU of this machine, or the CPU.

    Raises:
        SettingError: this machine has no such device.
    """
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
