"""A refused `resume=` prints one line with the reason, and changes nothing in the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp import train
from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.timestamps import timestamp
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.runs.layout import RunPaths
from tests.conftest import NO_PLOTS, TINY, python

SETTINGS = (*TINY, NO_PLOTS, "+experiment=classic", "device=cpu")


class Payload:
    """Code in a checkpoint."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch canary",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    assert train.main([*SETTINGS, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of all that is in a folder, and of the folder."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(p): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths}


def replace_checkpoints(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for step in RunPaths(run).checkpoint_steps():
        path = RunPaths(run).checkpoint_file(step)
        torch.save(change(torch.load(path, weights_only=True)), path)
        facts = {"size": path.stat().st_size, "crc32": f"{file_crc32(path, 1):08x}"}
        checkpoint_file.sidecar_file(path).write_text(json.dumps(facts))


def of_another_run(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "config": {**state["config"], "seed": 7}}


WAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "seed=7": (lambda run: None, "holds a run of another configuration"),
    "init_from=other": (lambda run: None, "resume=run and init_from=other exclude each other: resume continues"),
    "threads=x": (lambda run: None, "must be an integer"),
    "training.max_steps=2": (lambda run: None, "must be >= 12"),
    "no.setting=1": (lambda run: None, "is not a setting"),
    "training.max_steps=13": (lambda run: replace_checkpoints(run, of_another_run), "belongs to a run of another"),
    "training.max_steps=14": (
        lambda run: replace_checkpoints(run, lambda state: {**state, "more": Payload()}), "may run code",
    ),
    "training.max_steps=15": (lambda run: (run / "tokenizer/x").symlink_to("/etc/hostname"), "holds links"),
    "training.max_steps=16": (lambda run: (run / "config.json").write_text("{"), "config.json"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("override", WAYS)
def test_a_refused_resume_changes_nothing(
    override: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    prepare, words = WAYS[override]
    prepare(run)
    if override == "training.max_steps=16":
        shutil.rmtree(run / ".hydra")
    before = snapshot(run)
    capfd.readouterr()
    assert train.main(["resume=run", override]) == 2
    printed = capfd.readouterr()
    assert words in printed.err
    assert not printed.out
    lines = printed.err.splitlines()
    # Other settings are refused with the command that starts a new run with them.
    assert len(lines) == (2 if "init_from=run" in printed.err else 1), printed
    assert all(line.startswith("error: ") for line in lines)
    assert printed.err.startswith("error: ")
    assert snapshot(run) == before
    assert not Path("canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experiment_id=run", "hydra.run.dir=run"])
def test_other_settings_under_the_name_of_a_run_change_nothing(
    name: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    before = snapshot(finished)
    capfd.readouterr()
    assert train.main([*SETTINGS, "outputs=.", name, "seed=7"]) == 2
    printed = capfd.readouterr()
    assert not printed.out
    refusal, remedy = printed.err.splitlines()
    assert refusal.startswith("error: run holds a run of another configuration (seed: ")
    assert remedy.startswith("error: to start a new run with these settings from its weights, ")
    assert snapshot(finished) == before


@pytest.mark.slow
def test_a_run_is_continued_at_once_after_its_host_has_died(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock has gone with the host; its file, and fresh metrics, are still there."""
    shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    owner = {"host": "elsewhere", "pid": 1, "since": timestamp(), "token": "0"}
    Path("run/run.lock").write_text(json.dumps(owner))
    RunPaths(Path("run")).metrics_file.touch()
    assert train.main(["resume=run", "training.max_steps=13"]) == 0


@pytest.mark.slow
def test_a_run_in_use_is_left_alone_and_hydra_adds_nothing(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    code = (
        "import sys; from pathlib import Path; from spectral_exp.runs.lock import RunLock\nwith"
        " RunLock(Path('run')):\n    import subprocess\n    done = subprocess.run([sys.executable,"
        " '-m', 'spectral_exp.train', 'resume=run', 'training.max_steps=13'], capture_output=True,"
        " text=True)\nprint(done.returncode); print(done.stdout + done.stderr, end='')\n"
    )
    before = snapshot(tmp_path / "run/logs") | snapshot(tmp_path / "run/.hydra")
    code_line, *lines = python("-c", code, cwd=tmp_path).stdout.splitlines()
    assert code_line == "2"
    assert len(lines) == 1
    assert "run is in use by process" in lines[0]
    assert snapshot(tmp_path / "run/logs") | snapshot(tmp_path / "run/.hydra") == before
