"""The optimizer gets the settings of each role, under the names that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.construct import Constructor
from spectral_exp.config.optimizer import build_optimizer, make_optimizer
from spectral_exp.config.parts import build_model
from spectral_exp.core.errors import UserError

OPTIMIZERS = {
    "spectral_exp.optim.build_adamw": {"weight_decay": 0.1},
    "spectral_exp.optim.build_rgd": {"weight_decay": 0.1},
    "spectral_exp.optim.build_muon": {"weight_decay": 0.1},
    "torch.optim.SGD": {"weight_decay": 0.1},
}


def model() -> Any:
    node = {
        "_target_": "spectral_exp.models.GPT",
        "block_size": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "embedding": {"_target_": "spectral_exp.models.StandardEmbedding", "_partial_": True},
        "attention": {"_target_": "spectral_exp.models.RotaryAttention", "_partial_": True},
        "mlp": {"_target_": "spectral_exp.models.MLP", "_partial_": True},
    }
    return build_model({"model": node}, vocab_size=5)


def make(target: str, **settings: Any) -> tuple[Any, list[str]]:
    constructor = Constructor()
    node = {"_target_": target, **settings}
    optimizer = make_optimizer({"optimizer": node}, model(), constructor, trial=True)
    return optimizer, constructor.problems


@pytest.mark.parametrize("target", OPTIMIZERS)
def test_roles_have_their_own_rates_and_decays(target: str) -> None:
    roles = {"embedding": {"learning_rate": 0.5, "weight_decay": 0}, "head": {"weight_decay": 0.3}}
    optimizer, problems = make(target, learning_rate=0.01, roles=roles, **OPTIMIZERS[target])
    assert problems == []
    found = {g["role"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert found == {
        "hidden": (0.01, 0.1),
        "embedding": (0.5, 0.0),
        "head": (0.01, 0.3),
        "vector": (0.01, 0.0),
    }


def test_a_rate_of_torch_keeps_its_own_name_too() -> None:
    optimizer, problems = make("torch.optim.SGD", lr=0.25)
    assert problems == []
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_the_rate_of_a_recipe_replaces_that_of_the_optimizer_under_either_name() -> None:
    for settings in ({"learning_rate": 0.5}, {"lr": 0.25, "learning_rate": 0.5}):
        optimizer, problems = make("torch.optim.SGD", **settings)
        assert problems == []
        assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    _, problems = make("spectral_exp.optim.build_adamw", lr=0.25, learning_rate=0.5)
    assert "optimizer.lr is not a setting" in problems[0]


def test_a_rate_that_a_recipe_replaces_is_refused_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("_target_: torch.optim.AdamW\nlr: 0.25\n")

    def rates(*overrides: str) -> list[float]:
        """Return the rates of a step that training would make."""
        command = ["--config-dir", str(tmp_path), "optimizer=mine", "data=markov", *overrides]
        (job,) = CommandLine.parse(command).compose()
        optimizer = build_optimizer(job.config, model())
        return sorted({group["lr"] for group in optimizer.param_groups})

    recipe = "+recipe=nanogpt_cpu"
    assert rates() == [0.25]
    assert rates("optimizer.lr=0.5") == [0.5]
    assert rates(recipe) == [1e-3]
    assert rates(recipe, "optimizer.learning_rate=0.5") == [0.5]
    assert rates(recipe, "optimizer.lr=0.5", "~optimizer.learning_rate") == [0.5]
    with pytest.raises(UserError, match=r"^optimizer\.lr=0\.5: optimizer\.learning_rate=0\.001"):
        rates(recipe, "optimizer.lr=0.5")


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"embeding": {"weight_decay": 0}}, "did you mean embedding"),
        ({"wave": {"weight_decay": 0}}, "has no parameters in this model"),
        ({"head": {"momentum": 0.9}}, "learning_rate, weight_decay"),
        ({"head": {"learning_rate": 0}}, "must be a number > 0"),
        ({"head": {"learning_rate": True}}, "must be a number > 0"),
        ({"head": {"weight_decay": -1}}, "must be a number >= 0"),
        ({"head": {"weight_decay": "much"}}, "must be a number >= 0"),
        ({"head": 3}, "must set learning_rate or weight_decay"),
        ([1], "must be settings of roles"),
    ],
)
def test_mistakes_in_roles_are_named(roles: Any, words: str) -> None:
    _, problems = make("spectral_exp.optim.build_adamw", roles=roles)
    assert len(problems) == 1
    assert problems[0].startswith("optimizer.roles")
    assert words in problems[0]


def test_a_trial_meets_the_settings_of_the_roles() -> None:
    """torch's Muon takes matrices only, so a model with vectors is refused before a run exists."""
    _, problems = make("torch.optim.Muon", learning_rate=0.1)
    assert "torch.optim.Muon" in problems[0]
    assert torch.is_grad_enabled()
