"""Going back, failing reads without a sidecar, odd containers and processes that multiprocessing
forks."""

from __future__ import annotations

import errno
import io
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from spectral_exp.monitoring import CheckpointManager, ConfigTracker, MetricsLogger
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.monitoring.checkpoint.state import LiveState

MODEL = torch.nn.Linear(2, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)


def save(manager: CheckpointManager, step: int, *, is_best: bool = False) -> None:
    assert manager.save_checkpoint(step, MODEL, OPTIMIZER, [0.0] * step, {}, is_best=is_best)


def step_of(state: dict[str, Any] | None) -> int | None:
    return None if state is None else state["step"]


class FailingReader(io.BufferedReader):
    """A file that fails once, at the `left`-th look into it."""

    left = 0

    def seek(self, *place: int) -> int:
        FailingReader.left -= 1
        if FailingReader.left == 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().seek(*place)


def test_a_read_that_fails_once_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
    for sidecar in (tmp_path / "checkpoints").glob("*.json"):
        sidecar.unlink()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    path_open = Path.open

    def failing_open(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.suffix == ".pt" and mode == "rb":
            return FailingReader(io.FileIO(path))
        return path_open(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", failing_open)
    monkeypatch.setattr(checkpoint_reader, "_RETRY_PAUSES_S", (0.0, 0.0))
    for moment in range(1, 12):
        FailingReader.left = moment
        assert step_of(CheckpointManager(tmp_path).load_latest_checkpoint()) == 2
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names


def test_the_last_state_of_a_new_branch_is_saved_whatever_the_old_one_had(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (10, 20):
        save(manager, step)
    assert step_of(manager.load_checkpoint(10)) == 10
    assert manager.steps_at_risk(15) == 5
    assert manager.save_last(LiveState(15.0, MODEL, OPTIMIZER, [0.0] * 15, {}))  # type: ignore[arg-type]
    assert step_of(CheckpointManager(tmp_path).load_latest_checkpoint()) == 15


def test_the_best_of_an_abandoned_branch_that_is_overwritten_is_the_best_no_more(
    tmp_path: Path,
) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    save(manager, 10, is_best=True)
    save(manager, 20, is_best=True)
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    manager.load_checkpoint(10)
    for step in (15, 20, 25, 30):
        save(manager, step)
    assert step_of(manager.load_best_checkpoint()) == 10


def test_close_warns_of_a_state_that_is_not_durable(tmp_path: Path) -> None:
    model = torch.nn.Linear(1000, 1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (tmp_path / "checkpoints").write_text("no folder")
    manager = CheckpointManager(tmp_path, background=True)
    manager.save_checkpoint(1, model, optimizer, [0.0], {})
    assert not manager.close()
    assert manager.problem


class AttributeMapping(dict[str, Any]):
    """A mapping whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def test_odd_containers_cost_nothing(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(1, {"mapping": AttributeMapping(a=1), "loss": 1.0})
    logger.log_metrics(2, {"up": 10**5000, "down": -(10**5000), "loss": 2.0})
    assert [entry["loss"] for entry in logger.load_metrics()] == [1.0, 2.0]
    config = {
        "missing": OmegaConf.create({"a": "???", "b": 1}),
        "dangling": OmegaConf.create({"a": "${x}"}),
    }
    save_with = CheckpointManager(tmp_path).save_checkpoint
    assert save_with(1, MODEL, OPTIMIZER, [0.0], {**config, "lazy": torch.nn.LazyLinear(3).weight})
    tracker = ConfigTracker(tmp_path)
    tracker.save_config(config, model=torch.nn.LazyLinear(3))
    tracker.save_results({"loss": 1.0}, generation_samples=torch.zeros(2, 3))  # type: ignore[arg-type]
    assert tracker.load_config()["config"]["missing"]["b"] == 1
    assert tracker.load_config()["model"]["num_parameters"] == 0


def log_without_flush(logger: MetricsLogger) -> None:
    for step in range(1, 6):
        logger.log_metrics(step, {"x": 1.0}, flush=False)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_unflushed_lines_of_a_forked_process_arrive(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=log_without_flush, args=(logger,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [entry["step"] for entry in logger.load_metrics()] == [1, 2, 3, 4, 5]
