from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.state import CHECKPOINT_KEYS


def trained(steps: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model and an optimizer with state."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def save(manager: CheckpointManager, step: int, **options: Any) -> str:
    model, optimizer = trained()
    losses = options.pop("loss_history", [float(n) for n in range(step)])
    return manager.save_checkpoint(
        step, model, optimizer, losses, options.pop("config", {}), **options
    )


def steps_of(manager: CheckpointManager) -> list[int]:
    return [checkpoint["step"] for checkpoint in manager.list_checkpoints()]


def names_in(manager: CheckpointManager) -> list[str]:
    """What lies in the folder, sidecars apart; each of them belongs to a file."""
    names = {path.name for path in manager.paths.checkpoints.iterdir()}
    sidecars = {name for name in names if name.endswith(".json")}
    assert {name.removesuffix(".json") for name in sidecars} <= names
    return sorted(names - sidecars)


def latest_step(manager: CheckpointManager) -> int | None:
    state = manager.load_latest_checkpoint()
    return None if state is None else int(state["step"])


def flip_a_bit(path: Path) -> None:
    """Turn one bit in the middle of a tensor's bytes."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    at = entry.header_offset + (len(content) - entry.header_offset) // 200 + entry.file_size // 2
    content[at] ^= 0x10
    path.write_bytes(content)


# --- what is due ----------------------------------------------------------------------------------


def test_due_at_multiples_of_the_interval(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, save_interval=500)
    assert [step for step in range(0, 1501, 100) if manager.should_checkpoint(step)] == [
        500,
        1000,
        1500,
    ]


@pytest.mark.parametrize("setting", ["save_interval", "keep_last_n"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many"])
def test_bad_settings_are_refused(tmp_path: Path, setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{setting}={value} must be a whole number >= 1"):
        CheckpointManager(tmp_path, **{setting: value})


def test_disabled_manager_writes_nothing_but_loads(tmp_path: Path) -> None:
    save(CheckpointManager(tmp_path / "run"), 5)
    manager = CheckpointManager(tmp_path / "run", enabled=False, save_interval=1)
    assert not manager.should_checkpoint(10)
    assert save(manager, 10) == ""
    assert latest_step(manager) == 5
    assert save(CheckpointManager(tmp_path / "other", enabled=False), 1) == ""
    assert not (tmp_path / "other").exists()


def test_a_disabled_manager_skips_broken_checkpoints_and_leaves_them(tmp_path: Path) -> None:
    writer = CheckpointManager(tmp_path)
    save(writer, 5)
    broken = Path(save(writer, 6))
    broken.write_bytes(b"torn")
    assert latest_step(CheckpointManager(tmp_path, enabled=False)) == 5
    assert broken.read_bytes() == b"torn"


# --- what is saved --------------------------------------------------------------------------------


def test_saved_state_comes_back_exactly(tmp_path: Path) -> None:
    model, optimizer = trained()
    manager = CheckpointManager(str(tmp_path))
    extra: dict[str, Any] = {
        "rng": torch.get_rng_state(),
        "python_rng": random.getstate(),
        "tokens": 10**20,
    }
    path = manager.save_checkpoint(3, model, optimizer, [3.0, 2.0, 1.5], {"lr": 0.1}, extra=extra)
    assert path == str(tmp_path / "checkpoints" / "checkpoint_step_3.pt")
    state = manager.load_checkpoint(3)
    assert state is not None
    assert set(state) == {*CHECKPOINT_KEYS, *extra}
    assert isinstance(state["model_state_dict"], OrderedDict)
    other, other_optimizer = trained(steps=1, seed=1)
    other.load_state_dict(state["model_state_dict"])
    other_optimizer.load_state_dict(state["optimizer_state_dict"])
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(
            optimizer.state[mine]["exp_avg_sq"], other_optimizer.state[theirs]["exp_avg_sq"]
        )
    assert (state["step"], state["loss_history"], state["config"]) == (
        3,
        [3.0, 2.0, 1.5],
        {"lr": 0.1},
    )
    assert torch.equal(state["rng"], extra["rng"])
    assert (state["python_rng"], state["tokens"]) == (extra["python_rng"], 10**20)
    state["loss_history"].append(1.0)


def test_file_is_plain_torch_and_safe_to_load(tmp_path: Path) -> None:
    config = OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2.5})
    settings = {
        "hydra": config,
        "path": tmp_path,
        "numpy": np.float64(0.5),
        "dtype": torch.float32,
        "f": len,
    }
    extra = {
        "numpy": np.int64(3),
        "path": tmp_path,
        "list_config": config["a"]["b"],
        "bytes": b"\x00\xff",
    }
    path = save(CheckpointManager(tmp_path), 1, config=settings, extra=extra)
    state = torch.load(path, weights_only=True)
    assert state["config"]["hydra"] == {"a": {"b": [1, 2.5]}, "c": 2.5}
    assert state["config"]["path"] == str(tmp_path)
    assert (state["numpy"], state["list_config"], state["bytes"]) == (3, [1, 2.5], b"\x00\xff")
    assert isinstance(state["loss_history"], torch.Tensor)
    assert state["loss_history"].dtype == torch.float64


def test_secrets_of_the_configuration_stay_out(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    path = save(
        manager,
        1,
        config={"hub": {"token": "hf_0123456789", "max_tokens": 5}, "betas": (0.9, 0.95), 3: "x"},
    )
    assert b"hf_0123456789" not in Path(path).read_bytes()
    state = manager.load_checkpoint(1)
    assert state is not None
    assert state["config"] == {
        "hub": {"token": "<redacted>", "max_tokens": 5},
        "betas": (0.9, 0.95),
        3: "x",
    }


def test_objects_that_cannot_be_loaded_safely_are_refused(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    with pytest.raises(TypeError, match=r"extra\['state'\]\[1\] holds a ndarray"):
        save(manager, 1, extra={"state": ["MT19937", np.zeros(3)]})
    with pytest.raises(SettingError, match="step"):
        save(manager, 1, extra={"step": 3})
    assert not manager.paths.checkpoints.exists()


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 2.0],
        (1.0, 2.0),
        deque([1.0, 2.0]),
        np.array([1.0, 2.0], np.float32),
        torch.tensor([1.0, 2.0]),
        [torch.tensor(1.0), torch.tensor(2.0, requires_grad=True)],
    ],
)
def test_losses_of_all_makes_come_back_as_a_list(tmp_path: Path, losses: Any) -> None:
    manager = CheckpointManager(tmp_path)
    assert save(manager, 2, loss_history=losses)
    state = manager.load_checkpoint(2)
    assert state is not None
    assert state["loss_history"] == [1.0, 2.0]


def test_a_million_losses_are_a_tensor_in_the_file(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).random(1_000_000).tolist()
    manager = CheckpointManager(tmp_path)
    path = Path(save(manager, 1, loss_history=losses))
    assert path.stat().st_size < 8_100_000
    state = manager.load_checkpoint(1)
    assert state is not None
    assert state["loss_history"] == losses


def test_views_do_not_drag_their_storage_along(tmp_path: Path) -> None:
    small = save(CheckpointManager(tmp_path / "a"), 1)
    view = torch.zeros(1_000_000)[5:7]
    large = save(
        CheckpointManager(tmp_path / "b"),
        1,
        extra={"view": view},
        loss_history=torch.zeros(10**6)[:1],
    )
    assert Path(large).stat().st_size < Path(small).stat().st_size + 1000


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    embedding, head = nn.Embedding(1000, 16), nn.Linear(16, 1000, bias=False)
    head.weight = embedding.weight
    optimizer = torch.optim.SGD(head.parameters())
    path = CheckpointManager(tmp_path).save_checkpoint(
        1, nn.ModuleList([embedding, head]), optimizer, [], {}
    )
    assert Path(path).stat().st_size < 1.2 * 1000 * 16 * 4


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    model, optimizer = trained()
    compiled = nn.Module()
    compiled._orig_mod = model  # as torch.compile wraps, without its start-up time
    manager = CheckpointManager(tmp_path)
    for step, wrapped in enumerate(
        [nn.DataParallel(model), compiled, nn.DataParallel(compiled)], 1
    ):
        manager.save_checkpoint(step, wrapped, optimizer, [], {})
        state = manager.load_checkpoint(step)
        assert state is not None
        assert list(state["model_state_dict"]) == list(model.state_dict())


def test_module_versions_are_kept(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(2)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
    state = manager.load_checkpoint(1)
    assert state is not None
    assert state["model_state_dict"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]


def test_checksums_are_written_even_if_torch_omits_them(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        manager = CheckpointManager(tmp_path)
        save(manager, 1)
        assert not torch.serialization.get_crc32_options()
        assert latest_step(manager) == 1
    finally:
        torch.serialization.set_crc32_options(before)


# --- pointers and retention -----------------------------------------------------------------------


def test_nothing_is_found_in_a_new_run(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "new")
    assert manager.load_latest_checkpoint() is None
    assert manager.load_best_checkpoint() is None
    assert manager.load_checkpoint(1) is None
    assert manager.list_checkpoints() == []
    assert not (tmp_path / "new").exists()


def test_layout_after_some_saves(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    for step in (1000, 2000, 3000):
        save(manager, step)
    assert names_in(manager) == [
        "checkpoint_latest.pt",
        "checkpoint_step_2000.pt",
        "checkpoint_step_3000.pt",
    ]
    assert manager.paths.latest_link.readlink() == Path("checkpoint_step_3000.pt")
    [_, newest] = manager.list_checkpoints()
    size_mb = Path(newest["path"]).stat().st_size / 1e6
    assert (newest["step"], newest["size_mb"], newest["is_latest"], newest["is_best"]) == (
        3000,
        size_mb,
        True,
        False,
    )


def test_best_is_kept_and_found(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    for step in (1, 2, 3, 4):
        save(manager, step, is_best=step == 2)
    assert steps_of(manager) == [2, 4]
    best = manager.load_best_checkpoint()
    assert best is not None
    assert best["step"] == 2
    manager.mark_best(4)
    manager.cleanup_old_checkpoints()
    assert steps_of(manager) == [4]
    with pytest.raises(UserError, match="step 2"):
        manager.mark_best(2)


def test_best_is_not_kept_when_not_wanted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_best=False)
    for step in (1, 2):
        save(manager, step, is_best=step == 1)
    assert names_in(manager) == ["checkpoint_latest.pt", "checkpoint_step_2.pt"]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True).map(sorted),
    keep=st.integers(1, 4),
    data=st.data(),
)
def test_retention_keeps_the_newest_and_the_best(
    steps: list[int], keep: int, data: st.DataObject
) -> None:
    bests = data.draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    with tempfile.TemporaryDirectory() as folder:
        manager = CheckpointManager(folder, keep_last_n=keep)
        best: set[int] = set()
        for at, step in enumerate(steps):
            save(manager, step, is_best=bests[at], loss_history=[])
            best = {step} if bests[at] else best
            assert set(steps_of(manager)) == set(steps[: at + 1][-keep:]) | best
            assert latest_step(manager) == step


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.paths.checkpoints.mkdir()
    (manager.paths.checkpoints / ".checkpoint_step_1.pt.77-abcd.tmp").write_bytes(b"torn")
    save(manager, 2)
    assert names_in(manager) == ["checkpoint_latest.pt", "checkpoint_step_2.pt"]


@pytest.mark.parametrize("link", ["missing", "dangling", "garbage", "behind"])
def test_the_newest_is_found_despite_a_wrong_link(tmp_path: Path, link: str) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        save(manager, step)
    manager.paths.latest_link.unlink()
    if link == "dangling":
        manager.paths.latest_link.symlink_to("checkpoint_step_9.pt")
    elif link == "garbage":
        manager.paths.latest_link.write_bytes(b"\x00garbage")
    elif link == "behind":  # killed between the rename and the swap of the link
        manager.paths.latest_link.symlink_to("checkpoint_step_2.pt")
        os.utime(manager.paths.latest_link, (1000, 1000), follow_symlinks=False)
    assert latest_step(manager) == 3


def test_a_link_set_by_hand_wins(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        save(manager, step)
    manager.paths.latest_link.unlink()
    manager.paths.latest_link.symlink_to("checkpoint_step_1.pt")
    assert latest_step(manager) == 1
    assert [found["step"] for found in manager.list_checkpoints() if found["is_latest"]] == [1]


@pytest.mark.parametrize("link", ["kept", "lost"])
def test_a_run_that_went_back_continues_from_its_new_branch(tmp_path: Path, link: str) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=9)
    for step in (10, 20, 30):
        save(manager, step)
    assert manager.load_checkpoint(10) is not None
    for step in (15, 25):
        save(manager, step)
    if link == "lost":  # as by a copy that knows no links
        manager.paths.latest_link.unlink()
    for path in manager.paths.checkpoints.glob("*.pt"):  # nor times
        os.utime(path, (1000, 1000), follow_symlinks=False)
    for expected in (25, 15, 10):  # and no step of the abandoned branch
        found = CheckpointManager(tmp_path)
        assert latest_step(found) == expected
        damage(manager.paths.checkpoint_file(expected), "truncated")


def test_retention_removes_the_abandoned_branch_first(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    for step in (20, 30, 15, 16):
        save(manager, step)
    assert steps_of(manager) == [15, 16]


# --- broken files ---------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        flip_a_bit(path)
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif how == "unsafe":
        torch.save(dict.fromkeys(CHECKPOINT_KEYS, Path()), path)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "zeros", "foreign", "unsafe"])
def test_broken_checkpoint_is_set_aside_and_the_one_before_taken(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2, 3):
        save(manager, step, extra={"weights": torch.randn(5000)}, is_best=step == 3)
    damage(manager.paths.checkpoint_file(3), how)
    damaged = manager.paths.checkpoint_file(3).read_bytes()
    assert latest_step(manager) == 2
    assert "checkpoint_step_3.pt is broken" in caplog.text
    aside = tmp_path / "checkpoints" / "checkpoint_step_3.pt.corrupt"
    assert aside.read_bytes() == damaged
    assert manager.load_checkpoint(3) is None
    assert manager.load_best_checkpoint() is None
    save(manager, 3)
    assert latest_step(manager) == 3
    damage(manager.paths.checkpoint_file(3), how)
    assert latest_step(manager) == 2
    assert aside.read_bytes() == damaged
    assert aside.with_name(aside.name + "2").exists()


def test_all_broken_stops_and_changes_nothing(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
        damage(manager.paths.checkpoint_file(step), "truncated")
    before = names_in(manager)
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"no checkpoint in .* is intact .*move the folder away to start anew"
        ):
            manager.load_latest_checkpoint()
    assert names_in(manager) == before
    for step in (1, 2):  # asked for by their steps they are set aside, and are not forgotten
        assert manager.load_checkpoint(step) is None
    assert steps_of(manager) == []
    with pytest.raises(UserError, match="all were moved"):
        manager.load_latest_checkpoint()


def test_a_missing_device_is_no_reason_to_set_files_aside(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    with pytest.raises((RuntimeError, AssertionError)):
        manager.load_latest_checkpoint(map_location="cuda:99")
    assert steps_of(manager) == [1]
    state = manager.load_latest_checkpoint(map_location="meta")
    assert state is not None
    assert all(tensor.is_meta for tensor in state["model_state_dict"].values())


# --- real faults ----------------------------------------------------------------------------------

ENDLESS = """
import sys, torch
from torch import nn
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
torch.set_num_threads(1)
manager = CheckpointManager(sys.argv[1], keep_last_n=2)
model = nn.Linear(300, 300)
optimizer = torch.optim.SGD(model.parameters())
step = 0
while True:
    step += 1
    with torch.no_grad():
        model.weight.fill_(step)
    manager.save_checkpoint(step, model, optimizer, [1.0] * step, {}, is_best=step % 5 == 0)
    print(step, flush=True)
"""


@pytest.mark.parametrize(
    "extra_lines", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7)), 40]
)
def test_nothing_reported_is_lost_on_sigkill(tmp_path: Path, extra_lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for _ in range(extra_lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        reported = extra_lines + sum(line.endswith("\n") for line in process.stdout)
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    state = manager.load_latest_checkpoint()
    assert state is not None
    assert state["step"] in {reported, reported + 1}
    assert (state["model_state_dict"]["weight"] == state["step"]).all()
    assert not list(manager.paths.checkpoints.glob("*.corrupt*"))
    # The last file may be complete without being the latest yet.
    newest = steps_of(manager)[-1]
    assert newest in {state["step"], state["step"] + 1}
    save(manager, 1000)
    assert steps_of(manager)[-2:] == [newest, 1000]
    assert not list(manager.paths.checkpoints.glob(".*"))


FULL_DISK = """
import logging, resource, sys, torch
from torch import nn
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
logging.basicConfig(stream=sys.stderr)
manager = CheckpointManager(sys.argv[1])
model = nn.Linear(300, 300)
optimizer = torch.optim.SGD(model.parameters())
save = lambda step: manager.save_checkpoint(step, model, optimizer, [], {})
assert save(1)
for step in range(2, 6):
    resource.setrlimit(resource.RLIMIT_FSIZE, (step * 70_000, resource.RLIM_INFINITY))
    assert save(step) == ""
assert manager.failures == 4
assert [path.name for path in manager.paths.checkpoints.iterdir() if path.name[0] == "."] == []
assert [found["step"] for found in manager.list_checkpoints()] == [1]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert save(6)
"""


@pytest.mark.slow
def test_full_disk_skips_checkpoints_and_training_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not saved") == 1
    assert "free space" in done.stderr
    assert "saved again" in done.stderr
    assert steps_of(CheckpointManager(tmp_path)) == [1, 6]


def test_unusable_folder_costs_a_warning_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path / "file")
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert [save(manager, step) for step in (1, 2)] == ["", ""]
    assert len(caplog.records) == 1
    assert manager.failures == 2


def test_errors_of_the_program_are_not_taken_for_the_disks(tmp_path: Path) -> None:
    class Broken:
        def state_dict(self) -> dict[str, Any]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        CheckpointManager(tmp_path).save_checkpoint(1, nn.Linear(1, 1), Broken(), [], {})
