"""Optimizers that leave torch's compiler alone.

torch guards the methods of its optimizers against being traced by `torch.compile`: the first call of each imports
`torch._dynamo`, and with it sympy and torch.distributed, for about a second. No step of ours is ever traced, so the
classes here call the same methods without their guards.
"""

from __future__ import annotations

import inspect

import torch


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
