from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from spectral_exp.config.construct import Constructor, coerce
from spectral_exp.config.roles import Role
from spectral_exp.core.errors import UserError
from spectral_exp.training.runner import TrainingSettings

SETTINGS = "spectral_exp.training.TrainingSettings"
TRAINING = Role(TrainingSettings, "spectral_exp.training.runner")
OPTIMIZER = Role(torch.optim.Optimizer, "spectral_exp.optim", torch_home="torch.optim")


def problems_of(node: Any) -> list[str]:
    make = Constructor()
    assert make.make(node, "training", TRAINING) is None
    return make.problems


def test_builds_the_object_of_a_node() -> None:
    made = Constructor().make(
        {"_target_": SETTINGS, "max_steps": 7, "grad_clip": 2}, "training", TRAINING
    )
    assert made == TrainingSettings(max_steps=7, grad_clip=2.0)


def test_unknown_key_names_the_nearest() -> None:
    (problem,) = problems_of({"_target_": SETTINGS, "max_stepz": 7})
    assert "training.max_stepz is not a setting" in problem
    assert "did you mean max_steps?" in problem


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems_of(
        {
            "_target_": SETTINGS,
            "max_steps": "many",
            "batch_size": True,
            "foo": 1,
            "grad_clip": "???",
        }
    )
    assert len(found) == 4
    assert any("training.max_steps=many must be an integer" in p for p in found)
    assert any("training.batch_size=True must be an integer" in p for p in found)
    assert any("training.grad_clip must be set" in p for p in found)


def test_constructor_errors_carry_the_path() -> None:
    assert problems_of({"_target_": SETTINGS, "max_steps": -5}) == [
        "training.max_steps=-5 must be >= 1 or null"
    ]


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.run", "builtins.eval", "torchvision.x", "nowhere"]
)
def test_targets_outside_the_package_and_torch_are_refused(target: str) -> None:
    (problem,) = problems_of({"_target_": target})
    assert "must lie in spectral_exp, torch or a package that you name" in problem


def test_missing_target_is_reported() -> None:
    (problem,) = problems_of({"_target_": "spectral_exp.training.runner.NoSuchThing"})
    assert "cannot be found" in problem
    (problem,) = problems_of("default")
    assert "must be a group" in problem


def test_runtime_values_cannot_be_set_and_are_offered_by_name() -> None:
    node = {"_target_": "torch.optim.SGD", "lr": 0.5}
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = Constructor().make(node, "optimizer", OPTIMIZER, params=[weight], unused=3)
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.5
    make = Constructor()
    assert make.make({**node, "params": []}, "optimizer", OPTIMIZER, params=[weight]) is None
    assert "optimizer.params is not a setting" in make.problems[0]


def test_finish_raises_all_problems_together() -> None:
    make = Constructor()
    make.make({"_target_": SETTINGS, "max_steps": 0}, "training", TRAINING)
    make.make({"_target_": SETTINGS, "batch_size": 0}, "training", TRAINING)
    with pytest.raises(UserError, match=r"max_steps=0(.|\n)*batch_size=0"):
        make.finish()


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0),
        (1e6, int, 1_000_000),
        (None, int | None, None),
        (3, int | None, 3),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ("cosine", Literal["cosine", "linear"], "cosine"),
        ("inf", float, float("inf")),
    ],
)
def test_coerce_accepts(value: Any, annotation: Any, expected: Any) -> None:
    found = coerce(value, annotation)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "words"),
    [
        (1.5, int, "an integer"),
        (True, int, "an integer"),
        ("1", float, "a number"),
        (1, bool, "true or false"),
        ("x", int | None, "an integer or null"),
        ("cosin", Literal["cosine", "linear"], "one of cosine, linear"),
        ([1.0], tuple[float, float], "a list of 2"),
        (5, tuple[int, ...], "a list"),
    ],
)
def test_coerce_refuses_other_types_and_names_the_right_one(
    value: Any, annotation: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        coerce(value, annotation)
