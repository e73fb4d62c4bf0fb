"""Trial calls of a model, a loss and a schedule: what does not fit is named before a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectral_exp.core.errors import UserError, describe_error
from spectral_exp.core.foreign_text import printable
from spectral_exp.training.contracts import Schedule

_B, _T = 2, 4


def try_model(model: nn.Module, vocab_size: int, block_size: int, device: torch.device) -> None:
    """Compute and differentiate the logits of a few tokens; draw no number from torch's generators.

    Raises:
        UserError: it fails, or returns something else than logits (B, T, V).
    """
    kind = type(model).__name__
    ids = torch.zeros(_B, min(_T, block_size), dtype=torch.long, device=device)
    shape = (*ids.shape, vocab_size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else ()):
        logits = _call(f"model: {kind}", lambda: model(ids))
        if not isinstance(logits, Tensor):
            found = f"a {type(logits).__name__}"
        elif logits.shape != shape or not logits.is_floating_point():
            found = f"a tensor {tuple(logits.shape)} of {logits.dtype}"
        elif not logits.requires_grad:
            found = "a tensor without gradient"
        else:
            _call(f"model: {kind}", logits.sum().backward)
            return
    raise UserError(
        f"model: {kind} must return logits with their gradient, a tensor {shape} of {vocab_size} "
        f"tokens for ids {tuple(ids.shape)}; it returns {found}; see Model in docs/extend.md"
    )


def try_loss(loss: nn.Module, vocab_size: int) -> None:
    """Compute and differentiate a loss of small logits; draw no number from torch's generators.

    Raises:
        UserError: it fails, or returns other values than `losses.Loss`.
    """
    kind = type(loss).__name__
    logits = torch.zeros(_B, _T, vocab_size, requires_grad=True)
    targets = torch.zeros(_B, _T, dtype=torch.long)
    with torch.random.fork_rng(devices=()):
        found = _call(f"loss: {kind}", lambda: loss(logits, targets))
        if not _is_objective_with_parts(found):
            raise UserError(
                f"loss: {kind} must return the scalar to differentiate, and a dict of its detached "
                "scalar parts with the plain cross-entropy as `loss`; see Loss in docs/extend.md"
            )
        _call(f"loss: {kind}", found[0].backward)


def try_schedule(schedule: Schedule) -> None:
    """Compute the factor of the first step.

    Raises:
        UserError: that fails, or is no finite number.
    """
    kind = type(schedule).__name__
    factor = _call(f"schedule: {kind}", lambda: schedule.factor(1))
    is_number = isinstance(factor, int | float) and math.isfinite(factor)
    if not is_number:
        raise UserError(
            f"schedule: {kind}.factor(1) must be a finite number, the factor on the learning rate; "
            f"it is {printable(repr(factor), 60)}"
        )


def _is_objective_with_parts(found: Any) -> bool:
    if not (isinstance(found, tuple) and len(found) == 2):
        return False
    objective, parts = found
    if not (isinstance(parts, Mapping) and "loss" in parts):
        return False
    are_scalars = all(
        isinstance(one, Tensor) and one.ndim == 0 for one in (objective, *parts.values())
    )
    return (
        are_scalars and objective.requires_grad and not any(p.requires_grad for p in parts.values())
    )


def _call(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise UserError(
            f"{name} cannot do a step of the training loop: {describe_error(error)}"
        ) from error
