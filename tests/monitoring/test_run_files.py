"""Small files of a run are made durable while other processes change them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from spectral_exp.core import files
from spectral_exp.monitoring.run_files import UnsyncedFiles
from spectral_exp.runs.marks import update_marks
from tests.results.made_runs import make_run


def test_notes_that_are_replaced_meanwhile_cost_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path)
    temporary = run / ".notes.json.1-00000000.tmp"
    synced, fsync_path = [], files.fsync_path

    def fsync_and_rename(path: Path) -> None:
        temporary.unlink(missing_ok=True)
        synced.append(path.name)
        fsync_path(path)

    monkeypatch.setattr(files, "fsync_path", fsync_and_rename)
    update_marks(run, {"pinned": True})
    temporary.touch()
    with caplog.at_level(logging.WARNING):
        UnsyncedFiles(run).sync()
    assert not caplog.records
    assert {"notes.json", "config.json", "results.json"} <= set(synced)
