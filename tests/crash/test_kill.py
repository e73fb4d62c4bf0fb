"""SIGKILL at every system call, and at any time: the same command again ends as if nothing had
happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core import files
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.runs import layout
from spectral_exp.train import main
from tests.conftest import TINY
from tests.crash.conftest import Zygote, points, report_count


def best(root: Path) -> str | None:
    """The file that the link to the best checkpoint names."""
    path = files.follow(layout.RunPaths(root).best_link)
    return path.name if path is not None else None


def survives(zygote: Zygote, scenario: str, root: Path, expected: str, reported: int) -> bool:
    """Whether nothing reported durable is missing, and the same attempt again ends as expected, the
    best included."""
    found = CheckpointManager(root, enabled=False).load_latest_checkpoint()
    if reported and (found is None or found["step"] < reported):
        return False
    return zygote.run(scenario, root).text == expected and best(root) == best(
        root.parent / "undisturbed"
    )


def kill_at_every_call(zygote: Zygote, scenario: str, folder: Path, at_most: int | None) -> None:
    expected = zygote.run(scenario, folder / "undisturbed").text
    assert "\n" in expected, expected
    assert best(folder / "undisturbed") is not None
    survived, failed = 0, []
    chosen = points(zygote, scenario, folder, at_most)
    for number, (call, count) in enumerate(chosen):
        root = folder / f"{number}"
        attempt = zygote.run(scenario, root, "-e", f"inject={call}:signal=KILL:when={count}")
        # The number of calls varies a little with timing: an attempt that got through has to be
        # right as well.
        ended = attempt.signal == signal.SIGKILL or attempt.text == expected
        if ended and survives(zygote, scenario, root, expected, attempt.durable):
            survived += 1
        else:
            failed.append((call, count, attempt))
    assert not failed, failed[:3]
    report_count(f"SIGKILL at system calls, {scenario}", len(chosen), survived)


@pytest.mark.usefixtures("strace")
@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["library", "background"])
def test_sample_of_calls(zygote: Zygote, scenario: str, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most=30)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("scenario", ["library", "background"])
def test_every_call(zygote: Zygote, scenario: str, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most=None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("at_most", [8, pytest.param(30, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("scenario", ["run", "synchronous run"])
def test_calls_of_whole_runs(zygote: Zygote, scenario: str, at_most: int, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most)


def kill_at_random(
    zygote: Zygote, scenario: str, folder: Path, times: int, within_s: float
) -> None:
    expected = zygote.run(scenario, folder / "undisturbed").text
    chance = random.Random(1)
    survived = 0
    for number in range(times):
        root = folder / f"{number}"
        reported = 0
        for _ in range(2):  # the attempt that continues is killed as well
            pid = zygote.start(scenario, root)
            time.sleep(chance.uniform(0, within_s))
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
            reported = max(reported, zygote.finish().durable)
        survived += survives(zygote, scenario, root, expected, reported)
    report_count(f"SIGKILL at random times, {scenario}", times, survived)


@pytest.mark.slow
def test_random_times(zygote: Zygote, tmp_path: Path) -> None:
    kill_at_random(zygote, "background", tmp_path, times=20, within_s=0.06)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.exhaustive
def test_random_times_of_whole_runs(zygote: Zygote, tmp_path: Path) -> None:
    kill_at_random(zygote, "run", tmp_path, times=25, within_s=1.5)


EARLY = (
    "training.patience=1",
    "training.eval_interval=2",
    "optimizer.learning_rate=3.0",
    "schedule.warmup_steps=0",
)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("training.max_steps=4",), id="completed", marks=pytest.mark.slow),
        pytest.param(EARLY, id="stopped early", marks=pytest.mark.slow),
    ],
)
def test_a_kill_between_the_last_save_and_the_results(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """The same command writes the results, the sample and the last plots; partial files are
    removed."""
    root = tmp_path / "run"
    command = [*TINY, "monitoring/visualization=sync", f"hydra.run.dir={root}", *overrides]
    assert main(command) == 0
    paths = layout.RunPaths(root)
    expected = outcome(paths)
    paths.results_file.unlink()
    for plot in paths.visualizations.iterdir():
        plot.unlink()
    foreign = (
        paths.root / ".weights_step_4.safetensors.1-abcd.tmp"
    )  # another process may be writing it
    halves = [
        files.temporary_path(file)
        for file in (
            paths.results_file,
            paths.root / ".hydra/config.yaml",
            paths.tokenizer / "tokenizer.json",
        )
    ]
    for half in (foreign, *halves):
        half.write_bytes(b"half")
    assert main(command) == 0
    assert outcome(paths) == expected
    assert not [half for half in halves if half.exists()]
    assert foreign.exists()


def outcome(paths: layout.RunPaths) -> Any:
    """What a finished run has come to: its results but for times, and which plots it has of its
    last step."""
    results = json.loads(paths.results_file.read_text())
    assert results["generation_samples"]
    last = f"step_{results['totals']['steps']:07d}"
    plots = {
        path.name.split("_step_")[0] for path in paths.visualizations.iterdir() if last in path.name
    }
    assert "training_dynamics" in plots
    return [
        plots,
        *(
            results[key]
            for key in ("status", "final_metrics", "best_metrics", "generation_samples")
        ),
    ]
