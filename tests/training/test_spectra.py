"""A run records its spectra without a change to training, and continues them after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectral_exp.config.build import build, check
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring import SpectraLogger
from spectral_exp.monitoring.histograms import count_octaves
from spectral_exp.runs.spectra import OCTAVES, Spectrum, read_spectra
from tests.conftest import NO_PLOTS, TINY, compose

OFF = "monitoring/spectra=off"
MACHINE = ("timestamp", "tokens_per_s", "steps_at_risk")


def configuration(*overrides: str, experiment: str = "wave_rgd_qfe") -> dict[str, Any]:
    return compose(f"+experiment={experiment}", *TINY, NO_PLOTS, "device=cpu", *overrides)


def train(root: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    root.mkdir(exist_ok=True)
    with build(config, root, []) as runner:
        runner.run()
        return {name: value.clone() for name, value in runner.model.state_dict().items()}


def logged(root: Path) -> list[dict[str, Any]]:
    lines = (root / "logs/metrics.jsonl").read_text().splitlines()
    kept = [(name, value) for line in lines for name, value in json.loads(line).items()]
    return [{name: value} for name, value in kept if not name.startswith((*MACHINE, "checkpoint_"))]


def by_name(root: Path) -> dict[str, Spectrum]:
    return {spectrum.name: spectrum for spectrum in read_spectra(root)}


@pytest.mark.parametrize("experiment", ["wave_rgd_qfe", "classic"])
def test_training_computes_the_same_with_and_without_spectra(
    tmp_path: Path, experiment: str
) -> None:
    noisy = ("model.dropout=0.1", "training.grad_accum_steps=2")
    settings = (*noisy, "monitoring.spectra.interval=5")
    with_it = train(tmp_path / "with", configuration(*settings, experiment=experiment))
    without = train(tmp_path / "without", configuration(*noisy, OFF, experiment=experiment))
    assert all(torch.equal(with_it[name], value) for name, value in without.items())
    assert logged(tmp_path / "with") == logged(tmp_path / "without")
    assert not (tmp_path / "without/logs/spectra.jsonl").exists()
    found = by_name(tmp_path / "with")
    assert all(spectrum.steps.tolist() == [5, 10, 12] for spectrum in found.values())
    assert {name.partition("/")[0] for name in found} >= {"attention_entropy", "gradients"}
    costs = [
        json.loads((tmp_path / name / "results.json").read_text())["monitoring_cost"]
        for name in ("with", "without")
    ]
    assert [cost["counts"]["spectra"] for cost in costs] == [3, 0]
    assert costs[0]["blocked_s"]["spectra"] > 0
    assert costs[0]["share_of_training"] == pytest.approx(
        sum(costs[0]["blocked_s"].values()) / costs[0]["train_s"]
    )


def test_the_interval_follows_that_of_plots(tmp_path: Path) -> None:
    def settings(*overrides: str) -> tuple[bool, int]:
        node = configuration(*overrides)["monitoring"]["spectra"]
        return node["enabled"], node["interval"]

    assert settings() == (True, 1000)
    assert settings("monitoring.visualization.viz_interval=4") == (True, 4)
    assert settings("monitoring.spectra.interval=5") == (True, 5)
    assert settings(OFF) == (False, 1000)
    with build(configuration("monitoring.spectra.interval=5"), tmp_path, []) as runner:
        logger = runner.observers["spectra"]
        assert isinstance(logger, SpectraLogger)
        assert len(logger.sample_ids) > 1
        assert [step for step in range(13) if logger.should_observe(step)] == [5, 10, 12]
    problems = check(configuration("+monitoring.spectra.intervl=3"), None)
    assert "did you mean interval?" in "".join(problems)


def test_the_gradients_are_those_that_were_applied(tmp_path: Path) -> None:
    applied: dict[int, list[int]] = {}
    with build(configuration("monitoring.spectra.interval=4"), tmp_path, []) as runner:
        model: Any = runner.model
        mlp = [p for block in model.blocks for p in block.mlp.parameters()]

        def count(*_: object) -> None:
            gradients = [p.grad for p in mlp if p.grad is not None and p.ndim == 2]
            applied[runner.state.step + 1] = count_octaves(gradients, OCTAVES).counts.tolist()

        runner.optimizer.register_step_pre_hook(count)
        runner.run()
    found = by_name(tmp_path)["gradients/mlp"]
    assert dict(zip(found.steps.tolist(), found.counts.tolist(), strict=True)) == {
        step: applied[step] for step in (4, 8, 12)
    }


class Killed(BaseException):
    """Ends a run at once."""


def train_until(root: Path, config: dict[str, Any], last: int) -> None:
    """Train, and fail after step `last` as if by a crash."""
    root.mkdir(exist_ok=True)
    with build(config, root, []) as runner:
        take_step = runner.stepper.take_step

        def take_or_fail(step: int) -> Any:
            if step > last:
                runner.checkpoint.close()
                raise Killed
            return take_step(step)

        runner.stepper.take_step = take_or_fail  # type: ignore[method-assign]
        with pytest.raises(Killed):
            runner.run()


def test_a_resumed_run_has_the_spectra_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = configuration("monitoring.spectra.interval=1")
    train(tmp_path / "whole", config)
    train_until(tmp_path / "resumed", config, 7)
    file = tmp_path / "resumed/logs/spectra.jsonl"
    with file.open("ab") as torn:
        torn.write(b'{"step":8,"timest')
    train(tmp_path / "resumed", config)  # from the checkpoint of step 6
    whole, resumed = by_name(tmp_path / "whole"), by_name(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    for name, spectrum in whole.items():
        assert resumed[name].steps.tolist() == spectrum.steps.tolist() == list(range(1, 13))
        assert np.array_equal(resumed[name].counts, spectrum.counts)
    assert len(file.read_bytes().splitlines()) == 12
    cut = (tmp_path / "resumed/logs/spectra.cut.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in cut[:1]] == [7]
    assert cut[1:] == [b'{"step":8,"timest']


def test_spectra_that_cannot_be_cut_back_cost_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration("monitoring.spectra.interval=1")
    train_until(tmp_path, config, 7)

    def refuse(self: SpectraLogger, step: int) -> int:
        raise UserError("the disk is full")

    monkeypatch.setattr(SpectraLogger, "cut_back", refuse)
    train(tmp_path, config)
    assert "monitoring.spectra failed to go back to step 6, training goes on" in caplog.text
    assert all(s.steps.tolist() == list(range(1, 13)) for s in read_spectra(tmp_path))


def test_spectra_are_durable_before_a_checkpoint_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[SpectraLogger] = []
    monkeypatch.setattr(SpectraLogger, "sync", lambda self: synced.append(self))
    with build(configuration(), tmp_path, []) as runner:
        assert runner.checkpoint.before_commit is not None
        runner.checkpoint.before_commit()
        assert synced == [runner.observers["spectra"]]


def test_backups_hold_the_spectra_and_old_configurations_lack_them(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    config = configuration(f"backup_url={url}", "experiment_id=run", f"outputs={tmp_path}")
    train(tmp_path / "run", config)
    manifest = max((tmp_path / "remote/run").glob("manifest_*.json"))
    assert "logs/spectra.jsonl" in json.loads(manifest.read_text())["files"]
    old = configuration()
    del old["monitoring"]["spectra"]
    assert check(old, None) == []
    (tmp_path / "old").mkdir()
    with build(old, tmp_path / "old", []) as runner:
        assert "spectra" not in runner.observers
