"""AdamW, and the setting checks that it shares with RGD."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from spectral_exp.core.errors import require
from spectral_exp.optim.eager import EagerAdamW

Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]

# Devices with a fused kernel in every supported version of torch.
FUSED_DEVICES = ("cpu", "cuda")


def build_adamw(
    params: Parameters,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """Build PyTorch's AdamW (Loshchilov & Hutter 2019).

    Args:
        params: parameters or groups of them; a group's own settings take precedence.
        learning_rate: > 0.
        betas: decay of the mean and of the mean square of gradients, each >= 0 and < 1.
        eps: > 0, added to the root of the mean square.
        weight_decay: >= 0, decoupled from the gradient.
        fused: whether to use the fused kernel; None uses it if it supports the devices of all
            parameters.
    """
    check_adam("learning_rate", learning_rate, betas, eps, weight_decay)
    groups = as_groups(params)
    if fused is None:
        tensors = [tensor for group in groups for tensor in group["params"]]
        fused = all(t.device.type in FUSED_DEVICES and t.is_floating_point() for t in tensors)
    return EagerAdamW(
        groups,
        lr=learning_rate,
        betas=(betas[0], betas[1]),
        eps=eps,
        weight_decay=weight_decay,
        fused=fused,
    )


def as_groups(params: Parameters) -> list[dict[str, Any]]:
    """Return `params` as a list of groups, each with a list of parameters."""
    items: list[Any] = list(params)
    if not all(isinstance(item, dict) for item in items):
        return [{"params": items}]
    return [{**group, "params": list(group["params"])} for group in items]


def check_adam(
    rate_name: str, rate: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    """Raise SettingError for a setting out of range; `rate_name` names the learning rate in it."""
    require(0 < rate < math.inf, rate_name, rate, "> 0")
    require(
        len(betas) == 2 and all(0 <= b < 1 for b in betas),
        "betas",
        betas,
        "two numbers, each >= 0 and < 1",
    )
    require(0 < eps < math.inf, "eps", eps, "> 0")
    require(0 <= weight_decay < math.inf, "weight_decay", weight_decay, ">= 0")
