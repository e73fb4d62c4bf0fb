"""RGD filters the directions of Muon, and is Muon where it filters nothing."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.core.errors import SettingError
from spectral_exp.optim.gate import gated_directions
from spectral_exp.optim.muon import build_muon
from spectral_exp.optim.rgd import build_rgd

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "hidden": [(6, 4), (4, 6), (6, 4), (3,), (2, 3, 4), (1, 5), (5, 1), (1, 1), (3, 7)],
    "embedding": [(7, 4)],
    "head": [(5, 4)],
    "wave": [(2, 3)],
    "vector": [(4,), ()],
}

Groups = list[dict[str, Any]]


def make_groups(dtype: torch.dtype = torch.float32) -> Groups:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "params": [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes],
            "role": role,
            **({"weight_decay": 0.0} if role == "vector" else {}),
        }
        for role, shapes in SHAPES.items()
    ]


def parameters(groups: Groups) -> list[nn.Parameter]:
    return [p for group in groups for p in group["params"]]


def train(optimizer: torch.optim.Optimizer, groups: Groups, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for i, p in enumerate(parameters(groups)):
            gradient = torch.randn(p.shape, generator=generator).to(p)
            p.grad = None if (step, i) == (1, 0) else gradient
        optimizer.step()


# Without the look ahead, torch's Muon changes its averages in place in bfloat16.
@pytest.mark.parametrize(
    ("dtype", "nesterov"),
    [
        (torch.float32, True),
        (torch.float32, False),
        (torch.float64, True),
        (torch.float64, False),
        (torch.bfloat16, True),
    ],
)
@pytest.mark.parametrize("rate_scale", ["match_rms_adamw", "original"])
def test_without_resonance_it_is_muon_bit_for_bit(
    dtype: torch.dtype, rate_scale: Any, nesterov: bool
) -> None:
    ours, theirs = make_groups(dtype), make_groups(dtype)
    settings: dict[str, Any] = {"nesterov": nesterov, "rate_scale": rate_scale, "ns_steps": 4}
    rgd = build_rgd(ours, 0.02, direction="muon", resonance_strength=0.0, **settings)
    muon = build_muon(theirs, 0.02, **settings)
    train(rgd, ours, range(4))
    train(muon, theirs, range(4))
    for mine, expected in zip(parameters(ours), parameters(theirs), strict=True):
        assert torch.equal(mine, expected)
        for name, value in muon.state[expected].items():
            assert torch.equal(rgd.state[mine][name], value)
    assert rgd.metrics() == {}


def test_in_bfloat16_the_averages_are_left_alone() -> None:
    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    optimizer = build_rgd([weight], direction="muon", nesterov=False)
    optimizer.step()
    average = optimizer.state[weight]["momentum_buffer"]
    torch.testing.assert_close(average, torch.full_like(weight, 0.05))


@pytest.mark.parametrize("rate_scale", ["match_rms_adamw", "original"])
def test_a_step_filters_the_direction_of_muon(rate_scale: Any) -> None:
    """The direction is what Muon itself does to the same gradients from zero."""
    rate, decay, strength, warmup = 0.03, 0.2, 0.8, 4
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6, generator=generator, dtype=torch.float64))
    settings: dict[str, Any] = {"weight_decay": decay, "rate_scale": rate_scale}
    rgd = build_rgd(
        [weight], rate, resonance_strength=strength, warmup_steps=warmup, direction="muon",
        **settings,
    )  # fmt: skip
    moved = nn.Parameter(torch.zeros_like(weight))
    muon = build_muon([moved], 1.0, **settings)
    for step in range(1, 7):
        weight.grad = moved.grad = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            moved.zero_()
        muon.step()
        alpha = torch.tensor([strength * min(1, step / warmup)], dtype=torch.float64)
        decayed = weight.detach() * (1 - rate * decay)
        update, rho = gated_directions(decayed[None], -moved.detach()[None], alpha, 1 - alpha)
        rgd.step()
        torch.testing.assert_close(weight.detach(), decayed - rate * update[0])
        torch.testing.assert_close(rgd.metrics()["resonance"], rho[0])


@pytest.mark.parametrize("gate", ["none", "channels", "both"])
def test_all_other_parameters_follow_adam_as_before(gate: Any) -> None:
    found = []
    for direction in ("adam", "muon"):
        groups = make_groups()
        optimizer = build_rgd(
            groups, 0.02, gate_embeddings=gate, warmup_steps=2, direction=direction
        )
        train(optimizer, groups, range(3))
        found.append(parameters(groups))
    for shape, by_adam, by_muon in zip(chain(*SHAPES.values()), *found, strict=True):
        is_hidden = shape in SHAPES["hidden"]
        assert torch.equal(by_adam, by_muon) is not (is_hidden and len(shape) == 2)


def test_a_loaded_state_continues_bit_for_bit() -> None:
    whole, resumed = make_groups(), make_groups()
    uninterrupted, first = (build_rgd(g, 0.02, direction="muon") for g in (whole, resumed))
    train(uninterrupted, whole, range(6))
    train(first, resumed, range(3))
    second = build_rgd(resumed, 0.5, direction="muon", momentum=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, resumed, range(3, 6))
    for mine, expected in zip(parameters(resumed), parameters(whole), strict=True):
        assert torch.equal(mine, expected)
    assert torch.equal(second.metrics()["resonance"], uninterrupted.metrics()["resonance"])


def test_a_copy_goes_on_like_the_original() -> None:
    groups = make_groups()
    optimizer = build_rgd(groups, 0.02, direction="muon")
    train(optimizer, groups, range(2))
    copied_optimizer, copied = copy.deepcopy((optimizer, groups))
    train(optimizer, groups, range(2, 4))
    train(copied_optimizer, copied, range(2, 4))
    for mine, expected in zip(parameters(copied), parameters(groups), strict=True):
        assert torch.equal(mine, expected)


def test_it_cannot_leave_out_a_step_on_the_device() -> None:
    assert not build_rgd(make_groups(), direction="muon").can_step_conditionally
    assert build_rgd([nn.Parameter(torch.ones(3))], direction="muon").can_step_conditionally


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_only_vectors_or_only_matrices_are_fine(shape: tuple[int, ...]) -> None:
    p = nn.Parameter(torch.ones(shape))
    p.grad = torch.ones(shape)
    build_rgd([p], direction="muon").step()
    assert not torch.equal(p, torch.ones(shape))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("direction", "sgd"),
        ("momentum", 1.0),
        ("ns_steps", 0),
        ("rate_scale", "none"),
        ("gate_every", 2),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be"):
        build_rgd(make_groups(), **{"direction": "muon", setting: value})


def test_the_factory_passes_every_setting_and_adam_has_none_of_them() -> None:
    settings: dict[str, Any] = {
        "momentum": 0.8, "nesterov": False, "ns_steps": 3, "rate_scale": "original"
    }  # fmt: skip
    (group,) = build_rgd(
        [nn.Parameter(torch.ones(2, 2))], direction="muon", **settings
    ).param_groups
    assert group.items() >= {"direction": "muon", **settings}.items()
    (group,) = build_rgd([nn.Parameter(torch.ones(2, 2))], **settings).param_groups
    assert not group.keys() & {"direction", *settings}


def test_a_group_may_follow_a_direction_of_its_own() -> None:
    by_group, by_default = make_groups(), make_groups()
    for group in by_group:
        group["direction"] = "muon" if group["role"] == "hidden" else "adam"
    mixed = build_rgd(by_group, 0.02, momentum=0.8)
    train(mixed, by_group, range(3))
    train(build_rgd(by_default, 0.02, direction="muon", momentum=0.8), by_default, range(3))
    for mine, expected in zip(parameters(by_group), parameters(by_default), strict=True):
        assert torch.equal(mine, expected)
    with pytest.raises(SettingError, match=r"^direction=sgd must be"):
        mixed.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], "direction": "sgd"})
