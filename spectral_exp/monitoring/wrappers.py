"""Wrappers around a model that prefix the names of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def inner_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds what it wraps; None for all other modules.

    Wrappers are `DataParallel`, `DistributedDataParallel` and the result of `torch.compile`.
    """
    from torch import nn

    from spectral_exp.monitoring.torch_private import COMPILED_NAME, compiled_inside

    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return None if compiled_inside(module) is None else COMPILED_NAME


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside any wrappers."""
    while (name := inner_name(model)) is not None:
        model = getattr(model, name)
    return model
