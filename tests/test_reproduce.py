from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spectral_exp.reproduce import main
from spectral_exp.run_dir import content_crc32
from tests.conftest import NO_PLOTS, TINY, python, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    done = train("+experiment=wave", *TINY, NO_PLOTS, "seed=5", "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def rewrite(path: Path, change: dict[str, object]) -> None:
    content = json.loads(path.read_text())
    content |= change
    content["crc32"] = content_crc32(content)
    path.write_text(json.dumps(content))


def test_a_run_is_reproduced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main([str(run), "--current-code"]) == 0
    printed = capsys.readouterr().out
    assert "metrics: equal" in printed
    assert "identical" in printed
    report = json.loads((run.parent / "run_reproduced/reproduction.json").read_text())
    assert report["verdict"] == "identical"
    assert report["lines_compared"] == 6
    assert report["values_compared"] > 6 * 4
    assert {path: path.read_bytes() for path in before} == before


def test_differences_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    lines[2]["loss"] += 1e-9
    (run / "logs/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = json.loads((run / "config.json").read_text())
    packages = {**config["packages"], "torch": "1.0"}
    dataset = {**config["dataset"], "train_sha256": "0"}
    rewrite(run / "config.json", {"packages": packages, "dataset": dataset})
    assert main([str(run), "--current-code", "--output", str(run.parent / "new"), "--steps", "6"]) == 1
    printed = capsys.readouterr().out
    assert "loss at step 6: " in printed
    assert "torch: 1.0 -> " in printed
    assert "train_sha256: 0 -> " in printed
    assert json.loads((run.parent / "new/reproduction.json").read_text())["steps"] == 6


def test_code_that_is_not_there_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run / "config.json").read_text())
    rewrite(run / "config.json", {"git": {**config["git"], "hash": "0" * 40}})
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert "0000000000 that made the run is not in" in error
    assert "--current-code" in error
    assert not (run.parent / "run_reproduced").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["run", "--steps", "0"], "--steps=0 must be >= 1"),
        (["run", "--output", "."], ". exists; remove it"),
    ],
)
def test_mistakes_are_told(finished: Path, options: list[str], message: str) -> None:
    done = python("-m", "spectral_exp.reproduce", *options, cwd=finished.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
