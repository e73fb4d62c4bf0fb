"""Optimizers that do not import torch's compiler.

torch guards the methods of its optimizers against tracing by `torch.compile`: the first call of
each imports `torch._dynamo`, and with it sympy and torch.distributed, which takes about a second.
This package never traces a step, so these classes call the same methods without their guards.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor


class EagerOptimizer(torch.optim.Optimizer):
    """torch's optimizer base class without guards; the subclass defines `step`."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class EagerAdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's AdamW without guards; does not support `differentiable`."""

    # torch's guard of `step` also disables gradients.
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    @property
    def can_step_conditionally(self) -> bool:
        """Whether `step_if` is supported, that is whether the kernel is fused."""
        return bool(self.defaults["fused"])

    def step_if(self, finite: Tensor) -> None:
        """Step only if `finite`, a 0-dimensional bool on the device of the parameters, is true.

        The flag is that of `torch.amp.GradScaler`. The host does not synchronize with the device.
        """
        self.found_inf, self.grad_scale = (~finite).float(), None
        try:
            self.step()
        finally:
            del self.found_inf, self.grad_scale
