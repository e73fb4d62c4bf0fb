"""The Python API: train, load and compare runs from a notebook."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from spectral_exp.api import compare, load_model, load_runs, train
from spectral_exp.core.errors import UserError
from tests.conftest import NO_PLOTS, ROOT, TINY
from tests.results.made_runs import make_run

SETTINGS = (*TINY, NO_PLOTS, "device=cpu", "training.max_steps=6")
STOPPER = """
import signal

from spectral_exp.monitoring.component import Observer


class Stopper(Observer):
    def should_observe(self, step):
        return step == 3

    def observe(self, step, model):
        signal.raise_signal(signal.SIGINT)
        return {}
"""


def process_state() -> tuple[Any, ...]:
    root = logging.getLogger()
    return (
        Path.cwd(),
        sys.argv[:],
        dict(os.environ),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        root.handlers[:],
        root.level,
        GlobalHydra.instance().hydra,
        HydraConfig.instance().cfg,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


def test_training_in_a_notebook_leaves_the_kernel_as_it_was(here: Path) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        before = process_state()
        run = train(SETTINGS)
        assert process_state() == before
        with pytest.raises(UserError, match="did you mean optimizer"):
            train(["optimzer=x"])
        with pytest.raises(UserError, match="trains one run"):
            train([*SETTINGS, "-m", "seed=1,2"])
        assert process_state() == before
    assert (run.status, run.last_step, run.path.parent) == ("completed", 6, here / "outputs")
    trained = load_model(run.path)
    assert trained.step == 6
    assert trained.model.block_size == trained.config["model"]["block_size"]


@pytest.mark.slow
def test_a_stop_saves_and_returns_the_run(here: Path) -> None:
    (here / "stopper.py").write_text(STOPPER)
    component = "+monitoring.stopper={_target_:stopper.Stopper}"
    before = process_state()
    run = train([*SETTINGS, "packages=[stopper]", component])
    assert process_state() == before
    assert (run.status, run.last_step) == ("interrupted", 3)
    again = train([f"resume={run.path}"])
    assert (again.status, again.last_step, again.path) == ("completed", 6, run.path)
    del sys.modules["stopper"]


def test_runs_are_compared_as_by_the_command(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for name in ("classic", "wave"):
            make_run(tmp_path, name, seed, val_bpb=2.0 + (name == "wave") + 0.01 * seed)
    comparison = compare(tmp_path)
    assert (comparison.metric, comparison.best_first()) == ("val_bpb", ["classic", "wave"])
    only = compare([tmp_path], "val_loss", where=["name=wave"], at="best")
    assert [summary.group.label for summary in only.summaries] == ["wave"]
    assert len(load_runs(tmp_path).runs) == 6
