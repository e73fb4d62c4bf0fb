"""The folder of checkpoints: retention, and latest and best without links, after copies, kills and
refusals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spectral_exp.core import files, json_files
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.policy import removable
from spectral_exp.runs import layout
from spectral_exp.runs.lock import RunLock


def save(manager: CheckpointManager, step: Any, **options: Any) -> str:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(step)
    optimizer = torch.optim.SGD(model.parameters())
    return manager.save_checkpoint(step, model, optimizer, [1.0], {}, **options)


def step_of(state: dict[str, Any] | None) -> int | None:
    return None if state is None else int(state["step"])


def steps_of(manager: CheckpointManager) -> list[int]:
    return [found["step"] for found in manager.list_checkpoints()]


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", ["followed", "absent", "pointers"])
@pytest.mark.parametrize("sidecars", ["kept", "of older versions", "absent"])
def test_a_copy_without_links_keeps_the_latest_and_the_best(
    tmp_path: Path, links: str, sidecars: str
) -> None:
    original = CheckpointManager(tmp_path / "run", keep_last_n=2)
    for step in (1, 2, 3):
        save(original, step, is_best=step == 1)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy, symlinks=False)
    paths = layout.RunPaths(copy)
    for link, target in ((paths.latest_link, 3), (paths.best_link, 1)):
        if links == "absent":
            link.unlink()
        elif links == "pointers":
            link.write_text(f"checkpoint_step_{target}.pt\n")
    for file in paths.checkpoints.glob("*.json"):
        facts = json.loads(file.read_text())
        if sidecars == "absent":
            file.unlink()
        elif sidecars == "of older versions":
            file.write_text(
                json.dumps({k: v for k, v in facts.items() if k not in {"serial", "best_step"}})
            )
    manager = CheckpointManager(copy, keep_last_n=2)
    assert step_of(manager.load_latest_checkpoint()) == 3
    known = links != "absent" or sidecars == "kept"  # otherwise nothing is left that names it
    assert step_of(manager.load_best_checkpoint()) == (1 if known else None)
    for step in (4, 5):
        save(manager, step)
    assert steps_of(manager) == ([1, 4, 5] if known else [4, 5])
    assert paths.latest_link.readlink() == Path("checkpoint_step_5.pt")
    assert files.follow(paths.best_link) == (paths.checkpoint_file(1) if known else None)


def test_a_whole_checkpoint_in_the_place_of_a_link_is_found_and_kept(tmp_path: Path) -> None:
    original = CheckpointManager(tmp_path / "run", keep_last_n=3)
    for step in (1, 2):
        save(original, step, is_best=step == 1)
    (tmp_path / "copy/checkpoints").mkdir(parents=True)
    for name in ("checkpoint_latest.pt", "checkpoint_best.pt"):  # all that somebody took along
        shutil.copy(tmp_path / "run/checkpoints" / name, tmp_path / "copy/checkpoints" / name)
    manager = CheckpointManager(tmp_path / "copy")
    assert step_of(manager.load_latest_checkpoint()) == 2
    save(manager, 3)
    assert step_of(manager.load_latest_checkpoint()) == 3
    assert step_of(manager.load_best_checkpoint()) == 1
    save(manager, 4, is_best=True)
    assert step_of(manager.load_best_checkpoint()) == 4


# --- kills and refusals between the pointers ------------------------------------------------------


class Killed(BaseException):
    """Ends a save as a kill would: nothing after it is done."""


@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")])
def test_the_best_is_known_whenever_a_save_ends(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def run(root: Path, ends_at: int | None) -> None:
        """Save steps 1 to 3, each the best; the last save ends at one of its changes to the
        folder."""
        manager = CheckpointManager(root, keep_last_n=1)
        for step in (1, 2):
            save(manager, step, is_best=True)
        calls.clear()

        def count(name: str, real: Any) -> Any:
            def counted(*arguments: Any, **options: Any) -> Any:
                calls.append(name)
                if len(calls) - 1 == ends_at:
                    raise error
                return real(*arguments, **options)

            return counted

        with monkeypatch.context() as patch:
            for owner, name in (
                (files, "replace_symlink"),
                (json_files, "write_json_atomic"),
                (Path, "unlink"),
            ):
                patch.setattr(owner, name, count(name, getattr(owner, name)))
            patch.setattr(files, "fsync_directory", count("fsync", files.fsync_directory))
            with contextlib.suppress(Killed):
                save(manager, 3, is_best=True)

    run(tmp_path / "undisturbed", None)
    ends = list(calls)
    assert ends.count("replace_symlink") == 2
    for at in range(len(ends)):
        root = tmp_path / str(at)
        run(root, at)
        fresh = CheckpointManager(root, keep_last_n=1)
        best = step_of(fresh.load_best_checkpoint())
        durable = checkpoint_file.read_sidecar(fresh.paths.checkpoint_file(3)) is not None
        assert best == (3 if durable else 2), (at, ends[at])
        newest = step_of(fresh.load_latest_checkpoint())
        assert newest is not None
        assert newest >= 2
        save(fresh, 9)  # the next save puts the link right, and nothing that it names is removed
        assert fresh.paths.best_link.readlink() == Path(f"checkpoint_step_{best}.pt")
        assert steps_of(fresh) == [best, 9]


def test_marking_the_best_outlives_its_link(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1, is_best=True)
    save(manager, 2)
    manager.mark_best(np.int64(2))  # type: ignore[arg-type]
    manager.paths.best_link.unlink()
    fresh = CheckpointManager(tmp_path, keep_last_n=1)
    assert step_of(fresh.load_best_checkpoint()) == 2
    save(fresh, 3)
    assert steps_of(fresh) == [2, 3]


# --- readers --------------------------------------------------------------------------------------


@contextmanager
def run_of_another_process(root: Path) -> Iterator[None]:
    """The lock as another process holds it."""
    path = layout.RunPaths(root).lock_file
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "now"}))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_reader_renames_nothing_of_a_run_that_is_going_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(CheckpointManager(tmp_path), step)
    path = tmp_path / "checkpoints/checkpoint_step_2.pt"
    path.write_bytes(b"torn")
    with run_of_another_process(tmp_path):
        reader = CheckpointManager(tmp_path)
        assert step_of(reader.load_latest_checkpoint()) == 1
        assert reader.load_checkpoint(2) is None
        assert path.read_bytes() == b"torn"
    assert "checkpoint_step_2.pt is broken" in caplog.text
    with RunLock(tmp_path):  # its own process may
        assert step_of(CheckpointManager(tmp_path).load_latest_checkpoint()) == 1
    assert path.with_name(f"{path.name}.corrupt").read_bytes() == b"torn"


def test_a_reader_finds_the_newest_while_older_ones_are_removed(tmp_path: Path) -> None:
    writer = CheckpointManager(tmp_path, keep_last_n=1)
    save(writer, 1)
    reader = CheckpointManager(tmp_path, enabled=False)
    find = reader._loader._newest_first

    def find_then_lose() -> list[Path]:
        found = find()
        if found and found[0].name == "checkpoint_step_1.pt":
            save(writer, 2)
        return found

    reader._loader._newest_first = find_then_lose  # type: ignore[method-assign]
    assert step_of(reader.load_latest_checkpoint()) == 2


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [float, np.int64, np.float32, torch.tensor])
def test_steps_of_any_type_are_the_same_steps(tmp_path: Path, kind: Any) -> None:
    manager = CheckpointManager(tmp_path, save_interval=10)
    assert manager.should_checkpoint(kind(10))
    assert not manager.should_checkpoint(kind(11))
    assert save(manager, kind(10)).endswith("/checkpoint_step_10.pt")
    assert step_of(manager.load_checkpoint(kind(10))) == 10
    manager.mark_best(kind(10))
    assert step_of(manager.load_best_checkpoint()) == 10


@pytest.mark.parametrize("step", [10.5, True, -1, "10", float("nan")])
def test_invalid_steps_are_refused_everywhere(tmp_path: Path, step: Any) -> None:
    manager = CheckpointManager(tmp_path)
    model = nn.Linear(1, 1)
    for call in (
        manager.should_checkpoint,
        manager.load_checkpoint,
        manager.mark_best,
        lambda step: manager.save_checkpoint(
            step, model, torch.optim.SGD(model.parameters()), [], {}
        ),
    ):
        with pytest.raises(SettingError, match=r"step=.* must be a whole number >= 0"):
            call(step)
    assert list(tmp_path.iterdir()) == []


# --- retention ------------------------------------------------------------------------------------


def test_steps_kept_for_good_are_saved_even_while_the_writer_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, go_on = checkpoint_file.write_checkpoint, threading.Event()
    slow: list[int] = []

    def wait_for_the_next_step(path: Path, state: Any, *rest: Any, **options: Any) -> Any:
        slow.append(state["step"])
        assert go_on.wait(60)
        go_on.clear()
        return write(path, state, *rest, **options)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", wait_for_the_next_step)
    manager = CheckpointManager(
        tmp_path, save_interval=1, keep_last_n=1, keep_every_n_steps=5, background=True
    )
    for step in range(1, 41):
        if step % 5 == 0:
            go_on.set()  # the disk needs five steps for each
        if manager.should_checkpoint(step):
            save(manager, step)
    go_on.set()
    assert manager.close()
    assert [step for step in steps_of(manager) if step % 5 == 0] == list(range(5, 41, 5))
    assert manager.skipped > 0
    assert len(slow) < 20


def test_removable_never_lists_protected_checkpoints() -> None:
    steps = [50, 45, 40, 35, 30, 20, 10]
    assert removable(steps, keep_last_n=2, keep_every_n_steps=20, pointed={30, None}) == [35, 10]


def test_a_foreign_file_keeps_retention_from_nothing_but_removing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1)
    (tmp_path / "checkpoints/checkpoint_step_9.pt").mkdir()
    for step in (2, 3):
        assert save(manager, step)
    assert manager.failures == 0
    with pytest.raises(UserError, match="it is not a regular file"):
        manager.load_checkpoint(9)
    assert step_of(manager.load_latest_checkpoint()) == 3


def test_a_step_saved_with_another_compression_replaces_the_first(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    save(CheckpointManager(tmp_path), 1)
    save(CheckpointManager(tmp_path, compression="zstd"), 1, extra={"new": True})
    state = CheckpointManager(tmp_path).load_latest_checkpoint()
    assert state is not None
    assert state["new"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        *("checkpoint_latest.pt", "checkpoint_step_1.pt.zst", "checkpoint_step_1.pt.zst.json")
    ]
