"""Several processes compute what one process computes, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.runs.layout import RunPaths
from tests.conftest import built_once
from tests.distributed.driver import Processes, Run, problems, train_here
from tests.test_train import TIMED

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(900)]

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
OF_EIGHT = ("classic", "phasor", "wave_rgd_qfe")
"""Experiments with two micro-batches in each of four processes."""
SECTIONS = ("model_state_dict", "optimizer_state_dict", "loss_history", "train_state")

# Of training: dropout, which draws random numbers; several micro-batches in each process; bf16;
# RGD that filters every second step.
VARIANTS: dict[str, dict[str, Any]] = {
    "dropout": {"model.dropout": 0.2},
    "bf16": {"training.precision": "bf16"},
    "gate_every": {"optimizer.gate_every": 2, "training.max_steps": 5},
}


def of_two() -> list[Run]:
    runs = [Run(f"{e}_2", e, {"training.grad_accum_steps": 2}) for e in EXPERIMENTS]
    runs += [
        Run(f"{name}_2", settings={"training.grad_accum_steps": 2, **values})
        for name, values in VARIANTS.items()
    ]
    exact = {"training.grad_accum_steps": 6, "distributed.exact": True}
    recorded = {
        "training.grad_accum_steps": 2,
        "monitoring.tracking.enabled": True,
        "data.test_fraction": 0.1,
    }
    return [*runs, Run("exact_2", "wave_rgd_qfe", exact), Run("recorded_2", settings=recorded)]


def of_four() -> list[Run]:
    runs = [Run(f"{e}_4", e, {"training.grad_accum_steps": 4}) for e in EXPERIMENTS]
    runs += [Run(f"{e}_8", e, {"training.grad_accum_steps": 8}) for e in OF_EIGHT]
    exact = [
        replace(run, name=f"{run.name}_exact", settings={**run.settings, "distributed.exact": True})
        for run in runs
        if run.name.endswith("_8")
    ]
    return [*runs, *exact]


def continued(last: int) -> Run:
    """A run that is continued on 4, then 2, then 1 process."""
    return Run(
        "continued",
        settings={
            "monitoring.tracking.enabled": True,
            "training.grad_accum_steps": 4,
            "distributed.exact": True,
            "training.max_steps": last,
            "training.eval_interval": 2,
            # A schedule that does not depend on the last step.
            "schedule": {"_target_": "spectral_exp.optim.Constant", "warmup_steps": 2},
        },
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs by several processes, and one of runs by one."""
    return built_once(tmp_path_factory, "equality", train)


def train(folder: Path) -> None:
    for name in ("several", "one"):
        (folder / name).mkdir()
    references = [run for run in (*of_two(), *of_four()) if not run.name.endswith("_8_exact")]
    with Processes(4, folder / "several", [*of_four(), continued(2)]) as four:
        for run in references:
            train_here(run, folder / "one")
        train_here(continued(6), folder / "one")
        four.wait()
    with Processes(2, folder / "several", [*of_two(), continued(4)]) as two:
        two.wait()
    train_here(continued(6), folder / "several")


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{i}")
    elif name != "train_state.train_s":
        yield name, value


def state_of(root: Path) -> dict[str, Any]:
    paths = RunPaths(root)
    newest = paths.checkpoint_file(max(paths.checkpoint_steps()))
    saved = torch.load(newest, weights_only=True)
    return {name: x for section in SECTIONS for name, x in leaves(saved[section], section)}


def metrics_of(root: Path) -> list[dict[str, Any]]:
    """Return the logged numbers of training, without those that measure the machine."""
    lines = [json.loads(line) for line in RunPaths(root).metrics_file.read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in TIMED} for line in lines]


def differences(one: Path, other: Path) -> dict[str, float]:
    """Return how far values of the two states are apart, by name."""
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    assert len(a) > 20
    far = {}
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert value.shape == b[name].shape
            if not torch.allclose(value, b[name], rtol=0, atol=0, equal_nan=True):
                far[name] = (value.double() - b[name].double()).abs().max().item()
        elif repr(value) != repr(b[name]):  # NaN equals NaN
            far[name] = math.inf if value is None or b[name] is None else abs(value - b[name])
    return far


def results_of(root: Path) -> dict[str, Any]:
    results = json.loads(RunPaths(root).results_file.read_text())
    return {name: results[name] for name in ("status", "final_metrics", "best_metrics")}


@pytest.mark.parametrize("run", [run.name for run in of_two()])
def test_two_processes_equal_one(run: str, trained: Path) -> None:
    one, several = trained / "one" / run, trained / "several" / run
    assert problems(trained / "several", run) == ["", ""]
    assert not differences(one, several)
    assert metrics_of(one) == metrics_of(several)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_four_processes_equal_one(experiment: str, trained: Path) -> None:
    run = f"{experiment}_4"
    one, several = trained / "one" / run, trained / "several" / run
    assert problems(trained / "several", run) == [""] * 4
    assert not differences(one, several)
    assert metrics_of(one) == metrics_of(several)


@pytest.mark.parametrize("experiment", OF_EIGHT)
def test_more_micro_batches_than_processes_differ_by_round_off(
    experiment: str, trained: Path
) -> None:
    one, several = trained / "one", trained / "several"
    far = differences(one / f"{experiment}_8", several / f"{experiment}_8")
    assert 0 < max(far.values(), default=0.0) <= 1e-5
    exact = several / f"{experiment}_8_exact"
    assert not differences(one / f"{experiment}_8", exact)
    assert metrics_of(one / f"{experiment}_8") == metrics_of(exact)


def test_a_run_continues_on_four_then_two_then_one_process(trained: Path) -> None:
    one, several = trained / "one/continued", trained / "several/continued"
    assert not differences(one, several)
    assert metrics_of(one) == metrics_of(several)
    record = json.loads(RunPaths(several).config_file.read_text())
    assert [a["processes"] for a in record["attempts"]] == [4, 2, 1]
    assert [a["from_step"] for a in record["attempts"]] == [0, 2, 4]


def test_the_record_says_where_a_run_was_trained(trained: Path) -> None:
    one, several = trained / "one/recorded_2", trained / "several/recorded_2"
    assert results_of(one) == results_of(several)
    results = json.loads(RunPaths(several).results_file.read_text())
    # Both processes share the test, and their processor seconds are added.
    assert results["final_metrics"]["test_windows"] > 2
    assert results["totals"]["cpu_s"] > 0
    processes = results["processes"]
    assert processes["processes"] == 2
    assert len(processes["hosts"]) == 1
    assert processes["devices"] == ["cpu", "cpu"]
    assert 0 < processes["communication_share"] < 1
    assert math.isfinite(processes["communication_s"])
