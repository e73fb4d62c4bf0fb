"""Jobs that several launchers meet at the same time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from spectral_exp.core.errors import JobError
from spectral_exp.sweeps.job import Outcome, SweepJob, _claim


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that Hydra names for the job."""
    folder = tmp_path / "sweep" / "seed1_1a2b3c4d"
    job = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(folder)))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: job))
    return folder


def test_a_job_that_another_launcher_has_claimed_is_not_begun(folder: Path) -> None:
    begun: list[Any] = []
    job, config = SweepJob(begun.append, {}), DictConfig({})
    with _claim(folder) as is_free:
        assert is_free
        # The other launcher has not locked the run yet.
        assert job(config) == Outcome(folder.name, "busy")
        assert folder.is_dir()
    assert not begun
    assert job(config) == Outcome(folder.name, "done")
    assert begun == [config]


def test_a_run_keeps_the_claim_until_it_ends(folder: Path) -> None:
    free: list[bool] = []

    def train(config: DictConfig) -> None:
        with _claim(folder) as is_free:
            free.append(is_free)

    SweepJob(train, {})(DictConfig({}))
    with _claim(folder) as is_free:
        free.append(is_free)
    assert free == [False, True]


def test_a_refused_run_leaves_no_empty_folder(folder: Path) -> None:
    def refuse(config: DictConfig) -> None:
        raise JobError("lr must be positive", "mistake")

    outcome = SweepJob(refuse, {})(DictConfig({}))
    assert outcome == Outcome(folder.name, "mistake", "lr must be positive")
    assert not folder.exists()
