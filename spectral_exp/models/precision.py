"""Keeping phases, norms and sums in full precision while the rest of the model runs in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 at least: half precisions are widened, float32 and float64 pass unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """A context for `x`'s device in which autocast narrows nothing."""
    return torch.autocast(x.device.type, enabled=False)
