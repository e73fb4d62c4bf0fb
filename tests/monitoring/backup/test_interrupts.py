"""Exceptions from signal handlers at any moment of submitting and closing: no call hangs, no upload
is lost."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.files import replace_symlink
from spectral_exp.monitoring.backup import backup as module
from spectral_exp.monitoring.backup.backup import Backup
from spectral_exp.monitoring.backup.process import BackupProcessError
from spectral_exp.runs.layout import RunPaths
from tests.crash.conftest import report_count
from tests.crash.interrupts import interrupt_after


class Storage:
    """Replaces the helper process and the storage; every third request fails."""

    stored: list[int]
    requests: itertools.count[int]

    def __init__(self, timeout_s: float) -> None:
        self.killed = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.killed or next(Storage.requests) % 3 == 2:
            raise BackupProcessError("its process died")
        Storage.stored.append(request["what"]["step"])
        return {"new_mb": 0.0, "time_s": 0.0}

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backup:
    monkeypatch.setattr(module, "BackupProcess", Storage)
    Storage.stored, Storage.requests = [], itertools.count()
    RunPaths(tmp_path).checkpoints.mkdir()
    return Backup(tmp_path, "file:///nowhere", retries=3, pause_s=0.0, exit_deadline_s=30)


def save(backup: Backup, step: int) -> None:
    file = backup.paths.checkpoint_file(step)
    file.write_bytes(b"")
    replace_symlink(backup.paths.latest_link, file)


def interrupt(backup: Backup, strike: Callable[[Callable[[], object]], bool], step: int) -> bool:
    """Interrupt a submit and a close, and check that the next close stores the newest step."""
    save(backup, step)

    def calls() -> None:
        backup.submit(step)
        backup.close()

    struck = strike(calls)
    if step % 2:
        save(backup, step + 1)
        backup.submit(step + 1)
    assert backup.close()
    assert backup.stored_step == Storage.stored[-1] == step + step % 2
    return struck


# An exception may meet a finalizer of the interpreter, which reports it and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_times(backup: Backup, times: int) -> None:
    chance = random.Random(0)
    struck = 0
    for number in range(times):
        moment_s = chance.uniform(0, 0.002)
        struck += interrupt(
            backup, functools.partial(interrupt_after, moment_s), 2 * number + number % 2
        )
    report_count("exceptions from a signal handler in backups", struck, struck)


def test_an_abandoned_backup_stores_nothing_more(backup: Backup) -> None:
    save(backup, 1)
    backup.submit(1)
    assert backup.close()
    # Once, or twice: `close` stores the step again, with the results, if its backup had begun.
    stored = [*Storage.stored]
    assert set(stored) == {1}
    backup.abandon()
    save(backup, 2)
    backup.submit(2)
    assert not backup.close()
    assert Storage.stored == stored
