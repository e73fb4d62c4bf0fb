"""Budgets in steps, tokens, FLOPs and seconds: the step that ends a run, and what follows it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.config.build import build, check
from spectral_exp.core.errors import UserError
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.optim import Constant, Cosine
from spectral_exp.runs.load import load_run
from spectral_exp.training import usage
from spectral_exp.training.budget import Budget
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.verification.replay import verify_resume
from spectral_exp.verification.reproduction import reproduce
from tests.training.test_runner import assert_equal, built, results, weights

TOKENS = 4 * 16
"""Of a step of the tiny runs."""
limits = st.none() | st.integers(1, 10**7)


@settings(max_examples=50)
@given(limits, limits, st.none() | st.floats(1, 1e12), st.integers(1, 5000), st.integers(1, 5000))
def test_the_last_step_is_the_first_that_reaches_a_limit(
    max_steps: int | None, max_tokens: int | None, max_flops: float | None, tokens: int, flops: int
) -> None:
    budget = Budget(max_steps, max_tokens, max_flops, None, tokens, flops)
    last = budget.last_step
    if last is None:
        assert (max_steps, max_tokens, max_flops) == (None, None, None)
        return

    def reaches(step: int) -> list[str]:
        used = {
            "training.max_steps": (step, max_steps),
            "training.max_tokens": (step * tokens, max_tokens),
            "training.max_flops": (step * tokens * flops, max_flops),
        }
        return [name for name, (n, most) in used.items() if most is not None and n >= most]

    assert budget.reached_limit(last, False) in reaches(last)
    assert budget.is_over(last, False)
    assert last == 1 or not (reaches(last - 1) or budget.is_over(last - 1, False))
    assert budget.reached_limit(last - 1, False) == ""


@given(st.integers(1, 400), st.floats(0, 50), st.floats(0, 50))
def test_a_schedule_follows_the_seconds(step: int, train_s: float, more_s: float) -> None:
    budget = Budget(None, max_train_s=40.0)
    schedule = Cosine(budget.schedule_steps, warmup_steps=10)

    def rate(seconds: float) -> float:
        return schedule.factor(budget.schedule_step(schedule, step, seconds))

    if step <= 10:
        assert rate(train_s) == step / 10
        return
    done = min(train_s / 40, 1.0)
    expected = Cosine(10**6, 0).factor(max(1, round(done * 10**6)))
    assert rate(train_s) == pytest.approx(expected, abs=1e-5)
    assert rate(train_s + more_s) <= rate(train_s)
    assert rate(40.0) == pytest.approx(0.1)


def test_the_rate_follows_the_scarcest_limit_and_only_if_the_schedule_depends_on_it() -> None:
    budget = Budget(100, max_train_s=40.0)
    cosine = Cosine(100, 10)
    assert budget.schedule_step(cosine, 50, 10.0) == 50
    assert budget.schedule_step(cosine, 50, 30.0) == 75
    assert budget.fraction(50, 30.0) == 0.75
    assert budget.schedule_step(Cosine(100, 10, decay_steps=80), 50, 30.0) == 50
    assert budget.schedule_step(Constant(100, 10), 50, 30.0) == 50
    assert Budget(100).schedule_step(cosine, 50, 1e9) == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": None}, "max_steps=null must be a number, or null with max_tokens"),
        ({"max_tokens": 0}, "max_tokens=0 must be >= 1 or null"),
        ({"max_flops": float("inf")}, "max_flops=inf must be a finite number > 0"),
        ({"max_train_s": 0.0}, "max_train_s=0.0 must be a finite number > 0"),
    ],
)
def test_limits_are_positive_and_one_is_given(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingSettings(**values)


def test_a_run_with_a_budget_in_tokens_equals_one_in_steps(tmp_path: Path) -> None:
    with built(tmp_path / "steps", "training.max_steps=5") as runner:
        runner.run()
        whole, found = weights(runner.model), results(tmp_path / "steps")
        per_step = runner.budget.flops_per_step
    assert per_step == 3 * TOKENS * runner.model.flops_per_token()  # type: ignore[operator]
    root, limit = tmp_path / "tokens", 4 * TOKENS + 1
    with built(root, "training.max_steps=null", f"training.max_tokens={limit}") as runner:
        runner.run()
        assert_equal(weights(runner.model), whole)
    content = results(root)
    assert content["status"] == "completed"
    reached = "training.max_tokens"
    assert content["budget"] == {"max_tokens": limit, "last_step": 5, "reached": reached}
    assert content["final_metrics"] == found["final_metrics"]
    assert content["totals"]["flops"] == 5 * per_step
    assert load_run(root).planned_steps == 5


def test_a_prolonged_budget_continues_exactly_and_a_shorter_one_is_refused(tmp_path: Path) -> None:
    constant = ("schedule=constant", "schedule.warmup_steps=2")
    with built(tmp_path / "whole", *constant, "training.max_steps=5") as runner:
        runner.run()
        whole, per_step = weights(runner.model), runner.budget.flops_per_step
    for steps in (3, 5):
        limits = ("training.max_steps=null", f"training.max_flops={float(steps * per_step)}")
        with built(tmp_path / "parts", *constant, *limits) as runner:
            runner.run()
            config = runner.config
    assert_equal(weights(runner.model), whole)
    assert load_run(tmp_path / "parts").planned_steps == 5
    shorter = {**config, "training": {**config["training"], "max_flops": 2.0 * per_step}}
    refusal = r"max_flops=.* ends after 2 steps, and .* has done 5; raise the budget"
    (problem,) = check(shorter, tmp_path / "parts")
    with pytest.raises(UserError, match=refusal), build(shorter, tmp_path / "parts", []):
        pass
    assert "ends after 2 steps" in problem


def a_second_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step take one second, and half a second of the processor."""
    wall, cpu = itertools.count(), itertools.count(0, 0.5)
    clock = SimpleNamespace(perf_counter=lambda: next(wall), process_time=lambda: next(cpu))
    monkeypatch.setattr(usage, "time", clock)


