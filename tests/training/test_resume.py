"""Which directories a configuration may continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.config.build import build
from spectral_exp.config.components import component_files
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring import ConfigTracker
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.marks import update_marks
from spectral_exp.training.resume import refuse_changed_data, resume_problems
from tests.conftest import NO_PLOTS, TINY, compose

BASE = ("+experiment=classic", *TINY, NO_PLOTS, "device=cpu")


def problems_of(config: dict[str, Any], run_dir: Path | None) -> list[str]:
    return resume_problems(config, run_dir, component_files(config))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was set up, but has not trained."""
    root = tmp_path_factory.mktemp("begun")
    with build(compose(*BASE), root, list(BASE)):
        return root


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "training.max_steps=99",
            "training.eval_interval=3",
            "training.patience=4",
            "training.sample_prompt=x",
        ),
        (
            "monitoring/checkpoint=off",
            "monitoring.metrics.log_interval=1",
            "monitoring/tracking=off",
        ),
        ("monitoring/visualization=default", "threads=2", "outputs=elsewhere", "device=auto"),
    ],
)
def test_settings_that_training_does_not_depend_on_may_change(
    begun: Path, overrides: tuple[str, ...]
) -> None:
    assert problems_of(compose(*BASE, *overrides), begun) == []


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (("seed=2",), ["seed: 1337 -> 2"]),
        (
            ("model.n_layer=3", "training.batch_size=8"),
            ["model.n_layer: 2 -> 3", "training.batch_size: 4 -> 8"],
        ),
        (("optimizer.betas=[0.9,0.95]",), ["optimizer.betas: [0.9, 0.99] -> [0.9, 0.95]"]),
        (
            ("optimizer=rgd",),
            ["optimizer.resonance_strength: absent -> 0.3", "optimizer.gate_every: absent -> 1"],
        ),
        (("training.precision=bf16",), ["training.precision: fp32 -> bf16"]),
        (("data.seed=7",), ["data.seed: 0 -> 7"]),
    ],
)
def test_any_other_difference_is_reported_with_both_values(
    begun: Path, overrides: tuple[str, ...], problems: list[str]
) -> None:
    (problem,) = problems_of(compose(*BASE, *overrides), begun)
    assert str(begun) in problem
    for words in problems:
        assert words in problem
    assert "monitoring" not in problem


def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path: Path) -> None:
    with build(compose(*BASE), tmp_path, list(BASE)) as runner:
        runner.run()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (problem,) = problems_of(compose(*BASE, "training.max_steps=11"), tmp_path)
    assert problem.startswith(
        f"training.max_steps=11 must be >= 12, the steps that {tmp_path} has done; "
    )
    shorter = compose(*BASE, "training.max_steps=4")
    with (
        pytest.raises(UserError, match=r"training\.max_steps=4 must be >= 12"),
        build(shorter, tmp_path, list(BASE)),
    ):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert problems_of(compose(*BASE, "training.max_steps=12"), tmp_path) == []


def test_settings_that_change_nothing_are_not_reported(begun: Path) -> None:
    (problem,) = problems_of(compose(*BASE, "seed=2", "training.max_steps=50"), begun)
    assert "max_steps" not in problem
    assert problem.count(" -> ") == 1


def test_places_without_a_run(tmp_path: Path) -> None:
    config = compose(*BASE)
    assert problems_of(config, None) == []
    assert problems_of(config, tmp_path / "missing") == []
    assert problems_of(config, tmp_path) == []
    (tmp_path / "thesis.tex").write_text("years of work")
    (problem,) = problems_of(config, tmp_path)
    assert "thesis.tex" in problem
    assert "choose another directory" in problem


def test_the_files_of_a_killed_start_are_no_obstacle(tmp_path: Path) -> None:
    """All that an attempt writes before its configuration is recorded, whole or half."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "tokenizer").mkdir()
    for name in ("train.log", "run.lock", "git_diff.patch", ".config.json.4242-0a1b2c3d.tmp"):
        (tmp_path / name).write_text("half")
    assert problems_of(compose(*BASE), tmp_path) == []


def test_resume_needs_a_checkpoint(begun: Path) -> None:
    (problem,) = problems_of({**compose(*BASE), "resume": str(begun)}, begun)
    assert "holds no checkpoint" in problem


def test_an_unreadable_record_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": {"seed"')
    with pytest.raises(UserError, match=r"config\.json"):
        problems_of(compose(*BASE), tmp_path)


def test_other_text_under_the_same_settings_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the first text " * 300)
    base = [override for override in BASE if not override.startswith("data")]
    own = compose(*base, "data=text_file", f"data.path={text}")
    root = tmp_path / "run"
    root.mkdir()
    with build(own, root, []):
        pass
    recorded = (root / "config.json").read_bytes()
    text.write_text("the other text " * 300)
    with (
        pytest.raises(UserError, match=r"trained on other text than data.path=.* holds now"),
        build(own, root, []),
    ):
        pass
    assert (root / "config.json").read_bytes() == recorded
    text.write_text("the first text " * 300)
    with build(own, root, []):
        pass


def test_fingerprints_are_compared_individually(begun: Path) -> None:
    recorded = json.loads((begun / "config.json").read_text())["dataset"]
    refuse_changed_data(RunPaths(begun), recorded)
    refuse_changed_data(RunPaths(begun), {**recorded, "a_new_kind_of_fingerprint": 1})
    with pytest.raises(UserError, match=r"\(vocab_size: 256 -> 257\)"):
        refuse_changed_data(RunPaths(begun), {**recorded, "vocab_size": 257})


def test_another_secret_is_no_other_experiment(tmp_path: Path) -> None:
    url = "https://me:Zq8hunter2XY@host/data"
    config = {"data": {"url": url, "api_key": "Zq8hunter2XY", "n": 1}}
    ConfigTracker(tmp_path).save_config(config)
    other = {"data": {"url": url.replace("Zq8", "Zq9"), "api_key": "another", "n": 1}}
    assert problems_of(other, tmp_path) == []
    other["data"]["url"] = "https://me:Zq9hunter2XY@host/more"
    (problem,) = problems_of(other, tmp_path)
    assert "another configuration (data.url: https://" in problem
    assert "<redacted>@host/data -> https://<redacted>@host/more)" in problem
    assert "hunter" not in problem


def test_marks_do_not_keep_a_run_from_going_on(begun: Path, tmp_path: Path) -> None:
    """Neither of a recorded run, nor in a folder where a run was killed before its record."""
    update_marks(begun, {"archived": True, "note": "text"})
    assert problems_of(compose(*BASE), begun) == []
    (tmp_path / "notes.json").write_bytes((begun / "notes.json").read_bytes())
    assert problems_of(compose(*BASE), tmp_path) == []
    (begun / "notes.json").unlink()
