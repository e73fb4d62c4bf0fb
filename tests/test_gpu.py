"""Training on a GPU: exact continuation, the reference on the CPU, bf16, compilation, two processes
that share the device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import NO_PLOTS, TINY, train
from tests.test_train import EXPERIMENTS, KILL_SCRIPT, assert_same_state, read

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA"),
]

ON_GPU = (*TINY, NO_PLOTS, "device=cuda")


def run(*overrides: str, cwd: Path) -> None:
    done = train(*overrides, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def losses(folder: Path) -> dict[int, float]:
    """The training losses of a run by step."""
    lines = (folder / "logs/metrics.jsonl").read_text().splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {line["step"]: line["loss"] for line in found if "loss" in line}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(experiment: str, tmp_path: Path) -> None:
    settings = [f"+experiment={experiment}", *ON_GPU, "model.dropout=0.1"]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_SCRIPT, *settings, "hydra.run.dir=killed"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(*settings, "hydra.run.dir=killed", cwd=tmp_path)
    run(*settings, "hydra.run.dir=whole", cwd=tmp_path)
    assert_same_state(tmp_path / "killed", tmp_path / "whole", 12)
    assert read(tmp_path / "killed/results.json")["status"] == "completed"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_losses_are_those_of_the_cpu(experiment: str, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        settings = [f"+experiment={experiment}", *TINY, NO_PLOTS, f"device={device}"]
        run(*settings, f"hydra.run.dir={device}", cwd=tmp_path)
    on_cpu, on_gpu = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert on_cpu.keys() == on_gpu.keys()
    assert max(on_cpu) == 12
    assert list(on_gpu.values()) == pytest.approx(list(on_cpu.values()), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "rgd"])
@pytest.mark.parametrize(
    "setting", ["training.precision=bf16", "training.compile=true", "training.grad_accum_steps=3"]
)
def test_settings_of_the_step_train_on_a_gpu(optimizer: str, setting: str, tmp_path: Path) -> None:
    settings = ["+experiment=classic_modern", f"optimizer={optimizer}", setting, *ON_GPU]
    run(*settings, "training.max_steps=200", "hydra.run.dir=run", cwd=tmp_path)
    found = losses(tmp_path / "run")
    assert max(found) == 200
    assert found[200] < 0.95 * found[2]


def test_two_processes_share_a_gpu_and_equal_one(tmp_path: Path) -> None:
    settings = ["+experiment=wave_rgd", *ON_GPU, "training.grad_accum_steps=2"]
    for count in (1, 2):
        run(*settings, f"distributed.nproc={count}", f"hydra.run.dir=of{count}", cwd=tmp_path)
    assert_same_state(tmp_path / "of1", tmp_path / "of2", 12)


def test_a_run_of_a_gpu_continues_on_the_cpu(tmp_path: Path) -> None:
    settings = ["+experiment=wave", *TINY, NO_PLOTS]
    run(*settings, "device=cuda", "hydra.run.dir=run", cwd=tmp_path)
    run("resume=run", "training.max_steps=16", "device=cpu", cwd=tmp_path)
    results = read(tmp_path / "run/results.json")
    assert (results["status"], results["totals"]["steps"]) == ("completed", 16)
