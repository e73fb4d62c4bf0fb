from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spectral_exp.config.command_line import CommandLine, open_composer
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.sweeps.plan import Plan
from spectral_exp.sweeps.study import read_study


def write(folder: Path, content: Any, name: str = "mine") -> Path:
    file = folder / f"study/{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


STUDY = {
    "description": "a test",
    "overrides": ["training.max_steps=4", "name=it's"],
    "experiments": ["classic", "wave"],
    "seeds": [1, 2],
    "grid": {"optimizer.learning_rate": [1e-3, 4e-3]},
    "blocks": {
        "tuning": {"seeds": [101]},
        "reporting": {
            "experiments": ["wave"],
            "overrides": ["training.max_steps=8"],
            "grid": {"optimizer.learning_rate": [4e-3], "optimizer.betas": [[0.9, 0.99]]},
        },
    },
}


def test_blocks_take_what_they_do_not_set_from_the_top(tmp_path: Path) -> None:
    write(tmp_path, STUDY)
    study = read_study("mine", [tmp_path])
    assert study.name == "mine"
    assert study.description == "a test"
    assert study.jobs() == list(study.blocks.values())
    (tuning,) = study.jobs("tuning")
    assert tuning == [
        "+experiment=classic,wave",
        "optimizer.learning_rate=0.001,0.004",
        "seed=101",
        "training.max_steps=4",
        "name='it\\'s'",
    ]
    (reporting,) = study.jobs("reporting")
    assert reporting == [
        "+experiment=wave",
        "optimizer.learning_rate=0.004",
        "seed=1,2",
        "training.max_steps=8",
        "name='it\\'s'",
        "optimizer.betas=[0.9,0.99]",
    ]
    assert read_study(str(tmp_path / "study/mine.yaml"), []) == study


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"seed": [1]}, "seed is not a part of a study; did you mean seeds?"),
        ({"seeds": 1}, "seeds must be a list of at least one value"),
        ({"seeds": ["a"]}, "'a' in seeds must be an integer"),
        ({"blocks": {"b": {"seeds": [1, 2.5]}}}, "2.5 in blocks.b.seeds must be an integer"),
        ({"seeds": [1, -1]}, "-1 in seeds must be an integer >= 0 and < 2^63"),
        ({"grid": {"seed": []}}, "grid.seed must be a list of at least one value"),
        (
            {"blocks": {"a": {"experiment": ["wave"]}}},
            "blocks.a.experiment is not a part of a study",
        ),
        ({"blocks": {"a": 3}}, "blocks.a must hold settings"),
        ({"overrides": ["fast"]}, "'fast' in overrides must be an override"),
        ("[1, 2]", "must hold settings"),
        ("a: [", "cannot be read: "),
        ({}, "is empty; a study holds settings"),
        ({"description": "later"}, "is empty; a study holds settings"),
        ("seeds: ${nowhere}", "cannot be read: "),
    ],
)
def test_mistakes_in_a_study_are_named(content: Any, words: str, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_study("mine", [tmp_path])
    assert words in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["mime", "../mine", "", "mine:"])
def test_an_unknown_study_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, STUDY)
    with pytest.raises(UserError, match="choose from mine"):
        read_study(name, [tmp_path])
    with pytest.raises(UserError, match="did you mean tuning"):
        read_study("mine", [tmp_path]).jobs("tunin")


def plan(*arguments: str) -> Plan:
    command = CommandLine.parse(list(arguments))
    assert command.multirun
    with open_composer(command.config_name, command.config_dir) as composer:
        return Plan(command, composer)


def test_the_command_line_wins_over_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, STUDY)
    planned = plan(
        "study=mine:reporting", "seed=7,8,9", "data=markov", f"--config-dir={tmp_path}", "threads=1"
    )
    assert planned.name == "mine"
    assert planned.folder == Path("outputs/mine")
    assert planned.arguments[-1] == "sweep=mine"
    assert [job[2] for job in planned.requested] == ["seed=7", "seed=8", "seed=9"]
    assert all(job[-2:] == ["data=markov", "threads=1"] for job in planned.requested)
    assert list(tmp_path.iterdir()) == [tmp_path / "study"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=a/b"], "sweep='a/b' must be a folder name"),
        (["sweep=.."], "sweep='..' must be a folder name"),
        (["sweep=x", "outputs=a,b"], "outputs=a,b must be one value"),
        (["sweep=x", "hydra.sweep.subdir=y"], "the runs of a sweep are named after their settings"),
        (["-m", "hydra.sweeper.params={seed:'1,2'}"], "sweeps are planned by this command itself"),
        (["-m", "hydra.sweeper.max_batch_size=2"], "sweeps are planned by this command itself"),
        (["-m", "optimizer.learning_rate=interval(0,1)"], "is a continuous range"),
        (["-m", "sweep=a,b", "seed=1"], "sweep=a,b must be one value"),
    ],
)
def test_what_no_sweep_can_honour_is_refused(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        plan(*arguments)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_every_study_of_the_package_is_read() -> None:
    names = [file.stem for file in (CONF_DIR / "study").glob("*.yaml")]
    assert names
    for name in names:
        study = read_study(name, [CONF_DIR])
        assert study.description
        assert all(study.jobs())
