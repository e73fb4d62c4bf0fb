"""Saving in the background: the file holds the state at the call, despite anything that happens
meanwhile."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.core import json_files
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint import policy
from spectral_exp.monitoring.checkpoint.policy import SaveSchedule, parse_share
from spectral_exp.monitoring.checkpoint.staging import Staged, StagingArena, storages_of


class Counting(nn.Module):
    """A model whose forward changes a buffer."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.layers(x)
        return out


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    torch.manual_seed(number)
    model(torch.randn(16, 300)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Counting()
    return model, torch.optim.AdamW(model.parameters())


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that takes nothing until the event is set."""
    ready = threading.Event()
    write = checkpoint_file.write_checkpoint

    def wait(*arguments: Any, **options: Any) -> Any:
        assert ready.wait(60)
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", wait)
    return ready


def test_every_checkpoint_holds_the_state_of_its_call(tmp_path: Path) -> None:
    model, optimizer = made()
    losses: list[float] = []
    extra = {"rng": torch.get_rng_state()}
    ours = CheckpointManager(tmp_path / "background", background=True, keep_last_n=50)
    plain = CheckpointManager(tmp_path / "plain", keep_last_n=50)
    for number in range(1, 31):
        step(model, optimizer, number)
        losses.append(number / 3)
        plain.save_checkpoint(number, model, optimizer, losses, {}, extra=extra)
        ours.wait()
        assert ours.save_checkpoint(number, model, optimizer, losses, {}, extra=extra)
        extra["rng"].add_(1)
    assert ours.close()
    for number in range(1, 31):
        one, other = ours.load_checkpoint(number), plain.load_checkpoint(number)
        assert one is not None
        assert other is not None
        assert_same({**one, "timestamp": ""}, {**other, "timestamp": ""})


def test_the_optimizer_waits_for_the_copy(tmp_path: Path, slow_disk: threading.Event) -> None:
    model, optimizer = made()
    step(model, optimizer, 1)
    manager = CheckpointManager(tmp_path, background=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    manager.save_checkpoint(1, model, optimizer, [], {})
    for number in range(2, 6):  # the file is not even begun
        step(model, optimizer, number)
    slow_disk.set()
    assert manager.wait()
    state = manager.load_checkpoint(1)
    assert state is not None
    assert_same(dict(state["model_state_dict"]), before)
    assert not torch.equal(before["layers.0.weight"], model.state_dict()["layers.0.weight"])


def test_a_custom_optimizer_is_copied_at_once(tmp_path: Path, slow_disk: threading.Event) -> None:
    class Momentum:
        def __init__(self) -> None:
            self.velocity = torch.ones(1000)

        def state_dict(self) -> dict[str, Any]:
            return {"velocity": self.velocity}

    optimizer = Momentum()
    model = nn.Linear(3, 3)
    weight = model.weight.detach().clone()
    manager = CheckpointManager(tmp_path, background=True)
    manager.save_checkpoint(1, model, optimizer, [], {})
    with torch.no_grad():
        model.weight.add_(1)
    optimizer.velocity += 1
    slow_disk.set()
    assert manager.wait()
    state = manager.load_checkpoint(1)
    assert state is not None
    assert torch.equal(state["model_state_dict"]["weight"], weight)
    assert torch.equal(state["optimizer_state_dict"]["velocity"], torch.ones(1000))


def test_one_save_at_a_time_and_the_newest_follows(
    tmp_path: Path, slow_disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, save_interval=2, background=True)
    saved = []
    for number in range(1, 8):
        step(model, optimizer, number)
        if manager.should_checkpoint(number):
            assert manager.save_checkpoint(number, model, optimizer, [], {})
            saved.append(number)
        if number == 6:
            slow_disk.set()
            manager.wait()
    manager.close()
    assert saved == [2, 7]
    assert manager.skipped == 2
    assert "checkpoint of step 4 skipped" in caplog.text
    assert "checkpoint of step 6 skipped" in caplog.text
    assert [found["step"] for found in manager.list_checkpoints()] == [2, 7]


def test_the_best_is_never_skipped(tmp_path: Path, slow_disk: threading.Event) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, background=True)
    manager.save_checkpoint(1, model, optimizer, [], {})
    threading.Timer(0.2, slow_disk.set).start()
    assert manager.save_checkpoint(2, model, optimizer, [], {}, is_best=True)
    manager.close()
    best = manager.load_best_checkpoint()
    assert best is not None
    assert best["step"] == 2


def test_the_deadline_ends_the_waiting(
    tmp_path: Path, slow_disk: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, background=True, exit_deadline_s=0.1)
    manager.save_checkpoint(1, model, optimizer, [], {})
    assert not manager.close()
    assert "was not durable within exit_deadline_s=0.1" in caplog.text
    slow_disk.set()
    assert manager.wait()


def test_costs_are_reported(tmp_path: Path, slow_disk: threading.Event) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, background=True)
    assert manager.metrics() == {}
    path = manager.save_checkpoint(1, model, optimizer, [], {})
    time.sleep(0.3)
    slow_disk.set()
    manager.wait()
    (report,) = manager.reports
    assert report.blocked_s < 0.25 <= report.durable_s
    assert report.size_bytes == Path(path).stat().st_size
    assert manager.metrics()["checkpoint_blocked_ms"] == 1e3 * report.blocked_s
    assert manager.steps_at_risk(5) == 4


def test_failures_are_logged_once_and_retried_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = made()
    now = 0.0
    monkeypatch.setattr(policy, "time", SimpleNamespace(monotonic=lambda: now))
    manager = CheckpointManager(tmp_path, save_interval=1, background=True, max_steps_at_risk=10)
    full = True
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    for number in range(1, 12):
        step(model, optimizer, number)
        if manager.should_checkpoint(number):
            manager.save_checkpoint(number, model, optimizer, [], {})
            manager.wait()
    assert manager.failures == 1  # no hammering
    assert caplog.text.count("No space left on device") == 1
    assert "free space on the disk" in caplog.text
    assert manager.steps_at_risk(11) == 11
    assert manager.exceeds_risk(11)
    assert not manager.exceeds_risk(10)
    full = False
    assert not manager.should_checkpoint(12)
    now = 3600.0
    assert manager.should_checkpoint(12)
    manager.save_checkpoint(12, model, optimizer, [], {})
    manager.wait()
    assert manager.steps_at_risk(12) == 0
    assert "saved again, from step 12" in caplog.text
    assert not list(manager.paths.checkpoints.glob(".*"))


@pytest.mark.slow
def test_the_end_of_the_process_waits(tmp_path: Path) -> None:
    code = """
import torch
from torch import nn
from spectral_exp.monitoring import CheckpointManager
model = nn.Linear(2000, 2000)
optimizer = torch.optim.SGD(model.parameters())
CheckpointManager("forgotten", background=True).save_checkpoint(1, model, optimizer, [], {})
manager = CheckpointManager("kept", background=True)
manager.save_checkpoint(1, model, optimizer, [], {})
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert printed.stderr == ""
    for name in ("forgotten", "kept"):
        assert CheckpointManager(tmp_path / name).load_checkpoint(1) is not None, name


def test_a_wrong_state_raises_in_the_call(tmp_path: Path) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, background=True)
    with pytest.raises(TypeError, match="holds a object"):
        manager.save_checkpoint(1, model, optimizer, [], {}, extra={"x": object()})
    assert not manager.busy


