"""Checkpoints in several files: whatever happens to one of them is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectral_exp.core.errors import UserError
from spectral_exp.distributed.divided import DividedTensor, stand_in
from spectral_exp.distributed.full_state import GatheredModel, GatheredOptimizer
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import reader
from spectral_exp.monitoring.checkpoint.file import write_checkpoint
from spectral_exp.monitoring.checkpoint.shards import SHARDS_ENTRY, write_shards
from spectral_exp.runs.layout import RunPaths

SIZE = 3


class ThreadMembers:
    """Threads in the place of processes: they exchange numbers and share a folder likewise."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[list[int]]) -> None:
        self.rank, self._barrier, self._board = rank, barrier, board

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        self._board[self.rank] = list(numbers)
        self._barrier.wait(60)
        found = [list(entry) for entry in self._board]
        self._barrier.wait(60)
        return found


def tensors(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(7, 5, generator=generator),
        "short": torch.randn(2, generator=generator),  # one rank has no row
        "half": torch.randn(4, 3, 2, generator=generator).bfloat16(),
    }


def rows_of(whole: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    def part(tensor: Tensor) -> Tensor:
        chunks = torch.chunk(tensor, SIZE)
        return chunks[rank] if rank < len(chunks) else tensor[:0]

    return {name: part(tensor) for name, tensor in whole.items()}


def write_all(paths: RunPaths, step: int, whole: dict[str, Tensor]) -> list[Any]:
    """The results of `write_shards` in all threads, or their errors."""
    barrier, board = threading.Barrier(SIZE), [[0]] * SIZE

    def write(rank: int) -> Any:
        rows = {
            "model_state_dict": rows_of(whole, rank),
            "optimizer_state_dict": {0: {"exp_avg": rows_of(whole, rank)["weight"]}},
        }
        try:
            return write_shards(paths, step, rows, ThreadMembers(rank, barrier, board))
        except OSError as error:
            return error

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(write, range(SIZE)))


def save(manager: CheckpointManager, step: int) -> dict[str, Tensor]:
    whole = tensors(step)
    index = write_all(manager.paths, step, whole)[0]
    weights = {name: stand_in(tensor.shape) for name, tensor in whole.items()}
    moments = {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": stand_in((7, 5))}},
        "param_groups": [{"params": [0]}],
    }
    model = GatheredModel({**weights, "scalar": torch.tensor(0.5)})
    path = manager.save_checkpoint(
        step, model, GatheredOptimizer(moments), [float(step)], {}, extra={SHARDS_ENTRY: index}
    )
    assert path == str(manager.paths.checkpoint_file(step))
    return whole


def folder_of(manager: CheckpointManager, step: int) -> Path:
    (folder,) = manager.paths.checkpoints.glob(f"checkpoint_step_{step}.shards-*")
    return folder


def assert_holds(state: dict[str, Any] | None, step: int) -> None:
    assert state is not None
    assert state["step"] == step
    weights = state["model_state_dict"]
    for name, tensor in tensors(step).items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert weights["scalar"].item() == 0.5
    entries = state["optimizer_state_dict"]["state"][0]
    assert torch.equal(entries["exp_avg"], tensors(step)["weight"])


