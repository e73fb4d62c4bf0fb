"""`init_from` as users type it: runs, sweeps and backups, and the commands that repeat a fork."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.commands import checkpoints, compare, reproduce, verify_resume
from spectral_exp.config.command_line.grammar import parse, quote_text_setting, text_of
from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY

SETTINGS = (
    *TINY,
    NO_PLOTS,
    "+experiment=classic",
    "device=cpu",
    "monitoring/checkpoint=sync",
    "monitoring/spectra=off",
    "training.max_steps=6",
    "training.eval_interval=3",
    "monitoring.checkpoint.save_interval=2",
)


FROM_START = ["outputs/fork", "--steps", "2", "--from", "0"]


def record_of(run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "config.json").read_text())
    return content


@pytest.mark.parametrize(
    "typed",
    [
        "outputs/run@best", "outputs/run@1200", "lr=0.1/run@4", "a b@last", "a,b=c@4", "it's@4", "r(1)@4", "1e5@3",
        "12@4", "a:b@4", "{a}@4", "~/runs/a@4", "ssh://me@host/runs/a@best", "null@4", "a@b/c@4", "中文=1@4",
    ],
)  # fmt: skip
def test_what_users_type_is_what_is_read(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "," in typed:  # otherwise it is a list of values, which needs -m
        Path(typed.rpartition("@")[0]).mkdir()
    assert text_of(quote_text_setting(f"init_from={typed}", sweeps=False)) == typed


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("a@best,b@4", ["a@best", "b@4"]),
        ("lr=0.1/a@4,lr=0.2/a@4", ["lr=0.1/a@4", "lr=0.2/a@4"]),
        ("'a,b',c=1", None),
    ],
)
def test_a_sweep_over_starts_is_split_at_commas(typed: str, values: list[str] | None) -> None:
    override = quote_text_setting(f"init_from={typed}", sweeps=True)
    if values is None:  # quotes separate the values already
        assert override == f"init_from={typed}"
        return
    swept = parse(override).sweep_string_iterator()
    assert [text_of(f"init_from={value}") for value in swept] == values


@pytest.mark.slow
def test_forks_are_swept_repeated_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parent = Path("lr=0.1,x/parent@home")
    assert main([*SETTINGS, f"hydra.run.dir='{parent}'"]) == 0
    shutil.copytree(parent, "o=1/p", symlinks=True)

    assert main(["-m", *SETTINGS, "init_from=o=1/p@4,o=1/p@best", "experiment_id=swept"]) == 0
    steps = [record_of(str(job))["parent"]["step"] for job in Path("outputs/swept").glob("*/")]
    assert sorted(steps) == [4, RunPaths(Path("o=1/p")).checkpoint_steps()[-1]]

    fork = [*SETTINGS, f"init_from={parent}@4", "init_optimizer=true", "seed=3"]
    assert main([*fork, "experiment_id=fork"]) == 0
    assert record_of("outputs/fork")["parent"]["experiment_id"] == "parent@home"

    assert verify_resume.main(FROM_START) == 0
    assert reproduce.main(["outputs/fork", "--current-code"]) == 0
    report = json.loads(Path("outputs/fork_reproduced/reproduction.json").read_text())
    assert report["differences"]["settings"] == report["differences"]["data"] == []
    capfd.readouterr()

    # Another checkpoint under the name of the recorded one.
    checkpoint = RunPaths(parent).checkpoint_file(4)
    for suffix in ("", ".json"):
        other = RunPaths(parent).checkpoint_file(6)
        shutil.copy(f"{other}{suffix}", f"{checkpoint}{suffix}")
    repeat = ["outputs/fork", "--current-code", "--output", "again"]
    for main_of, arguments in ((verify_resume.main, FROM_START), (reproduce.main, repeat)):
        assert main_of(arguments) == 2
        assert "started from other weights than" in capfd.readouterr().err
    shutil.rmtree("lr=0.1,x")
    assert verify_resume.main(FROM_START) == 2
    assert "started from weights that cannot be read any more" in capfd.readouterr().err
    assert not Path("again").exists()
    # Later steps do not need them.
    assert verify_resume.main(["outputs/fork", "--steps", "2", "--from", "3"]) == 0
    assert main(["resume=outputs/fork", "training.max_steps=8"]) == 0

    capfd.readouterr()
    assert compare.main(["outputs"]) == 0
    assert "started from the weights of parent@home at step 4" in " ".join(
        capfd.readouterr().out.split()
    )


@pytest.mark.slow
def test_exported_weights_and_backups_start_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    storage = tmp_path / "storage"
    assert main([*SETTINGS, "experiment_id=parent", f"backup_url=file://{storage}"]) == 0
    exported = ["export", "outputs/parent", "--checkpoint", "4", "--output", "w.safetensors"]
    assert checkpoints.main(exported) == 0
    shutil.rmtree("outputs")
    last = f"init_from=file://{storage}/parent@last"
    assert main([*SETTINGS, last, "experiment_id=of_backup"]) == 0
    assert record_of("outputs/of_backup")["config"]["init_from"] == "outputs/parent@last"
    assert record_of("outputs/of_backup")["parent"]["step"] == 6
    assert main([*SETTINGS, "init_from=w.safetensors", "experiment_id=of_file"]) == 0
    parent = record_of("outputs/of_file")["parent"]
    assert (parent["step"], parent["experiment_id"]) == (4, "parent")
    capfd.readouterr()
    # The file names its tokenizer.
    assert main([*SETTINGS, "init_from=w.safetensors", "tokenizer=char"]) == 2
    assert "trained with another tokenizer" in capfd.readouterr().err
