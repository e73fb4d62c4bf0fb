"""Settings nested as deeply, or written as long, as anybody likes: every door answers with one
line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spectral_exp import train
from spectral_exp.commands import compare, diagnose, evaluate, generate, reproduce, verify_resume
from spectral_exp.core.json_files import content_crc32
from tests.conftest import NO_PLOTS, TINY

FORMS: dict[str, Callable[[int], str]] = {
    "lists": lambda n: "data.n_tokens=" + "[" * n + "]" * n,
    "open": lambda n: "data.n_tokens=" + "[" * n,
    "mappings": lambda n: "+zzz=" + "{a:" * n + "1" + "}" * n,
    "interpolations": lambda n: "name=" + "${a:" * n + "x" + "}" * n,
    "names": lambda n: "name=" + "${" * n + "x" + "}" * n,
    "quoted": lambda n: "name='" + "${oc.env:" * n + "x" + "}" * n + "'",
    "casts": lambda n: "training.max_steps=" + "int(" * n + "x" + ")" * n,
    "choices": lambda n: "seed=" + "choice(" * n + "1" + ")" * n,
    "key": lambda n: "a" * 22 * n + "=1",
    "path": lambda n: "+" + "a/" * 22 * n + "b=1",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("deep") / "run"
    assert (
        train.main([*TINY, NO_PLOTS, "+experiment=classic", "device=cpu", f"hydra.run.dir={run}"])
        == 0
    )
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("run")


def one_line(error: str) -> bool:
    return len(error.splitlines()) == 1 and error.startswith("error: ")


@pytest.mark.parametrize("form", FORMS)
def test_overrides(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for depth in (50, 1000, 100_000):
        assert train.main([FORMS[form](depth), *TINY, "hydra.run.dir=run"]) == 2, depth
        error = capsys.readouterr().err
        assert one_line(error), error
        assert len(error) < 400
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["name=${outputs}", "outputs=${name}"], ["name=${name}"], ["seed=${data}"]]
)
def test_cycles(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*TINY, *arguments]) == 2
    assert one_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_configuration_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/experiment").mkdir(parents=True)
    for depth in (200, 3000):
        for content in (
            "a: " + "[" * depth + "]" * depth,
            "name: " + "${a:" * depth + "x" + "}" * depth,
        ):
            (tmp_path / "mine/experiment/deep.yaml").write_text(f"# @package _global_\n{content}\n")
            assert train.main(["--config-dir", "mine", "+experiment=deep", *TINY]) == 2
            error = capsys.readouterr().err
            assert one_line(error), error


COMMANDS: dict[str, Callable[[], int]] = {
    "generate": lambda: generate.main(["run", "--tokens", "2"]),
    "diagnose": lambda: diagnose.main(["run", "--windows", "1"]),
    "evaluate": lambda: evaluate.main(["run", "--no-record"]),
    "verify_resume": lambda: verify_resume.main(["run", "--steps", "2"]),
    "reproduce": lambda: reproduce.main(["run", "--current-code"]),
    "resume": lambda: train.main(["resume=run"]),
    "compare": lambda: compare.main(["run"]),
    "config-diff": lambda: compare.main(["config-diff", "run", "run"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=pytest.mark.slow) if name == "resume" else name for name in COMMANDS],
)
def test_records(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "config.json"
    pristine = file.read_text()
    for depth in (50, 100_000):
        nested = {
            "lists": "[" * depth + "]" * depth,
            "mappings": '{"a":' * depth + "1" + "}" * depth,
        }
        for value in nested.values():
            file.write_text(pristine.replace('"n_layer": 2', f'"n_layer": {value}'))
            capsys.readouterr()
            assert COMMANDS[command]() in (0, 2), depth
            assert (
                len(capsys.readouterr().err.splitlines()) <= 2
            )  # compare lists the runs that it leaves out


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_recorded_overrides(form: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "config.json"
    pristine = json.loads(file.read_text())
    for depth in (50, 1000, 100_000):
        override = FORMS[form](depth)
        record = {**pristine, "overrides": [*pristine["overrides"], override]}
        record["attempts"] = [
            {**attempt, "overrides": record["overrides"]} for attempt in pristine["attempts"]
        ]
        record["crc32"] = content_crc32(record)
        file.write_text(json.dumps(record))
        for command in ("resume", "reproduce"):
            capsys.readouterr()
            assert COMMANDS[command]() == 2, (command, depth)
            error = capsys.readouterr().err
            assert one_line(error), (command, depth, error[:2000])
