"""A run whose folder disappears stops, and does not touch a folder in its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.monitoring import CheckpointManager, MetricsLogger
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.store import CheckpointStore
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY, train

ENDLESS = (
    "+experiment=classic",
    *TINY,
    NO_PLOTS,
    "training.max_steps=1000000",
    "hydra.run.dir=run",
)


@contextmanager
def training(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains in `folder`/run and has logged something."""
    metrics = RunPaths(folder / "run").metrics_file
    command = [sys.executable, "-m", "spectral_exp.train", *ENDLESS]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
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


@pytest.mark.slow
@pytest.mark.parametrize("lose", [move, remove])
def test_a_run_whose_folder_goes_away_stops(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    with training(tmp_path) as process:
        lose(tmp_path / "run")
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 1, printed + errors
    assert "was moved or removed while this process trained in it: training has stopped" in errors
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
    steps = [
        line.split(b",")[0] for line in content(tmp_path / "run")["logs/metrics.jsonl"].splitlines()
    ]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("background", [False, True])
def test_later_writes_do_not_recreate_a_moved_run(tmp_path: Path, background: bool) -> None:
    """A save that is under way, lines that wait, and plots that are still being drawn."""
    run = tmp_path / "run"
    run.mkdir()
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())
    arrived, moved = threading.Event(), threading.Event()

    def wait(_: int = 0) -> None:
        arrived.set()
        assert moved.wait(60)

    manager = CheckpointManager(run, 1, background=background)
    logger = MetricsLogger(run / "logs")
    logger.log_metrics(1, {"loss": 1.0})
    assert manager.save_checkpoint(1, model, optimizer, [], {})
    manager.wait()
    if background:
        manager.before_commit = wait
        assert manager.save_checkpoint(2, model, optimizer, [], {})
        assert arrived.wait(60)
    run.rename(tmp_path / "moved")
    moved.set()
    manager.wait()
    manager.save_checkpoint(3, model, optimizer, [], {})
    manager.close()
    logger.close()
    logger.log_metrics(2, {"loss": 1.0})
    logger.close()
    assert not run.exists()
    run.mkdir()  # another run begins in its place
    logger.close()
    assert not list(run.iterdir())
    run.rmdir()
    (tmp_path / "moved").rename(run)
    logger.close()
    assert [entry["step"] for entry in logger.load_metrics()] == [1, 2]


def test_a_save_is_not_committed_to_the_run_that_has_taken_the_place(tmp_path: Path) -> None:
    """The folder is replaced between two looks at its owner, as a checkpoint is about to be
    written."""
    run = tmp_path / "run"
    write_checkpoint = checkpoint_file.write_checkpoint

    def replace_and_write(*arguments: Any, **named: Any) -> Any:
        if not (tmp_path / "moved").exists():
            run.rename(tmp_path / "moved")
            (run / "checkpoints").mkdir(parents=True)
        return write_checkpoint(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file, "write_checkpoint", replace_and_write)
        assert main([*TINY, NO_PLOTS, "monitoring/checkpoint=sync", f"hydra.run.dir={run}"]) == 1
    assert [path.name for path in run.rglob("*")] == ["checkpoints"]


def test_nothing_is_written_to_a_new_folder_in_the_place_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write = CheckpointStore.write

    def replace_and_write(store: CheckpointStore, *arguments: Any) -> Any:
        if not (tmp_path / "moved").exists():
            run.rename(tmp_path / "moved")
            run.mkdir()
        return write(store, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "write", replace_and_write)
        assert main([*TINY, NO_PLOTS, "monitoring/checkpoint=sync", f"hydra.run.dir={run}"]) == 1
    assert not list(run.iterdir())


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
