"""Optimizers that leave torch's compiler alone.

torch guards the methods of its optimizers against being traced by `torch.compile`: the first call of each imports
`torch._dynamo`, and with it sympy and torch.distributed, for about a second. No step of ours is ever traced, so the
classes here call the same methods without their guards.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor


class EagerOptimizer(torch.optim.Optimizer):
    """The base class of torch's optimizers, unguarded; `step` is left to the subclass."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class EagerAdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's AdamW, unguarded. `differentiable` is not supported."""

    # torch's own guard of `step` switches gradients off as well.
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    @property
    def can_step_conditionally(self) -> bool:
        """Whether `step_if` can be used: the fused kernel alone looks at a flag before it writes."""
        return bool(self.defaults["fused"])

    def step_if(self, finite: Tensor) -> None:
        """Do a step where `finite`, a 0-dimensional bool on the device of the parameters, is true; else none at all.

        The flag is the one that `torch.amp.GradScaler` sets. The host waits for nothing.
        """
        self.found_inf, self.grad_scale = (~finite).float(), None
        try:
            self.step()
        finally:
            del self.found_inf, self.grad_scale
