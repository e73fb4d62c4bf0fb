"""Every command that loads a checkpoint: one that cannot be loaded, or is another run's, stops it
with one line."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp import train
from spectral_exp.commands import (
    checkpoints,
    diagnose,
    evaluate,
    generate,
    reproduce,
    verify_resume,
)
from spectral_exp.core.checksum import file_crc32
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.runs.layout import RunPaths
from tests.conftest import NO_PLOTS, TINY
from tests.monitoring.checkpoint.test_foreign_pickles import CONTAINERS, PAYLOADS, write_foreign


class Payload:
    """Leaves a file when it is loaded by a loader that allows it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 of its 12 steps, with checkpoints of steps 4 to 8."""
    run = tmp_path_factory.mktemp("foreign") / "run"
    assert train.main([*TINY, NO_PLOTS, "training.max_steps=8", f"hydra.run.dir={run}"]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def contents(run: Path) -> dict[str, bytes]:
    """Checkpoints and metrics."""
    folders = (RunPaths(run).checkpoints, RunPaths(run).logs)
    return {
        str(p): p.read_bytes()
        for folder in folders
        for p in folder.iterdir()
        if p.name != "training.log"
    }


def commands(run: Path) -> dict[str, Callable[[], int]]:
    """Every command that loads a checkpoint of `run`."""
    return {
        "generate": lambda: generate.main([str(run), "--checkpoint", "latest", "--tokens", "2"]),
        "diagnose": lambda: diagnose.main([str(run), "--checkpoint", "latest"]),
        "evaluate": lambda: evaluate.main([str(run), "--checkpoint", "latest"]),
        "verify_resume": lambda: verify_resume.main([str(run), "--from", "4", "--steps", "2"]),
        "export": lambda: checkpoints.main(["export", str(run), "--checkpoint", "latest"]),
        "export of a step": lambda: checkpoints.main(["export", str(run), "--checkpoint", "8"]),
        "resume": lambda: train.main([f"resume={run}", "training.max_steps=12"]),
    }


def reader_commands(run: Path) -> dict[str, Callable[[], int]]:
    """Every command that lists or verifies the checkpoints of `run`, or trains it anew."""
    return {
        "list": lambda: checkpoints.main(["list", str(run)]),
        "verify": lambda: checkpoints.main(["verify", str(run)]),
        "reproduce": lambda: reproduce.main(
            [str(run), "--output", f"{run}_again", "--steps", "1", "--current-code"]
        ),
    }


@pytest.mark.parametrize(
    "container",
    [
        pytest.param(name, marks=[] if name == "tar before zip" else pytest.mark.slow)
        for name in CONTAINERS
    ],
)
def test_no_command_runs_a_pickle(
    run: Path, container: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging, "raiseExceptions", False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    folder = RunPaths(run).checkpoints
    for number, (name, command) in enumerate(commands(run).items()):
        form = list(PAYLOADS)[number % len(PAYLOADS)]
        for step in RunPaths(run).checkpoint_steps():
            write_foreign(folder, step, PAYLOADS[form], container)
        before = contents(run)
        capfd.readouterr()
        assert command() == 2, (name, form)
        printed = capfd.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, (name, form, printed)
        assert "Traceback" not in printed.err + printed.out
        assert contents(run) == before, (name, form)
        assert not list(elsewhere.iterdir()), (name, form)
    for step in RunPaths(run).checkpoint_steps():
        write_foreign(folder, step, PAYLOADS["GLOBAL, REDUCE"], container, sidecar=False)
    readers = reader_commands(run)
    # Verifying compares bytes; whole archives agree with the checksums in them.
    whole = {"zip", "TorchScript", "zip in zstd"}
    expected = {"list": 0, "verify": 0 if container in whole else 1}
    for name, code in expected.items():
        assert readers[name]() == code, (name, capfd.readouterr())
        assert not list(elsewhere.iterdir()), name


@pytest.mark.slow
def test_reproducing_a_run_loads_none_of_its_checkpoints(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for step in RunPaths(run).checkpoint_steps():
        write_foreign(RunPaths(run).checkpoints, step, PAYLOADS["GLOBAL, REDUCE"], "zip")
    assert reader_commands(run)["reproduce"]() == 0
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("fault", "command"),
    [("code", command) for command in commands(Path("x"))]
    + [
        (fault, command)
        for fault in ("memory", "broken")
        for command in ("generate", "export", "resume")
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_stops_every_command(
    run: Path, command: str, fault: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trace = tmp_path / "trace"
    for path in (RunPaths(run).checkpoint_file(step) for step in RunPaths(run).checkpoint_steps()):
        if fault == "code":
            state = torch.load(path, weights_only=True)
            torch.save(state | {"more": Payload(trace)}, path)
            facts = {"size": path.stat().st_size, "crc32": f"{file_crc32(path, 1):08x}"}
            checkpoint_file.sidecar_file(path).write_text(json.dumps(facts))
        elif fault == "broken":
            path.write_bytes(path.read_bytes()[:1000])
    if fault == "memory":
        monkeypatch.setattr(checkpoint_reader, "available_memory", lambda: 5)
    # Training in this process has left a log handler with a stream that pytest has closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    before = contents(run)
    code = commands(run)[command]()
    printed = capfd.readouterr()
    assert code in {1, 2}, printed
    expected = {"code": "may run code", "memory": "MB of memory", "broken": "is intact|is broken"}[
        fault
    ]
    assert any(word in printed.err for word in expected.split("|")), printed.err
    assert "Traceback" not in printed.err + printed.out
    assert not trace.exists()
    assert contents(run) == before


def test_a_checkpoint_of_another_run_is_not_continued(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert (
        train.main([*TINY, NO_PLOTS, "training.max_steps=10", "seed=7", f"hydra.run.dir={other}"])
        == 0
    )
    for path in RunPaths(other).checkpoints.iterdir():
        target = RunPaths(run).checkpoints / path.name
        target.unlink(missing_ok=True)
        shutil.copy(path, target, follow_symlinks=False)
    before = contents(run)
    capfd.readouterr()
    assert train.main([f"resume={run}", "training.max_steps=12"]) == 2
    error = capfd.readouterr().err
    assert "checkpoint_step_10.pt belongs to a run of another configuration (seed: 7 -> " in error
    assert contents(run) == before


def test_the_best_link_is_put_right_on_resume(run: Path) -> None:
    paths = RunPaths(run)
    best = json.loads(paths.results_file.read_text())["best_metrics"]["step"]
    paths.best_link.unlink()
    assert train.main([f"resume={run}"]) == 0
    assert paths.best_link.readlink() == Path(f"checkpoint_step_{best}.pt")
