"""Full precision for phases, norms and sums while the rest of the model runs in bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Return `x` in at least float32: half precisions are widened, others pass unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context manager that disables autocast on the device of `x`."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()  # an exported program cannot hold a context
    return torch.autocast(x.device.type, enabled=False)
