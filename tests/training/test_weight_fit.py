"""Weights from elsewhere fit a model completely, partly, or not at all, and the report is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectral_exp.optim.eager import EagerAdamW
from spectral_exp.training.weight_fit import (
    fit_weights,
    load_optimizer,
    load_weights,
    optimizer_problem,
)


class Tied(nn.Module):
    """A table that is the head too, a buffer and a vector."""

    counts: torch.Tensor

    def __init__(self, *, tied: bool = True, width: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5)
        if tied:
            self.head.weight = self.table.weight
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


NAMES = ["table.weight", "head.weight", "head.bias", "counts"]


@settings(max_examples=40)
@given(
    dropped=st.sets(st.sampled_from(NAMES)),
    added=st.sets(st.sampled_from(["extra", "head.weights", "module.counts"])),
    resized=st.sets(st.sampled_from(NAMES)),
    skipped=st.sets(st.sampled_from(NAMES)),
)
def test_every_name_is_accounted_for(
    dropped: set[str], added: set[str], resized: set[str], skipped: set[str]
) -> None:
    model, given_weights = Tied(tied=False), state(Tied(tied=False))
    before = state(model)
    for name in resized:
        given_weights[name] = torch.ones(7, dtype=given_weights[name].dtype)
    for name in dropped:
        del given_weights[name]
    for name in added:
        given_weights[name] = torch.zeros(1)
    fit = fit_weights(model, given_weights, dict.fromkeys(skipped, "the tokenizer differs"))
    assert sorted([*fit.loaded, *fit.not_loaded]) == sorted(NAMES)
    assert set(fit.missing) == dropped
    assert set(fit.unexpected) == added
    assert set(fit.misfits) == (resized | skipped) - dropped
    assert fit.is_complete is not bool(dropped or added or resized or skipped)
    assert bool(fit.problems()) is not fit.is_complete
    load_weights(model, given_weights, fit)
    for name, value in model.state_dict().items():
        assert torch.equal(value, given_weights[name] if name in fit.loaded else before[name])


def test_a_tied_parameter_needs_one_of_its_names() -> None:
    weights = state(Tied())
    for name in ("table.weight", "head.weight"):
        one = {key: value for key, value in weights.items() if key != name}
        model = Tied()
        fit = fit_weights(model, one, {})
        assert fit.is_complete
        load_weights(model, one, fit)
        assert torch.equal(model.head.weight, weights["head.weight"])
    weights["head.weight"] = weights["head.weight"] + 1
    (problem,) = fit_weights(Tied(), weights, {}).unusable
    assert "model.tie_weights=true" in problem
    assert sorted(fit_weights(Tied(), {}, {}).missing) == sorted(NAMES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floats_are_converted_and_other_types_are_not(dtype: torch.dtype) -> None:
    weights = state(Tied())
    weights["head.bias"] = weights["head.bias"].to(dtype)
    model = Tied()
    fit = fit_weights(model, weights, {})
    assert fit.is_complete
    load_weights(model, weights, fit)
    assert model.head.bias.dtype == torch.float32
    assert torch.equal(model.head.bias, weights["head.bias"].float())
    weights["counts"] = weights["counts"].to(dtype)
    assert dict(fit_weights(Tied(), weights, {}).misfits).keys() == {"counts"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_would_not_be_finite_are_refused(value: float) -> None:
    weights = state(Tied())
    weights["head.bias"] = weights["head.bias"].double()
    weights["head.bias"][1] = value
    (problem,) = fit_weights(Tied(), weights, {}).unusable
    assert "1 parameter there holds values that are not finite: head.bias" in problem


def test_a_similar_name_is_suggested() -> None:
    weights = state(Tied(tied=False))
    weights["head.weights"] = weights.pop("head.weight")
    problems = fit_weights(Tied(tied=False), weights, {}).problems()
    assert problems[0] == "1 parameter of the model is missing there: head.weight"
    assert "is head.weights the model's head.weight?" in problems[1]


def adam(model: nn.Module, lr: float) -> EagerAdamW:
    return EagerAdamW([{"params": [*model.parameters()], "role": "hidden"}], lr=lr)


def test_moments_are_taken_and_settings_are_not() -> None:
    one, other = Tied(), Tied()
    trained, new = adam(one, 0.1), adam(other, 0.7)
    for p in one.parameters():
        p.grad = torch.ones_like(p)
    trained.step()
    saved = trained.state_dict()
    assert optimizer_problem(new, saved) is None
    load_optimizer(new, saved)
    assert new.param_groups[0]["lr"] == 0.7
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        for entry, value in trained.state[p].items():
            assert torch.equal(new.state[q][entry], value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("state"),
        lambda s: s.update(param_groups=3),
        lambda s: s["param_groups"][0].update(params=[0, 5]),
        lambda s: s["param_groups"][0].update(role="vector"),
        lambda s: s["param_groups"].append({"params": []}),
        lambda s: s["state"].update({9: {}}),
        lambda s: s["state"].update({0: 4}),
        lambda s: s["state"][0].update(exp_avg=torch.ones(9)),
        lambda s: s["state"][0].update(exp_avg=["x"]),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(damage: object) -> None:
    model = Tied()
    trained = adam(model, 0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    trained.step()
    saved = trained.state_dict()
    assert callable(damage)
    damage(saved)
    assert optimizer_problem(adam(Tied(), 0.1), saved) is not None
