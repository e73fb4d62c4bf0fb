"""Optimizers without the guards of the compiler keep the public behaviour of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spectral_exp.optim.adamw import build_adamw
from spectral_exp.optim.muon import build_muon
from spectral_exp.optim.rgd import build_rgd


@pytest.mark.parametrize("make", [build_adamw, build_muon, build_rgd])
def test_hooks_are_called_around_a_step(make: Callable[..., torch.optim.Optimizer]) -> None:
    """Background checkpoints copy the state until the hook before the step."""
    model = nn.Linear(3, 3)
    optimizer = make([{"params": list(model.parameters()), "role": "hidden"}])
    before = model.weight.detach().clone()
    seen: list[bool] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.equal(model.weight, before)))
    optimizer.register_step_post_hook(lambda *_: seen.append(torch.equal(model.weight, before)))
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert seen == [True, False]
