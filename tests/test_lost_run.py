"""A run whose folder goes away stops, and leaves alone what takes its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY, train

ENDLESS = ("+experiment=classic", *TINY, NO_PLOTS, "training.max_steps=1000000", "hydra.run.dir=run")


@contextmanager
def training(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains in `folder`/run and has logged something."""
    metrics = RunPaths(folder / "run").metrics_file
    command = [sys.executable, "-m", "spectral_exp.train", *ENDLESS]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
            os.sched_yield()
        try:
            yield process
        finally:
            process.kill()


def move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def remove(run: Path) -> None:
    # What is written meanwhile may need a second look.
    while run.exists():
        shutil.rmtree(run, ignore_errors=True)


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("lose", [move, pytest.param(remove, marks=pytest.mark.slow)])
def test_a_run_whose_folder_goes_away_stops(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    with training(tmp_path) as process:
        lose(tmp_path / "run")
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 1, printed + errors
    assert "was moved or removed while this process trained in it: stopped" in errors
    assert "(the run directory no longer belongs to this process)" in printed
    assert "Traceback" not in printed + errors
    assert not (tmp_path / "run/results.json").exists()
    if lose is move:
        RunLock(tmp_path / "moved").acquire()


@pytest.mark.slow
def test_the_run_that_takes_its_place_is_left_alone(tmp_path: Path) -> None:
    with training(tmp_path) as first:
        move(tmp_path / "run")
        with training(tmp_path) as second:
            assert first.communicate(timeout=120)[0] is not None
            assert first.returncode == 1
            assert second.poll() is None
            # The lock of the second is in force.
            third = train(*ENDLESS, cwd=tmp_path)
            assert third.returncode == 2
            assert str(second.pid) in third.stderr
            second.terminate()
            printed, errors = second.communicate(timeout=120)
        assert second.returncode == 143, printed + errors
    steps = [line.split(b",")[0] for line in content(tmp_path / "run")["logs/metrics.jsonl"].splitlines()]
    assert len(steps) == len(set(steps))


def test_a_run_with_links_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("precious")
    (run / "logs").mkdir(parents=True)
    for name in ("train.log", "logs/metrics.jsonl"):
        (run / name).symlink_to(victim)
    monkeypatch.chdir(tmp_path)
    assert main(list(ENDLESS)) == 2
    assert "run holds links ('logs/metrics.jsonl', 'train.log')" in capsys.readouterr().err
    assert victim.read_text() == "precious"
