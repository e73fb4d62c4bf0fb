"""Muon equals torch's Muon on hidden matrices and AdamW on everything else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.core.errors import SettingError
from spectral_exp.optim.adamw import build_adamw
from spectral_exp.optim.muon import JoinedOptimizer, build_muon

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "hidden": [(6, 4), (4, 6), (3,), (2, 3, 4)],
    "embedding": [(7, 4)],
    "vector": [(4,)],
}


def groups() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "params": [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes],
            "role": role,
            **({"weight_decay": 0.0} if role == "vector" else {}),
        }
        for role, shapes in SHAPES.items()
    ]


def parameters(of: list[dict[str, Any]]) -> list[nn.Parameter]:
    return [p for group in of for p in group["params"]]


def set_gradients(of: list[dict[str, Any]], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in parameters(of):
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("rate_scale", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_each_parameter_follows_its_optimizer(rate_scale: Any, nesterov: bool) -> None:
    ours, theirs = groups(), groups()
    optimizer = build_muon(ours, 0.02, nesterov=nesterov, rate_scale=rate_scale)
    matrices = [p for p in theirs[0]["params"] if p.ndim == 2]
    rest = [p for p in theirs[0]["params"] if p.ndim != 2]
    muon = torch.optim.Muon(
        matrices, lr=0.02, momentum=0.95, nesterov=nesterov, adjust_lr_fn=rate_scale
    )
    adamw = build_adamw([{**theirs[0], "params": rest}, *theirs[1:]], 0.02)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        muon.step()  # type: ignore[no-untyped-call]
        adamw.step()
    for mine, expected in zip(parameters(ours), parameters(theirs), strict=True):
        assert torch.equal(mine, expected)


def test_an_update_is_nearly_orthogonal_and_of_the_stated_size() -> None:
    weight = nn.Parameter(torch.zeros(8, 32))
    optimizer = build_muon([weight], 1.0, weight_decay=0.0, rate_scale="original")
    weight.grad = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    singular = torch.linalg.svdvals(weight.detach())
    assert 0.6 < singular.min() < singular.max() < 1.3


def test_a_rate_that_a_schedule_sets_reaches_both() -> None:
    ours = groups()
    optimizer = build_muon(ours, 0.02)
    before = [p.detach().clone() for p in parameters(ours)]
    set_gradients(ours, 0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for p, old in zip(parameters(ours), before, strict=True):
        assert torch.equal(p, old)


def test_a_loaded_state_continues_bit_for_bit() -> None:
    whole, resumed = groups(), groups()
    uninterrupted, first = build_muon(whole, 0.02), build_muon(resumed, 0.02)

    def train(optimizer: JoinedOptimizer, of: list[dict[str, Any]], steps: range) -> None:
        for step in steps:
            set_gradients(of, step)
            optimizer.step()

    train(uninterrupted, whole, range(6))
    train(first, resumed, range(3))
    second = build_muon(resumed, 0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, resumed, range(3, 6))
    for mine, expected in zip(parameters(resumed), parameters(whole), strict=True):
        assert torch.equal(mine, expected)
    assert [group["role"] for group in second.param_groups] == [
        "hidden",
        "hidden",
        "embedding",
        "vector",
    ]
    assert len(second.state_dict()["state"]) == len(parameters(resumed))


def test_a_copy_goes_on_like_the_original() -> None:
    original = groups()
    optimizer = build_muon(original, 0.02)
    set_gradients(original, 0)
    optimizer.step()
    copied_optimizer, copied = copy.deepcopy((optimizer, original))
    for taken, of in ((optimizer, original), (copied_optimizer, copied)):
        set_gradients(of, 1)
        taken.step()
    for mine, expected in zip(parameters(copied), parameters(original), strict=True):
        assert torch.equal(mine, expected)
        assert mine is not expected


def test_a_closure_gives_the_loss_and_gradients() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_muon([weight])

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(weight, torch.ones(2, 2))


def test_only_vectors_or_only_matrices_are_fine() -> None:
    for shape in ((3,), (3, 3)):
        p = nn.Parameter(torch.ones(shape))
        p.grad = torch.ones(shape)
        build_muon([p]).step()
        assert not torch.equal(p, torch.ones(shape))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("ns_steps", 100),
        ("rate_scale", "none"),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=setting):
        build_muon(groups(), **{setting: value})
