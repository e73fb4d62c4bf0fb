"""Trial step of an optimizer on small stand-ins for a model's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spectral_exp.core.errors import UserError

_SIZE = 2


def stand_ins(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `groups` with one small parameter per number of dimensions and zero gradients."""
    small = []
    for group in groups:
        parameters = [
            torch.nn.Parameter(torch.zeros([_SIZE] * n))
            for n in sorted({p.ndim for p in group["params"]})
        ]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        small.append({**group, "params": parameters})
    return small


def try_step(optimizer: torch.optim.Optimizer) -> None:
    """Do one step with `optimizer`, whose parameters are stand-ins.

    Raises:
        UserError: the step fails without a closure and with dense gradients, as in the training
            loop.
    """
    kind = type(optimizer).__name__
    try:
        optimizer.step()
    except Exception as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"optimizer: {kind} cannot do a step of the training loop: {type(error).__name__}: "
            f"{message}; choose another optimizer"
        ) from error
