from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from spectral_exp.monitoring.checkpoint_file import write_checkpoint
from spectral_exp.verify_resume import main
from tests.conftest import NO_PLOTS, TINY, python, train

RUN_OPTIONS = (
    *TINY,
    NO_PLOTS,
    "monitoring/checkpoint=sync",
    "monitoring.checkpoint.keep_last_n=9",
    "model.dropout=0.1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 4, 6, 8 and 12."""
    folder = tmp_path_factory.mktemp("verify")
    done = train("+experiment=wave_rgd", *RUN_OPTIONS, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def change(run: Path, step: int, key: str) -> None:
    """Turn the last bit of one number in a checkpoint, and save it again with a right checksum."""
    path = run / f"checkpoints/checkpoint_step_{step}.pt"
    state = torch.load(path, weights_only=True)
    if key == "weights":
        tensor = next(iter(state["model_state_dict"].values()))
    else:
        tensor = state["optimizer_state_dict"]["state"][0]["exp_avg"]
    tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))
    path.unlink()
    write_checkpoint(path, state)


def test_a_sound_run_is_certified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main([str(run), "--steps", "6"]) == 0
    printed = capsys.readouterr().out
    assert "losses of 6 steps with those that the run recorded" in printed
    assert "after step 12 with the run's checkpoint" in printed
    certificate = json.loads((run / "resume_certificate.json").read_text())
    assert (certificate["from_step"], certificate["to_step"], certificate["verdict"]) == (6, 12, "identical")
    assert [entry["step"] for entry in certificate["hashes"]] == [7, 8, 9, 10, 11, 12]
    assert len({entry["weights"] for entry in certificate["hashes"]}) == 6
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("key", "part"), [("weights", "weights"), ("optimizer", "optimizer")])
def test_what_diverged_is_named(run: Path, key: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, 8, key)
    assert main([str(run), "--steps", "4", "--from", "6"]) == 1
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("DIVERGED")]
    assert f"step 8: {part} (" in line
    assert json.loads((run / "resume_certificate.json").read_text())["verdict"] == "diverged"


def test_wrong_gradient_norms_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "logs/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["step"] == 10:
            line["grad_norm"] += 1e-12
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(run), "--steps", "4", "--from", "8", "--output", str(run.parent / "c.json")]) == 1
    assert "DIVERGED: step 10: gradients (norm)" in capsys.readouterr().out
    assert not (run / "resume_certificate.json").exists()
    assert (run.parent / "c.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["run", "--steps", "1"], "--steps=1 must be >= 2"),
        (["run", "--from", "5"], "--from=5 must be the step of a checkpoint; there are 4, 6, 8, 12"),
        (["run", "--from", "12"], "has 0 steps left"),
    ],
)
def test_mistakes_are_told(finished: Path, options: list[str], message: str) -> None:
    done = python("-m", "spectral_exp.verify_resume", *options, cwd=finished.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
