from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.core.errors import SettingError
from spectral_exp.optim.adamw import build_adamw


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.arange(6.0).reshape(2, 3))


def test_settings_reach_torch() -> None:
    optimizer = build_adamw([parameter()], 0.01, (0.8, 0.95), 1e-6, 0.2)
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 0.01,
        "betas": (0.8, 0.95),
        "eps": 1e-6,
        "weight_decay": 0.2,
    }


def test_groups_keep_their_role_and_their_own_settings() -> None:
    groups: list[dict[str, Any]] = [
        {"params": [parameter()], "role": "hidden"},
        {"params": [parameter()], "role": "wave", "weight_decay": 0.0},
    ]
    optimizer = build_adamw(groups, weight_decay=0.1)
    assert [(group["role"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("hidden", 0.1),
        ("wave", 0.0),
    ]


def test_the_fused_kernel_is_used_if_it_exists() -> None:
    assert build_adamw([parameter()]).param_groups[0]["fused"] is True
    assert build_adamw([parameter()], fused=False).param_groups[0]["fused"] is False
    assert (
        build_adamw([nn.Parameter(torch.zeros(2, 2, device="meta"))]).param_groups[0]["fused"]
        is False
    )


def test_parameters_may_come_from_an_iterator() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    optimizer = build_adamw(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("eps", 0.0),
        ("weight_decay", -1.0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{setting}=") as error:
        build_adamw([parameter()], **{setting: value})  # type: ignore[arg-type]
    assert error.value.setting == setting