def test_a_budget_in_seconds_counts_all_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_second_per_step(monkeypatch)
    more = ("training.sample_tokens=4", "training.max_train_s=100")
    limits = ("training.max_steps=null", "schedule.warmup_steps=0", "training.sample_tokens=4")
    for seconds in (3, 5):
        with built(tmp_path, *limits, f"training.max_train_s={seconds}") as runner:
            assert runner.run().step == seconds
        content = results(tmp_path)
        assert content["status"] == "completed"
        assert content["budget"] == {
            "max_train_s": seconds, "last_step": None, "reached": "training.max_train_s"
        }  # fmt: skip
        # The last step is validated, although nobody knew that it would be the last.
        assert "val_step" not in content["final_metrics"]
        assert content["final_metrics"]["val_loss"] > 0
        assert content["totals"]["train_s"] == seconds
        assert content["totals"]["cpu_s"] == seconds / 2
        assert "device_s" not in content["totals"]
    assert content["attempts"] == [
        {"from_step": 0, "to_step": 3, "train_s": 3.0, "cpu_s": 1.5},
        {"from_step": 3, "to_step": 5, "train_s": 2.0, "cpu_s": 1.0},
    ]
    with pytest.raises(UserError, match=r"cannot be repeated: .* \(training.max_train_s=5\)"):
        verify_resume(tmp_path, 2)
    with pytest.raises(UserError, match=r"cannot be repeated: .* \(training.max_train_s=5\)"):
        reproduce(tmp_path, tmp_path / "again")
    with built(tmp_path, "schedule.warmup_steps=0", "training.max_steps=6", *more) as runner:
        assert runner.run().step == 6
    assert results(tmp_path)["budget"]["reached"] == "training.max_steps"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
def test_device_seconds_are_a_part_of_the_training_on_a_gpu(tmp_path: Path) -> None:
    started_s = time.perf_counter()
    for steps in (4, 8):
        with built(tmp_path, f"training.max_steps={steps}", "device=cuda") as runner:
            runner.run()
    elapsed_s = time.perf_counter() - started_s
    totals = results(tmp_path)["totals"]
    parts = results(tmp_path)["attempts"]
    assert [part["to_step"] for part in parts] == [4, 8]
    # a device may end a step after the host has stopped its clock, so the limit is all that passed
    assert all(part["device_s"] > 0 for part in parts)
    assert totals["device_s"] <= elapsed_s
    assert totals["device_s"] == pytest.approx(sum(part["device_s"] for part in parts))


def test_seconds_of_attempts_that_did_not_measure_them_are_unknown() -> None:
    found = usage.Usage(torch.device("cpu"), Ranks())
    found.load_state_dict({"cpu_s": 2.0, "device_s": 3.0}, 4, 5.0)
    found.start()
    found.stop()
    assert found.cpu_s >= 2.0
    assert found.totals() == {"cpu_s": found.cpu_s, "device_s": 3.0}
    found.load_state_dict(None, 4, 5.0)
    found.start()
    found.stop()
    assert found.totals() == {}
    assert found.attempts(6, 7.0) == [{"from_step": 4, "to_step": 6, "train_s": 2.0}]
