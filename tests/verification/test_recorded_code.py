"""The code that made a run is restored from its commit and patch, or the reason is reported."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.core.git import CODE_VARIABLE
from spectral_exp.monitoring import ConfigTracker
from spectral_exp.runs.layout import RunPaths
from spectral_exp.verification.recorded_code import recorded_code
from tests.conftest import ROOT


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's repository with a changed and a new file."""
    root = tmp_path / "own"
    (root / "code").mkdir(parents=True)
    (root / "code/model.py").write_text("one = 1\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "code/model.py").write_text("two = 2\n")
    (root / "code/part.py").write_text("part = 1\n")
    monkeypatch.setenv(CODE_VARIABLE, str(root / "code"))
    return root


def record_run(run: Path) -> dict[str, Any]:
    tracker = ConfigTracker(run)
    tracker.save_config({})
    return tracker.load_config()


def go_on(own: Path) -> None:
    """What the user does afterwards."""
    (own / "code/model.py").write_text("three = 3\n")
    git(own, "add", ".")
    git(own, "commit", "-qm", "second")


def changed(record: Mapping[str, Any], section: str, **entries: Any) -> dict[str, Any]:
    return {**record, section: {**record[section], **entries}}


def test_the_users_code_is_checked_out_beside_this_package(own: Path, tmp_path: Path) -> None:
    record = record_run(tmp_path / "run")
    assert record["git"]["repository"] == str(own)
    with recorded_code(RunPaths(tmp_path / "run"), record, [], is_trusted=True) as folders:
        assert folders == [ROOT, own / "code"]
    go_on(own)
    with recorded_code(RunPaths(tmp_path / "run"), record, [], is_trusted=True) as (package, code):
        assert package == ROOT
        assert (code / "model.py").read_text() == "two = 2\n"
        assert (code / "part.py").read_text() == "part = 1\n"
    assert not code.exists()
    trees = subprocess.run(
        ["git", "-C", str(own), "worktree", "list"], capture_output=True, check=True
    ).stdout
    assert len(trees.splitlines()) == 1


def test_an_incomplete_or_changed_patch_is_reported(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "code/part.py").write_text('client(api_key="Zq8hunter2XY")\n')
    record = record_run(tmp_path / "run")
    go_on(own)
    with recorded_code(RunPaths(tmp_path / "run"), record, [], is_trusted=True):
        assert (
            "note: secrets were removed from the recorded changes of code/part.py"
            in capsys.readouterr().err
        )
    lacking = changed(record, "git", diff_truncated=True, diff_missing=["big.py (too large)"])
    with pytest.raises(UserError, match=r"it lacks big.py \(too large\); use --current-code"):
        recorded_code(RunPaths(tmp_path / "run"), lacking, [], is_trusted=True).__enter__()


@pytest.mark.parametrize(
    ("section", "entries", "message"),
    [
        (
            "git",
            {"hash": "1" * 40},
            "1{40} of the run's code is not in .*own.*; fetch it, or use --current-code",
        ),
        ("git", {"hash": "--upload-pack=x"}, "holds '--upload-pack=x', which is not a commit"),
        (
            "git",
            {"hash": None, "problem": "git is not installed"},
            r"code is not recorded \(git is not installed\)",
        ),
        (
            "package",
            {"version": "0.0", "hash": None},
            "made by spectral_exp 0.0, and this is .*; install that version",
        ),
        (
            "package",
            {"hash": "1" * 40, "dirty": True},
            "at 1{40} with uncommitted changes, and only the patch",
        ),
    ],
)
def test_code_that_cannot_be_found_is_reported(
    own: Path, tmp_path: Path, section: str, entries: dict[str, Any], message: str
) -> None:
    record = changed(record_run(tmp_path / "run"), section, **entries)
    with pytest.raises(UserError, match=message):
        recorded_code(RunPaths(tmp_path / "run"), record, [], is_trusted=True).__enter__()
