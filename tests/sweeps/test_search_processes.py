"""Searches as a user runs them: real processes that are killed, run together, and prune."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from spectral_exp.runs.load import load_run
from spectral_exp.runs.run import Run
from spectral_exp.sweeps.ledger import read_ledger
from spectral_exp.sweeps.status import find_sweep, read_status
from tests.conftest import NO_PLOTS, TINY, python, train

pytestmark = pytest.mark.slow

optuna.logging.set_verbosity(optuna.logging.ERROR)

RATE = "optimizer.learning_rate=tag(log, interval(1e-5, 1e-1))"
JOB = (
    "-m",
    "+experiment=classic",
    *TINY,
    NO_PLOTS,
    "device=cpu",
    "training.eval_interval=3",
    "training.sample_tokens=0",
    "monitoring/spectra=off",
)
ASHA = ("search=random", "search.trials=5", "search.pruner=asha", "search.reduction_factor=2", RATE)


def runs_of(sweep: Path) -> list[Run]:
    """Return the runs of a sweep in the order in which they were planned."""
    return [load_run(sweep / job.folder) for job in read_ledger(sweep).jobs.values()]


@contextlib.contextmanager
def started(*overrides: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A training command in a process group of its own, which does not survive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process: subprocess.Popen[str], sweep: Path, pattern: str, count: int) -> None:
    """Wait until the runs of a sweep have `count` files that match, or the process has ended."""
    while len(list(sweep.glob(pattern))) < count and process.poll() is None:
        time.sleep(0.01)


def outcome(run: Run) -> tuple[Any, ...]:
    return (run.status, run.last_step, run.value("val_bpb"), run.results.get("pruned_because"))


def attempts(run: Run) -> int:
    return len(run.record["attempts"])


def test_a_search_that_is_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    done = train(*JOB, *ASHA, "sweep=whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole, broken = tmp_path / "outputs/whole", tmp_path / "outputs/broken"

    command = (*JOB, *ASHA, "sweep=broken")
    with started(*command, cwd=tmp_path) as process:
        wait_for(process, broken, "*/results.json", 1)
        wait_for(process, broken, "*/logs/metrics.jsonl", 2)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    done = train(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = runs_of(broken)
    assert [run.path.name for run in runs] == [run.path.name for run in runs_of(whole)]
    assert [outcome(run) for run in runs] == [outcome(run) for run in runs_of(whole)]
    assert len(runs) == len([path for path in broken.iterdir() if path.is_dir()]) == 5

    files = {path: path.read_bytes() for path in broken.glob("*/**/*") if path.is_file()}
    longer = [o if o != "search.trials=5" else "search.trials=6" for o in command]
    assert train(*longer, cwd=tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in files} == files
    assert [run.path.name for run in runs_of(broken)][:5] == [run.path.name for run in runs]
    assert len(runs_of(broken)) == 6

    assert_pruned_as_by_optuna(runs)
    pruned = next(run for run in runs if run.status == "pruned")
    verified = python("-m", "spectral_exp", "verify_resume", str(pruned.path), cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr


def assert_pruned_as_by_optuna(runs: Sequence[Run]) -> None:
    """Assert that a study of optuna prunes the same runs at the same steps, which saves steps."""
    study = optuna.create_study(
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2)
    )
    for run in runs:
        trial = study.ask()
        series = run.series("val_bpb")
        decisions = []
        for step, value in zip(series.steps, series.values, strict=True):
            trial.report(float(value), int(step))
            decisions.append(step < 12 and trial.should_prune())
        assert decisions == [False] * (len(decisions) - 1) + [run.status == "pruned"]
        study.tell(trial, float(series.values[-1]))
    assert {run.status for run in runs} == {"completed", "pruned"}
    assert all((run.last_step == 12) is (run.status == "completed") for run in runs)


def test_two_launchers_share_a_search(tmp_path: Path) -> None:
    command = (*JOB, "search=tpe", "search.trials=8", "search.startup_trials=3", RATE, "sweep=s")
    with started(*command, cwd=tmp_path) as one, started(*command, cwd=tmp_path) as other:
        outputs = [process.communicate(timeout=200)[0] for process in (one, other)]
        assert [process.returncode for process in (one, other)] == [0, 0], outputs
    runs = runs_of(tmp_path / "outputs/s")
    assert len(runs) == 8
    assert {run.status for run in runs} == {"completed"}
    assert [attempts(run) for run in runs] == [1] * 8
    assert all(text.count("run directory:") > 0 for text in outputs)
    status = read_status(find_sweep(str(tmp_path / "outputs/s")))
    (search,) = status.searches
    assert search.counts == {"done": 8}
    best = min(runs, key=lambda run: run.value("val_bpb") or 0.0)
    assert search.rows()[0]["run"] == best.path.name
    assert search.rows()[0]["val_bpb"] == best.value("val_bpb")
    assert all(
        best.path.name in text.rpartition("search: the best of 8 runs")[2] for text in outputs
    )


def test_a_grid_is_complete_and_ends_with_its_pareto_set(tmp_path: Path) -> None:
    """A combination that cannot be trained is reported, and ends neither search nor sweep."""
    command = [*JOB, "search=grid", "search.objectives=[val_bpb,n_parameters]", "sweep=g"]
    command += ["model.n_embd=12,16", "model.n_head=2,3"]
    done = train(*command, cwd=tmp_path)
    assert done.returncode == 2
    refused = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(refused) == 1
    assert "n_head" in refused[0]
    folders = [path.parent for path in (tmp_path / "outputs/g").glob("*/config.json")]
    runs = [load_run(folder) for folder in folders]
    names = ("model.n_embd", "model.n_head")
    found = sorted(tuple(run.settings[name] for name in names) for run in runs)
    assert found == [(12, 2), (12, 3), (16, 2)]
    points = {run.path.name: (run.value("val_bpb") or 0, run.n_parameters or 0) for run in runs}
    front = {
        name
        for name, (bpb, size) in points.items()
        if not any(b <= bpb and s <= size and (b, s) != (bpb, size) for b, s in points.values())
    }
    table = done.stdout.rpartition("search: the Pareto set of val_bpb, n_parameters in ")[2]
    assert {name for name in points if name in table} == front
    listed = train_status(tmp_path, "g")
    assert {leader["run"] for leader in listed["searches"][0]["leaders"]} == front


def train_status(folder: Path, sweep: str) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-m", "spectral_exp", "sweep", "status", sweep, "--format", "json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    content = json.loads(found.stdout)
    assert isinstance(content, dict)
    return content
