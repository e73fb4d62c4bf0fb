from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from spectral_exp.commands.checkpoints import main
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from tests.conftest import python


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five checkpoints, step 2 the best."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(tmp_path / "run", keep_last_n=9)
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight.fill_(step)  # type: ignore[operator]
        manager.save_checkpoint(step, model, optimizer, [1.0] * step, {}, is_best=step == 2)
    return tmp_path / "run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints/checkpoint_step_1.pt.json").unlink()
    assert main(["list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert [line.split()[0] for line in lines] == ["step", "1", "2", "3", "4", "5"]
    assert lines[1].endswith("no sidecar")
    assert lines[2].endswith("best")
    assert lines[5].endswith("latest")


def test_verify_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    assert capsys.readouterr().out.count("intact, by its sidecar") == 5
    flip(run / "checkpoints/checkpoint_step_3.pt")
    (run / "checkpoints/checkpoint_step_4.pt.json").unlink()
    before = sorted(run.rglob("*"))
    assert main(["verify", str(run)]) == 1
    printed = capsys.readouterr().out
    assert "step 3: BROKEN, its checksum is" in printed
    assert "step 4: intact, by the checksums inside the file" in printed
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(("which", "step"), [("best", 2), ("latest", 5), ("4", 4)])
def test_export(run: Path, which: str, step: int, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    assert main(["export", str(run), "--checkpoint", which]) == 0
    path = run / f"weights_step_{step}.safetensors"
    assert capsys.readouterr().out.strip() == str(path)
    weights = safetensors.load_file(path)
    assert set(weights) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert (weights["0.weight"] == step).all()


def test_export_of_a_broken_checkpoint_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "checkpoints/checkpoint_step_3.pt")
    assert main(["export", str(run), "--checkpoint", "3"]) == 2
    assert "is broken" in capsys.readouterr().err
    assert not list(run.glob("*.safetensors"))


def test_verify_of_a_running_run_does_not_blame_retention(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = checkpoint_reader.verify

    def remove_first(path: Path, max_threads: int = 4) -> str:
        monkeypatch.setattr(checkpoint_reader, "verify", verify)
        CheckpointManager(run, keep_last_n=1).cleanup_old_checkpoints()
        return verify(path, max_threads)

    monkeypatch.setattr(checkpoint_reader, "verify", remove_first)
    assert main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        *("step 1: removed meanwhile", "step 2: intact", "step 3: removed meanwhile"),
        *("step 4: removed meanwhile", "step 5: intact"),
    ]


def test_prune(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["prune", str(run), "--keep-last", "2", "--keep-every", "3"]
    size = (run / "checkpoints/checkpoint_step_1.pt").stat().st_size
    assert main([*options, "--dry-run"]) == 0
    assert (
        capsys.readouterr().out.strip()
        == f"would remove 1 ({size / 1e6:.1f} MB) and keep 2, 3, 4, 5"
    )
    assert main(options) == 2
    assert "has no terminal to ask on; add --yes, or --dry-run" in capsys.readouterr().err
    assert RunPaths(run).checkpoint_steps() == [1, 2, 3, 4, 5]
    assert main([*options, "--yes"]) == 0
    assert capsys.readouterr().out.strip() == "removed 1; kept 2, 3, 4, 5"
    assert main(["prune", str(run), "--yes"]) == 0
    assert RunPaths(run).checkpoint_steps() == [2, 5]
    assert main(["prune", str(run)]) == 0  # there is nothing to ask
    assert capsys.readouterr().out.endswith("removed nothing; kept 2, 5\n")


@pytest.mark.parametrize(
    ("answer", "left"), [("y\n", [2, 5]), *((no, [1, 2, 3, 4, 5]) for no in ("n\n", "\n", "\x04"))]
)
def test_prune_asks_on_a_terminal(
    run: Path, answer: str, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, terminal = os.openpty()
    os.write(controller, answer.encode())
    with os.fdopen(terminal, "r") as stdin, os.fdopen(controller):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["prune", str(run)]) == 0
    assert RunPaths(run).checkpoint_steps() == left


def test_prune_leaves_a_running_run_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock(run):
        assert main(["prune", str(run), "--yes"]) == 2
    assert "in use by process" in capsys.readouterr().err
    assert len(RunPaths(run).checkpoint_steps()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nowhere"], "nowhere is not a run directory"),
        (
            ["export", "run", "--checkpoint", "first"],
            "--checkpoint=first must be best, latest or a step",
        ),
        (
            ["export", "run", "--checkpoint", "77"],
            "has no checkpoint 77; saved steps: 1, 2, 3, 4, 5",
        ),
        (["export", "run", "--output", "no/such/folder/w"], "choose another file with --output"),
        (["prune", "run", "--keep-last", "0"], "--keep-last=0 must be >= 1"),
    ],
)
def test_mistakes_are_reported(
    run: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_as_a_command(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    done = python("-m", "spectral_exp", "checkpoints", "list", "run", cwd=run.parent)
    assert (done.returncode, done.stdout.strip()) == (0, "run has no checkpoint")
