"""The last value of a run within a budget of steps, tokens, seconds or FLOPs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.core.series import Series
from spectral_exp.runs.budget import Budget, parse_at
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run
from spectral_exp.runs.run import Run
from tests.results.made_runs import make_run


@pytest.mark.parametrize(
    ("text", "kind", "amount", "words"),
    [
        ("step:1200", "step", 1200, "step 1,200"),
        ("step=50", "step", 50, "step 50"),
        ("tokens=1e6", "tokens", 1e6, "1,000,000 training tokens"),
        ("seconds=60", "seconds", 60, "60 s of training"),
        ("seconds:0.5", "seconds", 0.5, "0.5 s of training"),
        ("flops=1.5E+15", "flops", 1.5e15, "1.5e+15 training FLOPs"),
    ],
)
def test_a_budget_is_read_and_described(text: str, kind: str, amount: float, words: str) -> None:
    budget = parse_at(text)
    assert budget == Budget(kind, amount)
    assert budget.words == words
    assert parse_at("final") is parse_at("best") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "last", "step", "step:", "step:0", "step:1.5", "step:-1", "step:1e30", "seconds=0"),
        *("seconds=-1", "seconds=nan", "tokens=inf", "flops=1e999", "tokens=1_0", "flops=0x1"),
        *("tokens=\u0661", "final ", "tokens=1 ", "hours=1", "tokens=" + "1" * 5000),
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="must be final, best, step:N, tokens=N, seconds=N"):
        parse_at(text)


def _run(folder: Path, **facts: object) -> Run:
    path = make_run(folder, steps=100, log_interval=10, eval_interval=50)  # 0.0768 s a step
    results = read_json(RunPaths(path).results_file)
    results["totals"].update(facts)
    write_json_atomic(RunPaths(path).results_file, results)
    return load_run(path)


def test_every_kind_of_budget_gives_the_last_value_within_it(tmp_path: Path) -> None:
    run = _run(tmp_path, flops=100 * 5e12, cpu_s=11.0)
    at_50, at_100 = run.value("val_bpb", "step:50"), run.value("val_bpb")
    assert at_50 != at_100
    per_step = {"step": 1, "tokens": 768, "seconds": 0.0768, "flops": 5e12}
    for kind, cost in per_step.items():
        values = [run.value("val_bpb", f"{kind}={n * cost!r}") for n in (49, 50, 99, 100, 1000)]
        assert values == [None, at_50, at_50, at_100, at_100], kind
        budget = Budget(kind, 60 * cost)
        assert (run.step_within(budget), run.has_used(budget)) == (60, True)
        assert not run.has_used(Budget(kind, 101 * cost))
    assert run.value("tokens", "seconds=4.608") == 60 * 768
    assert run.value("train_s", "tokens=46080") == pytest.approx(4.608)
    assert run.value("flops", "step:60") == 60 * 5e12
    assert (run.value("cpu_s"), run.value("cpu_s", "step:60")) == (11.0, None)
    assert run.value("n_parameters", "flops=1") == 800_000


def test_flops_follow_from_the_model_if_the_run_did_not_count_them(tmp_path: Path) -> None:
    run = _run(tmp_path)
    assert run.flops_per_step is None
    assert run.value("val_bpb", "flops=1e30") is None
    model = {"model": {"num_parameters": 8, "flops_per_token": 1000}}
    known = load_run(make_run(tmp_path, "wave", record=model))
    assert known.flops_per_step == 3 * 1000 * 768


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=12), st.floats(0.01, 50)
)
@settings(max_examples=30)
def test_the_step_at_a_time_is_that_of_adding_up(speeds: list[float], time_s: float) -> None:
    steps, spent_s, expected = 5 * len(speeds), 0.0, 0
    for step in range(1, steps + 1):
        spent_s += 1 / speeds[(step - 1) // 5]
        expected = step if spent_s <= time_s * (1 + 1e-12) else expected
    series = Series(np.arange(5.0, steps + 1, 5), 768 * np.array(speeds))
    totals = {"steps": steps, "tokens": 768 * steps, "train_s": spent_s}
    run = Run(
        *(Path("none"), "none", "none", 1, "completed"),
        results={"totals": totals},
        read_series={"tokens_per_s": series}.__getitem__,
    )
    assert run.step_within(Budget("seconds", time_s)) == expected
    assert run.has_used(Budget("seconds", time_s)) is (spent_s >= time_s)


def test_a_run_has_used_the_seconds_that_it_records() -> None:
    """Whatever its logged speeds add up to."""
    series = Series(np.array([10.0]), np.array([76.8]))  # 100 s
    run = Run(
        *(Path("none"), "none", "none", 1, "interrupted"),
        results={"totals": {"steps": 10, "tokens": 7680, "train_s": 50.0}},
        read_series={"tokens_per_s": series}.__getitem__,
    )
    assert run.has_used(Budget("seconds", 50.0))
    assert not run.has_used(Budget("seconds", 60.0))


def test_skipped_steps_do_not_lower_the_tokens_of_a_step() -> None:
    totals = {"steps": 16, "bad_steps": 4, "tokens": 12 * 64}
    run = Run(*(Path("none"), "none", "none", 1, "completed"), results={"totals": totals})
    assert run.tokens_per_step == 64
    assert run.step_within(Budget("tokens", 512)) == 8


def test_times_after_an_unusable_entry_are_unknown(tmp_path: Path) -> None:
    path = make_run(tmp_path, status=None)
    file = RunPaths(path).metrics_file
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[5]["tokens_per_s"] = 0.0  # step 60
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(path)
    assert [run.step_within(Budget("seconds", s)) for s in (3.0, 3.84, 1000.0)] == [39, 50, 50]
    assert run.has_used(Budget("seconds", 3.0))
    assert not run.has_used(Budget("seconds", 4.0))
