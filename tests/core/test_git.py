"""Whose code a run records: the user's, and this package's apart from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spectral_exp
from spectral_exp.core.git import CODE_VARIABLE, NO_GIT_HASH, git_hash, run_git
from spectral_exp.monitoring.tracking import environment
from spectral_exp.monitoring.tracking.environment import package_facts
from tests.conftest import ROOT

SCRIPT = """
import json, sys
from spectral_exp.core.git import code_directory, git_hash
from spectral_exp.monitoring import generate_experiment_id
if "train" in sys.argv: sys.modules["spectral_exp.train"] = sys
print(json.dumps([str(code_directory()), git_hash(), generate_experiment_id("own").rpartition("_")[2]]))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's repository with a script in a folder."""
    root = tmp_path / "own"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts/loop.py").write_text(SCRIPT)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


def run(*arguments: str, cwd: Path) -> tuple[str, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    folder, commit, in_id = json.loads(done.stdout)
    assert in_id == commit
    return folder, commit, in_id


def commit_in(root: Path) -> str:
    printed = run_git("rev-parse", "HEAD", directory=root)
    assert printed is not None
    return printed.decode()[:8]


def test_an_own_loop_records_the_repository_of_its_script(own: Path, tmp_path: Path) -> None:
    assert run(str(own / "scripts/loop.py"), cwd=tmp_path)[:2] == (
        str(own / "scripts"),
        commit_in(own),
    )
    # Its code is in no repository, wherever it is started.
    (tmp_path / "loose.py").write_text(SCRIPT)
    assert run(str(tmp_path / "loose.py"), cwd=own)[1] == NO_GIT_HASH


def test_a_session_without_a_script_records_the_working_directory(
    own: Path, tmp_path: Path
) -> None:
    assert run("-c", SCRIPT, cwd=own)[:2] == (str(own), commit_in(own))
    assert run("-c", SCRIPT, cwd=tmp_path)[1] == NO_GIT_HASH


def test_the_training_command_records_another_repository_around_it(
    own: Path, tmp_path: Path
) -> None:
    assert run("-c", SCRIPT, "train", cwd=own)[:2] == (str(own), commit_in(own))
    assert run("-c", SCRIPT, "train", cwd=tmp_path)[0] == str(ROOT)


def test_the_variable_names_the_code(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE_VARIABLE, str(own))
    assert git_hash() == commit_in(own)


def test_the_package_is_recorded_by_version_and_checkout() -> None:
    facts = package_facts()
    assert facts["version"] == spectral_exp.__version__
    if (ROOT / ".git").exists():
        assert facts["hash"][:8] == commit_in(ROOT)
        assert (facts["repository"], facts["problem"]) == (str(ROOT), None)


def test_no_program_of_a_repository_runs(tmp_path: Path) -> None:
    """A folder that somebody else has made may be a repository whose configuration names
    programs."""
    root = tmp_path / "theirs"
    root.mkdir()
    settings = {
        "core.fsmonitor": "fsmonitor",
        "filter.a.clean": "clean",
        "filter.a.smudge": "smudge",
        "filter.a=b.process": "process",
        "filter.a=b.required": "true",
        "diff.d.textconv": "textconv",
        "diff.d.command": "command",
        "diff.external": "external",
    }
    script = [
        "git init -q .",
        "git config user.name a",
        "git config user.email a@b",
        "echo x > code.py",
        "git add .",
    ]
    subprocess.run(["sh", "-ec", "; ".join([*script, "git commit -qm a"])], cwd=root, check=True)
    for name, program in settings.items():
        value = program if program == "true" else f"touch {tmp_path}/ran-{program}; cat"
        subprocess.run(["git", "config", name, value], cwd=root, check=True)
    (root / ".gitattributes").write_text("code.py filter=a diff=d\nnew.py filter=a=b diff=d\n")
    (root / "code.py").write_text("y\n")
    (root / "new.py").write_text("z\n")
    facts, patch = environment.git_facts(root)
    assert facts["dirty"]
    assert b"+y" in patch
    assert b"+z" in patch
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
