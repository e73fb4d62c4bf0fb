"""Components declare their files and metrics, and a sixth component needs no list elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.config import components
from spectral_exp.config.build import build, check
from spectral_exp.config.components import component_files
from spectral_exp.core.errors import RunError
from spectral_exp.monitoring import component
from spectral_exp.monitoring.component import Observer, matching_files
from spectral_exp.runs.layout import HYDRA_FOLDER, RunPaths
from spectral_exp.training.resume import resume_problems
from spectral_exp.verification.reproduction import Extent, compare_runs
from tests.conftest import NO_PLOTS, TINY, compose

BASE = ("+experiment=classic", *TINY, "device=cpu")
NODE = {"_target_": "spectral_exp.monitoring.component.Watcher", "interval": 3}


class Watcher(Observer):
    """Writes the steps that it observes to a file; fails at those in `fails_at`."""

    metric_prefixes = ("watcher_",)
    files = ("watched/*.txt",)
    calls = 0
    closed = 0

    def __init__(
        self, experiment_dir: Path, interval: int = 1, fails_at: tuple[int, ...] = ()
    ) -> None:
        self.folder, self.interval, self.fails_at = experiment_dir / "watched", interval, fails_at

    def should_observe(self, step: int) -> bool:
        return step % self.interval == 0

    def observe(self, step: int, model: nn.Module) -> Mapping[str, float]:
        if step in self.fails_at:
            raise ValueError("as planned")
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{step}.txt").write_text(str(step))
        type(self).calls += 1
        return {"watcher_calls": float(type(self).calls)}

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> type[Watcher]:
    """A component that a user has added to `COMPONENTS`."""
    monkeypatch.setattr(Watcher, "__module__", component.__name__)
    monkeypatch.setattr(component, "Watcher", Watcher, raising=False)
    monkeypatch.setitem(components.COMPONENTS, "watcher", Watcher)
    monkeypatch.setattr(Watcher, "calls", 0)
    monkeypatch.setattr(Watcher, "closed", 0)
    return Watcher


def configuration(*overrides: str, **settings: Any) -> dict[str, Any]:
    config = compose(*BASE, NO_PLOTS, *overrides)
    config["monitoring"]["watcher"] = NODE | settings
    return config


def train(root: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    root.mkdir(exist_ok=True)
    with build(config, root, []) as runner:
        runner.run()
        return {name: value.clone() for name, value in runner.model.state_dict().items()}


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "logs/metrics.jsonl").read_text().splitlines()]


def test_components_own_every_file_of_a_run_but_those_of_the_process(tmp_path: Path) -> None:
    train(tmp_path, compose(*BASE, NO_PLOTS))
    paths = RunPaths(tmp_path)
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    owned = set(matching_files(tmp_path, component_files({})))
    assert len(written & owned) > 10
    rest = {path for path in written - owned if paths.tokenizer not in path.parents}
    assert rest <= {paths.lock_file}


def test_a_further_component_is_called_logged_measured_and_closed(
    tmp_path: Path, watcher: type[Watcher]
) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    watched = train(with_it, configuration())
    plain = train(without, compose(*BASE, NO_PLOTS))
    assert all(torch.equal(watched[name], plain[name]) for name in plain)
    assert (watcher.calls, watcher.closed) == (4, 1)
    assert [line["step"] for line in lines(with_it) if "watcher_calls" in line] == [3, 6, 9, 12]
    cost = json.loads((with_it / "results.json").read_text())["monitoring_cost"]
    assert (cost["counts"]["watcher"], cost["blocked_s"]["watcher"] > 0) == (4, True)
    assert (
        "watcher"
        not in json.loads((without / "results.json").read_text())["monitoring_cost"]["counts"]
    )


def test_a_component_that_fails_costs_one_warning(
    tmp_path: Path, watcher: type[Watcher], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(tmp_path, configuration(interval=1, fails_at=[2, 3, 5]))
    (warning,) = [r.getMessage() for r in caplog.records if "monitoring.watcher" in r.getMessage()]
    assert "failed at step 2, training goes on" in warning
    assert watcher.calls == 9
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "completed"


def test_a_component_logs_under_its_own_prefix_only(
    tmp_path: Path,
    watcher: type[Watcher],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watcher, "observe", lambda *_: {"loss": 0.0})
    train(tmp_path, configuration())
    assert [
        r
        for r in caplog.records
        if r.exc_info and "metric_prefixes=(watcher_)" in str(r.exc_info[1])
    ]
    assert all(line["loss"] > 0 for line in lines(tmp_path) if "loss" in line)
    with pytest.raises(TypeError, match=r"Wrong\.metric_prefixes must be a tuple"):
        type("Wrong", (Observer,), {"metric_prefixes": "wrong_"})


def test_all_components_are_closed_after_a_failure(tmp_path: Path, watcher: type[Watcher]) -> None:
    with build(configuration("training.max_bad_steps=1"), tmp_path, []) as runner:
        with torch.no_grad():
            next(runner.model.parameters()).fill_(float("nan"))
        with pytest.raises(RunError, match="max_bad_steps=1"):
            runner.run()
        assert not runner.checkpoint.busy
    assert watcher.closed == 1


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_with_its_files(
    tmp_path: Path, watcher: type[Watcher]
) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / HYDRA_FOLDER).mkdir()
    (tmp_path / "watched/3.txt").touch()
    assert resume_problems(configuration(), tmp_path, component_files({})) == []
    (tmp_path / "watched/notes.md").touch()
    (problem,) = resume_problems(configuration(), tmp_path, component_files({}))
    assert "holds files but no run (watched, ...)" in problem


def test_each_backup_holds_the_files_of_a_component(tmp_path: Path, watcher: type[Watcher]) -> None:
    url = f"file://{tmp_path}/remote"
    config = configuration(f"backup_url={url}", "experiment_id=run", f"outputs={tmp_path}")
    train(tmp_path / "run", config)
    manifest = max((tmp_path / "remote/run").glob("manifest_*.json"))
    names = set(json.loads(manifest.read_text())["files"])
    assert {"watched/3.txt", "watched/12.txt", "config.json", "backup.json"} <= names
    assert {"logs/metrics.jsonl", "logs/training.log"} <= names


@pytest.mark.parametrize("measures_machine", [False, True])
def test_metrics_of_the_machine_are_neither_compared_nor_drawn(
    tmp_path: Path, watcher: type[Watcher], monkeypatch: pytest.MonkeyPatch, measures_machine: bool
) -> None:
    monkeypatch.setattr(watcher, "measures_machine", measures_machine)
    config = configuration()
    train(tmp_path / "one", config)
    (tmp_path / "other").mkdir()
    with build(config, tmp_path / "other", []) as runner:  # counts on from the first run
        runner.run()
    assert ("watcher_calls" in runner.history) is not measures_machine
    report = compare_runs(tmp_path / "one", tmp_path / "other", Extent(12, True, "completed"))
    assert bool(report["differences"]["metrics"]) is not measures_machine


def test_a_run_from_before_a_component_existed_is_still_valid(watcher: type[Watcher]) -> None:
    assert check(compose(*BASE, NO_PLOTS), None) == []
    (problem,) = check(configuration(intervall=2), None)
    assert "did you mean interval?" in problem


def test_only_the_first_of_several_processes_has_a_companion() -> None:
    config = compose(*BASE, "mirrors=[tensorboard]", "monitoring/system=default")
    nodes = components.without_components(config)["monitoring"]
    assert not nodes["companion"]["enabled"]
    assert not nodes["system"]["enabled"]
    assert config["monitoring"]["companion"]["enabled"]