def test_one_process_reads_a_divided_checkpoint_as_any_other(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
    assert_holds(CheckpointManager(tmp_path).load_latest_checkpoint(), 2)
    assert_holds(manager.load_checkpoint(1), 1)
    path = manager.paths.checkpoint_file(2)
    assert reader.verify(path) == "its sidecar"
    size_mb = manager.list_checkpoints()[1]["size_mb"]
    assert size_mb == pytest.approx(
        sum(file.stat().st_size for file in [path, *folder_of(manager, 2).glob("*.pt")]) / 1e6
    )
    assert manager.reports[-1].size_bytes == pytest.approx(1e6 * size_mb)


def test_several_processes_read_any_rows(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    whole = save(manager, 1)
    state = reader.read_checkpoint(manager.paths.checkpoint_file(1), mapped=True)
    divided = state["model_state_dict"]["weight"]
    assert isinstance(divided, DividedTensor)
    for start in range(8):
        for stop in range(start, 8):
            assert torch.equal(divided.rows(start, stop), whole["weight"][start:stop])
    assert SHARDS_ENTRY not in state


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def swap(file: Path) -> None:
    shutil.copy(file.with_name("shard_1.pt"), file)


@pytest.mark.parametrize("damage", [flip, truncate, swap, Path.unlink])
@pytest.mark.parametrize("name", ["shard_0.pt", "shard_2.pt"])
def test_damage_of_any_file_is_found(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
    damage(folder_of(manager, 2) / name)
    with pytest.raises(reader.BrokenCheckpointError, match=name):
        reader.verify(manager.paths.checkpoint_file(2))
    assert_holds(CheckpointManager(tmp_path).load_latest_checkpoint(), 1)
    assert manager.paths.checkpoint_steps() == [1]
    assert folder_of(manager, 2).is_dir()  # kept with the damaged checkpoint
    CheckpointManager(tmp_path).cleanup_old_checkpoints()
    assert folder_of(manager, 2).is_dir()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    file = folder_of(manager, 1) / "shard_1.pt"
    content = file.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(reader.BrokenCheckpointError):
            reader.read_checkpoint(manager.paths.checkpoint_file(1))
    file.write_bytes(content)
    assert_holds(manager.load_latest_checkpoint(), 1)


def test_a_missing_folder_is_found_without_a_sidecar_too(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        save(manager, step)
    shutil.rmtree(folder_of(manager, 2))
    manager.paths.checkpoint_file(2).with_name("checkpoint_step_2.pt.json").unlink()
    assert_holds(CheckpointManager(tmp_path).load_latest_checkpoint(), 1)


def test_retention_removes_folders_too(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1, keep_every_n_steps=3)
    for step in range(1, 6):
        save(manager, step)
    steps = [manager.paths.shards_step(path) for path in manager.paths.checkpoints.iterdir()]
    assert sorted(step for step in steps if step is not None) == [3, 5]
    assert manager.paths.checkpoint_steps() == [3, 5]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    for name in (".step_7.tmp", "checkpoint_step_7.shards-00000000"):
        (manager.paths.checkpoints / name).mkdir()
        (manager.paths.checkpoints / name / "shard_0.pt").write_bytes(b"torn")
    first = folder_of(manager, 1)
    save(manager, 1)  # the same step again, in a folder of its own
    assert folder_of(manager, 1) != first
    assert not list(manager.paths.checkpoints.glob("*_7*"))
    assert not list(manager.paths.checkpoints.glob(".step_*"))
    assert_holds(manager.load_latest_checkpoint(), 1)


def test_a_refusal_on_one_process_fails_the_save_on_all(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    # A file in the place of the folder's content: rank 2 cannot write its shard.
    whole = tensors(2)
    barrier, board = threading.Barrier(SIZE), [[0]] * SIZE

    class Hindered(ThreadMembers):
        calls = 0

        def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
            found = super().exchange(numbers)
            self.calls += 1
            if self.calls == 2 and self.rank == 2:
                (manager.paths.unfinished_shards(2) / "shard_2.pt").mkdir()
            return found

    def write(rank: int) -> int | None:
        rows = {"model_state_dict": rows_of(whole, rank), "optimizer_state_dict": {}}
        with pytest.raises(OSError, match="rank 2") as caught:
            write_shards(manager.paths, 2, rows, Hindered(rank, barrier, board))
        return caught.value.errno

    with ThreadPoolExecutor(SIZE) as pool:
        assert set(pool.map(write, range(SIZE))) == {errno.EISDIR}
    assert not list(manager.paths.checkpoints.glob("*step_2*"))
    assert_holds(manager.load_latest_checkpoint(), 1)


@pytest.mark.parametrize(
    "index",
    [
        {"folder": "../outside", "files": [[1, "00000000"]]},
        {"folder": "checkpoint_step_2.shards-00000000", "files": [[1, "00000000"]]},
        {"folder": "checkpoint_step_1.shards-00000000", "files": []},
        {"folder": "checkpoint_step_1.shards-00000000", "files": [["x", "00000000"]]},
        {"folder": 5},
        "text",
    ],
)
def test_a_list_of_other_files_is_refused(tmp_path: Path, index: object) -> None:
    manager = CheckpointManager(tmp_path)
    manager.paths.checkpoints.mkdir()
    entries = {
        "step": 1,
        "model_state_dict": {},
        "optimizer_state_dict": {},
        "loss_history": [],
        "config": {},
        "timestamp": "",
        "git_hash": "",
        SHARDS_ENTRY: index,
    }
    write_checkpoint(manager.paths.checkpoint_file(1), entries)
    with pytest.raises(UserError, match="list of shards"):
        manager.load_latest_checkpoint()


def test_sidecars_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    sidecar = manager.paths.checkpoints / "checkpoint_step_1.pt.json"
    facts = json.loads(sidecar.read_text())
    sidecar.write_text(
        json.dumps({**facts, SHARDS_ENTRY: "../../checkpoint_step_1.shards-00000000"})
    )
    manager.cleanup_old_checkpoints()
    assert_holds(manager.load_latest_checkpoint(), 1)
