"""Trying an optimizer on the shapes of a model before the model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spectral_exp.core.errors import UserError

_SIZE = 2


def stand_ins(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups like `groups`, with one small parameter for each number of dimensions; gradients are zero."""
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
        UserError: it cannot do a step of the training loop, which passes no closure and has dense gradients.
    """
    kind = type(optimizer).__name__
    try:
        optimizer.step()
    except Exception as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"optimizer: {kind} cannot do a step of the training loop: {type(error).__name__}: {message}; "
            "choose another optimizer"
        ) from error
