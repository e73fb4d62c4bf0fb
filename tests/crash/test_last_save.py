"""The end of a run on storage that refuses: said, recorded, and made room for."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectral_exp.monitoring import CheckpointManager
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY
from tests.crash.conftest import mounted

KEEP = "monitoring.checkpoint.keep_last_n=9"
SELDOM = "monitoring.checkpoint.save_interval=100"


@pytest.fixture
def disk(root_user: None, tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", at=tmp_path / "small") as folder:
        yield folder
        gc.collect()  # what is still open keeps it from being unmounted


def leave(disk: Path, free_bytes: int) -> Path:
    """Fill a disk up to so many free bytes; returns the file that does."""
    ballast = disk / "ballast"
    facts = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_bsize - free_bytes)
    return ballast


def train(root: Path, *overrides: str) -> int:
    try:
        return main([*TINY, NO_PLOTS, f"hydra.run.dir={root}", "monitoring.checkpoint.keep_best=false", *overrides])
    finally:
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, logging.FileHandler):  # it keeps the disk from being unmounted
                logging.getLogger().removeHandler(handler)
                handler.close()


def status(root: Path) -> str:
    return str(json.loads((root / "results.json").read_text())["status"])


def saved_steps(root: Path) -> list[int]:
    manager = CheckpointManager(root, enabled=False)
    steps = [found["step"] for found in manager.list_checkpoints()]
    assert all(manager.load_checkpoint(step) is not None for step in steps)
    return steps


def test_the_last_state_takes_the_place_of_the_oldest(disk: Path, tmp_path: Path) -> None:
    root = disk / "run"
    assert (
        train(root, KEEP, "monitoring/checkpoint=sync", "monitoring.checkpoint.save_interval=2", "training.max_steps=6")
        == 0
    )
    assert saved_steps(root) == [2, 4, 6]
    leave(disk, 40_000)  # for logs and results, not for a checkpoint
    assert train(root, KEEP, SELDOM, "training.max_steps=9") == 0
    assert status(root) == "completed"
    assert saved_steps(root) == [4, 6, 9]


def test_a_lost_end_is_an_error_with_the_remedy(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = disk / "run"
    assert train(root, SELDOM, "training.max_steps=6") == 0
    assert saved_steps(root) == [6]
    ballast = leave(disk, 40_000)
    capfd.readouterr()
    assert train(root, SELDOM, "training.max_steps=9") == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last
    assert "the last steps 7 to 9 are not saved: No space left on device" in last
    assert "free space on the disk" in last
    assert "give the same command again: it continues after step 6" in last
    assert status(root) == "not_saved"
    assert saved_steps(root) == [6]  # the newest intact one was not given up
    ballast.unlink()
    assert train(root, SELDOM, "training.max_steps=9") == 0
    assert status(root) == "completed"
    assert saved_steps(root)[-1] == 9
