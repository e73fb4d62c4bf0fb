"""A sweep whose jobs train on two processes each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.runs.lock import RunLock
from spectral_exp.sweeps import driver, job
from spectral_exp.sweeps.states import JobState, read_state
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY

SWEEP = [
    "--config-dir", "own", "+experiment=mine", "optimizer.learning_rate=1e-3,1e30", "sweep=two",
    *TINY, NO_PLOTS, "training.max_steps=3", "training.max_bad_steps=2",
    "training.grad_accum_steps=2", "schedule=constant", "schedule.warmup_steps=1",
    "distributed.nproc=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_jobs_on_two_processes_end_as_those_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One job is taken by another launcher at the last moment; one diverges."""
    monkeypatch.chdir(tmp_path)
    Path("own/experiment").mkdir(parents=True)
    shutil.copy(CONF_DIR / "experiment/wave.yaml", "own/experiment/mine.yaml")
    locks: list[RunLock] = []
    launched: list[str] = []

    def take(run: Path, defaults: Mapping[str, Any] | None = None) -> JobState:
        state = read_state(run, defaults)
        launched.append(run.name)
        if not locks and "lr0.001" in run.name:
            run.mkdir(parents=True, exist_ok=True)
            locks.append(RunLock(run))
            locks[0].acquire()
        return state

    def free(run: Path, defaults: Mapping[str, Any] | None = None) -> JobState:
        state = read_state(run, defaults)
        if locks and state.state == "running":
            locks[0].release()
        return state

    monkeypatch.setattr(job, "read_state", take)
    monkeypatch.setattr(driver, "read_state", free)
    assert main(SWEEP) == 1

    assert sorted(launched.count(name) for name in {*launched}) == [1, 2], launched
    printed = capfd.readouterr()
    assert "waiting for wave_lr0.001_" in printed.out
    assert "attempt" not in printed.out
    errors = {line for line in printed.err.splitlines() if line.startswith("error: outputs/two")}
    (reason,) = errors
    assert "2 steps in a row had a non-finite loss or gradient" in reason
    assert "tried" not in reason
    assert "1 of 2 jobs done" in printed.out
    results = [json.loads(file.read_text()) for file in Path("outputs/two").glob("*/results.json")]
    assert sorted(found["status"] for found in results) == ["completed", "diverged"]
    assert [found["processes"]["processes"] for found in results] == [2, 2]