def test_the_arena_is_used_again_and_grows() -> None:
    arena = StagingArena()
    for size in (1000, 10, 100_000, 50):
        tensors = [torch.randn(size), torch.arange(7), torch.empty(0)]
        staged = Staged(
            arena,
            storages_of([tensors[1]]),
            functools.partial(storages_of, [tensors[0], tensors[2]]),
        )
        copies = [t.clone() for t in tensors]
        tensors[1].zero_()
        image = staged.copy()
        for tensor in tensors:
            tensor.zero_()
        found = [bytes(image.memory[record.start : record.end]) for record in image.records]
        assert found == [copies[i].numpy().tobytes() for i in (0, 2)]
        assert [bytes(copy) for copy in image.copies.values()] == [copies[1].numpy().tobytes()]


def test_managers_do_not_outlive_their_use(tmp_path: Path) -> None:
    import weakref

    model, optimizer = made()
    manager = CheckpointManager(tmp_path, background=True)
    manager.save_checkpoint(1, model, optimizer, [], {})
    manager.close()
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None
    step(model, optimizer, 1)


# --- when -----------------------------------------------------------------------------------------


def test_auto_interval_keeps_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    schedule = SaveSchedule("auto", "0.5%")
    spent, saves = 0.0, 0
    for step_number in range(1, 20_001):
        now += 0.1
        if schedule.due(step_number):
            saves += 1
            spent += 0.05
            now += 0.05
            schedule.record_save(cost_s=0.05, durable_s=0.4)
    assert saves > 150
    assert spent / now < 0.0051


