"""SIGKILL at every system call, and at any time: the same command again ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from spectral_exp.core import files
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.runs import layout
from tests.crash.conftest import Zygote, points, report_count


def best(root: Path) -> str | None:
    """The file that the link to the best checkpoint names."""
    path = files.follow(layout.RunPaths(root).best_link)
    return path.name if path is not None else None


def survives(zygote: Zygote, scenario: str, root: Path, expected: str, reported: int) -> bool:
    """Whether nothing reported durable is missing, and the same attempt again ends as expected, the best included."""
    found = CheckpointManager(root, enabled=False).load_latest_checkpoint()
    if reported and (found is None or found["step"] < reported):
        return False
    return zygote.run(scenario, root).text == expected and best(root) == best(root.parent / "undisturbed")


def kill_at_every_call(zygote: Zygote, scenario: str, folder: Path, at_most: int | None) -> None:
    expected = zygote.run(scenario, folder / "undisturbed").text
    assert "\n" in expected, expected
    assert best(folder / "undisturbed") is not None
    survived, failed = 0, []
    chosen = points(zygote, scenario, folder, at_most)
    for number, (call, count) in enumerate(chosen):
        root = folder / f"{number}"
        attempt = zygote.run(scenario, root, "-e", f"inject={call}:signal=KILL:when={count}")
        # The number of calls varies a little with timing: an attempt that got through has to be right as well.
        ended = attempt.signal == signal.SIGKILL or attempt.text == expected
        if ended and survives(zygote, scenario, root, expected, attempt.durable):
            survived += 1
        else:
            failed.append((call, count, attempt))
    assert not failed, failed[:3]
    report_count(f"SIGKILL at system calls, {scenario}", len(chosen), survived)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("scenario", ["library", "background"])
def test_sample_of_calls(zygote: Zygote, scenario: str, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most=30)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("scenario", ["library", "background"])
def test_every_call(zygote: Zygote, scenario: str, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most=None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("scenario", ["run", "synchronous run"])
def test_calls_of_whole_runs(zygote: Zygote, scenario: str, tmp_path: Path) -> None:
    kill_at_every_call(zygote, scenario, tmp_path, at_most=40)


def kill_at_random(zygote: Zygote, scenario: str, folder: Path, times: int, within_s: float) -> None:
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


def test_random_times(zygote: Zygote, tmp_path: Path) -> None:
    kill_at_random(zygote, "background", tmp_path, times=20, within_s=0.06)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_times_of_whole_runs(zygote: Zygote, tmp_path: Path) -> None:
    kill_at_random(zygote, "run", tmp_path, times=25, within_s=1.5)
