"""Exceptions from signal handlers, at every line and at random times: no call hangs, loses or tears
anything."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import save
from tests.conftest import every_in_ci
from tests.crash.conftest import report_count
from tests.crash.interrupts import interrupt_after, interrupt_at

WAYS = ("guarded", "small", "synchronous")


@pytest.fixture(autouse=True)
def _gradients_afterwards() -> Iterator[None]:
    """An exception may meet torch on its way out of `no_grad`, which then stays in force."""
    yield
    torch.set_grad_enabled(True)


class Trainer:
    """A loop whose weights equal the number of their step, and that uses every public call of a
    manager."""

    def __init__(self, root: Path, way: str, size: int) -> None:
        self.model = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.model.weight)
        self.model.weight.grad = -torch.ones_like(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        background = way != "synchronous"
        self.manager = CheckpointManager(
            root, 1, keep_last_n=2, background=background, exit_deadline_s=60
        )

    @property
    def step(self) -> int:
        return int(self.model.weight[0, 0])

    def save(self) -> str:
        step = self.step
        return self.manager.save_checkpoint(
            step, self.model, self.optimizer, [float(step)] * 3, {"step": step}
        )

    def do_everything(self) -> None:
        manager, step = self.manager, self.step
        manager.prepare(self.model, self.optimizer)
        manager.should_checkpoint(step)
        self.save()
        manager.fence()
        self.optimizer.step()
        manager.wait()
        manager.mark_best(step)
        manager.cleanup_old_checkpoints()
        manager.close()

    def check(self) -> None:
        """Check that the manager works and that all of its saved files are intact."""
        assert self.manager.close()
        self.optimizer.step()
        assert self.save()
        assert self.manager.close()
        found = self.manager.list_checkpoints()
        assert found[-1]["step"] == self.step == self.manager.durable_step
        for entry in found:
            state = self.manager.load_checkpoint(entry["step"])
            assert state is not None
            assert (state["model_state_dict"]["weight"] == state["step"]).all()
            assert state["loss_history"] == [state["step"]] * 3
            assert state["config"] == {"step": state["step"]}
        folder = self.manager.paths.checkpoints
        names = {path.name for path in folder.iterdir() if "step" in path.name}
        assert names == {
            f"checkpoint_step_{entry['step']}.pt{end}" for entry in found for end in ("", ".json")
        }
        assert not [*folder.glob(".*"), *folder.glob("*.corrupt*")]
        assert self.manager.failures == 0


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Trainer]:
    def made(way: str, size: int) -> Trainer:
        monkeypatch.setattr(save, "_SMALL_BYTES", 1 << 30 if way == "small" else 0)
        trainer = Trainer(tmp_path, way, size)
        trainer.check()
        return trainer

    return made


def interrupt_lines(trainer: Trainer, every: int, bytecodes: bool = False) -> int:
    """Interrupt at every so many moments until one run of all calls ends undisturbed; how many
    moments that were."""
    for moment in itertools.count(1):
        if not interrupt_at(every * moment, trainer.do_everything, bytecodes=bytecodes):
            trainer.check()
            return moment - 1
        trainer.check()
    raise AssertionError


@pytest.mark.parametrize("way", WAYS)
def test_a_sample_of_lines(make: Callable[[str, int], Trainer], way: str) -> None:
    tried = interrupt_lines(make(way, 40), every=23)
    assert tried > 0
    report_count(f"exceptions at lines, {way}", tried, tried)


@pytest.mark.slow
@pytest.mark.parametrize("way", every_in_ci(3, ["small", "guarded", "synchronous"]))
def test_every_line(make: Callable[[str, int], Trainer], way: str) -> None:
    tried = interrupt_lines(make(way, 40), every=1)
    assert tried > 0
    report_count(f"exceptions at lines, {way}", tried, tried)


@pytest.mark.slow
@pytest.mark.parametrize("way", every_in_ci(3, WAYS))
def test_a_sample_of_bytecodes(make: Callable[[str, int], Trainer], way: str) -> None:
    tried = interrupt_lines(make(way, 40), every=7, bytecodes=True)
    assert tried > 0
    report_count(f"exceptions at bytecodes, {way}", tried, tried)


def interrupt_randomly(trainer: Trainer, times: int, within_s: float) -> int:
    chance = random.Random(0)
    struck = 0
    for _ in range(times):
        struck += interrupt_after(chance.uniform(0, within_s), trainer.do_everything)
        trainer.check()
    return struck


@pytest.mark.parametrize("way", ["guarded", "synchronous"])
def test_random_times(make: Callable[[str, int], Trainer], way: str) -> None:
    struck = interrupt_randomly(make(way, 40), times=40, within_s=0.01)
    assert struck > 0
    report_count(f"exceptions from a signal handler, {way}", struck, struck)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "size", "times"),
    [
        ("guarded", 40, 500),
        pytest.param("synchronous", 40, 500, marks=pytest.mark.exhaustive),
        pytest.param("guarded", 3000, 60, marks=pytest.mark.exhaustive),
    ],
)
def test_many_random_times(
    make: Callable[[str, int], Trainer], way: str, size: int, times: int
) -> None:
    struck = interrupt_randomly(make(way, size), times, within_s=0.03 if size > 1000 else 0.01)
    assert struck > 0
    report_count(f"exceptions from a signal handler, {way}, {size} x {size}", struck, struck)