@pytest.mark.parametrize(
    ("value", "share"), [("0.5%", 0.005), ("100 %", 1.0), (0.02, 0.02), ("0.1", 0.1)]
)
def test_shares(value: float | str, share: float) -> None:
    assert parse_share("max_overhead", value) == share


@pytest.mark.parametrize("value", ["0%", "-1%", "101%", "little", 2])
def test_wrong_shares_are_refused(value: float | str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"max_overhead=.* must be a share such as 0\.5%"):
        CheckpointManager(tmp_path, max_overhead=value)


# --- compression and retention --------------------------------------------------------------------


def test_compressed_checkpoints_come_back(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    model, optimizer = made()
    step(model, optimizer, 1)
    manager = CheckpointManager(tmp_path, compression="zstd", background=True, keep_last_n=1)
    for number in (1, 2):
        path = manager.save_checkpoint(
            number, model, optimizer, [1.0] * 100_000, {}, extra={"zeros": torch.zeros(10**6)}
        )
        manager.wait()
    assert path.endswith("checkpoint_step_2.pt.zst")
    assert manager.reports[-1].compression_ratio > 2
    assert manager.metrics()["checkpoint_compression"] == manager.reports[-1].compression_ratio
    assert [found["step"] for found in manager.list_checkpoints()] == [2]
    state = CheckpointManager(tmp_path).load_latest_checkpoint()
    assert state is not None
    assert_same(dict(state["model_state_dict"]), dict(model.state_dict()))
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(UserError, match="is intact"):
        CheckpointManager(tmp_path).load_latest_checkpoint()


def test_every_so_many_steps_one_stays(tmp_path: Path) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_every_n_steps=4)
    for number in range(1, 11):
        manager.save_checkpoint(number, model, optimizer, [], {})
    assert [found["step"] for found in manager.list_checkpoints()] == [4, 8, 9, 10]


def test_old_checkpoints_stay_while_the_newer_are_broken(tmp_path: Path) -> None:
    model, optimizer = made()
    CheckpointManager(tmp_path, keep_last_n=9).save_checkpoint(1, model, optimizer, [], {})
    path = Path(
        CheckpointManager(tmp_path, keep_last_n=9).save_checkpoint(2, model, optimizer, [], {})
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    manager.save_checkpoint(3, model, optimizer, [], {})
    assert [found["step"] for found in manager.list_checkpoints()] == [1, 3]
    assert path.with_name(f"{path.name}.corrupt").exists()
    assert path.with_name(f"{path.name}.corrupt.json").exists()


def test_a_replaced_checkpoint_is_not_judged_by_the_old_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = made()
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(1, model, optimizer, [], {})
    step(model, optimizer, 1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(json_files, "write_json_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            manager.save_checkpoint(1, model, optimizer, [2.0], {})
    state = manager.load_checkpoint(1)
    assert state is not None
    assert state["loss_history"] == [2.0]


@pytest.mark.parametrize("background", [False, True])
def test_before_commit_runs_while_the_checkpoint_has_no_name(
    tmp_path: Path, background: bool
) -> None:
    model, optimizer = made()
    refuse = False
    seen: list[int] = []

    def before_commit() -> None:
        seen.append(len(manager.list_checkpoints()))
        if refuse:
            raise OSError(errno.EIO, "the log is not durable")

    manager = CheckpointManager(tmp_path, background=background, before_commit=before_commit)
    manager.save_checkpoint(1, model, optimizer, [], {})
    manager.wait()
    refuse = True
    manager.save_checkpoint(2, model, optimizer, [], {})
    manager.wait()
    assert seen == [0, 1]
    assert (manager.durable_step, manager.failures) == (1, 1)
    assert [
        path.name for path in manager.paths.checkpoints.iterdir() if "step_2" in path.name
    ] == []
