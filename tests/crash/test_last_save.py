"""The end of a run on storage that refuses: said, recorded, and made room for."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.failures import refusal
from spectral_exp.monitoring.checkpoint.failures import remedy as find_remedy
from spectral_exp.monitoring.checkpoint.state import LiveState
from spectral_exp.train import main
from spectral_exp.training.refusals import describe_refusal
from tests.conftest import NO_PLOTS, TINY, every_in_ci, python
from tests.crash.conftest import mounted

KEEP = "monitoring.checkpoint.keep_last_n=9"
SELDOM = "monitoring.checkpoint.save_interval=100"


@pytest.fixture
def disk(root_user: None, tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", at=tmp_path / "small") as folder:
        yield folder
        gc.collect()  # what is still open keeps it from being unmounted


def leave(disk: Path, free_bytes: int) -> Path:
    """Fill a disk up to so many free bytes; returns the file that does."""
    ballast = disk / "ballast"
    facts = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_bsize - free_bytes)
    return ballast


def train(root: Path, *overrides: str) -> int:
    try:
        return main(
            [
                *TINY,
                NO_PLOTS,
                f"hydra.run.dir={root}",
                "monitoring.checkpoint.keep_best=false",
                *overrides,
            ]
        )
    finally:
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, logging.FileHandler):  # it keeps the disk from being unmounted
                logging.getLogger().removeHandler(handler)
                handler.close()


def status(root: Path) -> str:
    return str(json.loads((root / "results.json").read_text())["status"])


def saved_steps(root: Path) -> list[int]:
    manager = CheckpointManager(root, enabled=False)
    steps = [found["step"] for found in manager.list_checkpoints()]
    assert all(manager.load_checkpoint(step) is not None for step in steps)
    return steps


@pytest.mark.slow
def test_the_last_state_takes_the_place_of_the_oldest(disk: Path, tmp_path: Path) -> None:
    root = disk / "run"
    assert (
        train(
            root,
            KEEP,
            "monitoring/checkpoint=sync",
            "monitoring.checkpoint.save_interval=2",
            "training.max_steps=6",
        )
        == 0
    )
    assert saved_steps(root) == [2, 4, 6]
    leave(disk, 40_000)  # for logs and results, not for a checkpoint
    assert train(root, KEEP, SELDOM, "training.max_steps=9") == 0
    assert status(root) == "completed"
    assert saved_steps(root) == [4, 6, 9]


def test_a_lost_end_is_an_error_with_the_remedy(
    disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = disk / "run"
    assert train(root, SELDOM, "training.max_steps=6") == 0
    assert saved_steps(root) == [6]
    ballast = leave(disk, 40_000)
    capfd.readouterr()
    assert train(root, SELDOM, "training.max_steps=9") == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last
    assert "the last steps 7 to 9 are not saved: No space left on device" in last
    assert "free space on the disk" in last
    assert "give the same command again: it continues after step 6" in last
    assert status(root) == "not_saved"
    assert saved_steps(root) == [6]  # the newest intact one was not given up
    ballast.unlink()
    assert train(root, SELDOM, "training.max_steps=9") == 0
    assert status(root) == "completed"
    assert saved_steps(root)[-1] == 9


def test_a_limit_on_the_size_of_files_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        assert train(tmp_path / "run", "training.max_steps=4") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the last steps 1 to 4 are not saved: File too large" in last
    assert (
        "(ulimit -f), or free space on the disk, then give the same command again: it starts anew"
        in last
    )
    assert status(tmp_path / "run") == "not_saved"


def test_a_signal_does_not_hide_a_lost_end(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = disk / "run"
    assert train(root, SELDOM, "training.max_steps=4") == 0
    leave(disk, 40_000)
    steps = 0

    def stop_at_third(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    handle = register_optimizer_step_post_hook(stop_at_third)
    try:
        assert train(root, SELDOM, "training.max_steps=500") == 1
    finally:
        handle.remove()
    last = capfd.readouterr().err.strip().splitlines()[-1]
    # The check of the settings tries a step of the optimizer, too.
    assert last.startswith("error: the last steps 5 to 6 are not saved: No space left on device")
    assert status(root) == "not_saved"


@pytest.mark.slow
def test_lost_results_are_an_error_with_the_remedy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"

    def be_in_the_way(*_: object) -> None:
        if (root / "logs").exists():
            (root / "results.json").mkdir(exist_ok=True)

    handle = register_optimizer_step_post_hook(be_in_the_way)
    try:
        assert train(root, "training.max_steps=4") == 1
    finally:
        handle.remove()
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "results.json is not written: it is no regular file; check the disk" in last
    assert saved_steps(root)[-1] == 4
    (root / "results.json").rmdir()
    assert train(root, "training.max_steps=4") == 0
    assert status(root) == "completed"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("could not create a primitive"),
            "not enough memory (could not create a primitive); free memory",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "not enough memory (DefaultCPUAllocator: can't",
        ),
        (MemoryError(), "not enough memory"),
        (
            OSError(errno.EIO, "Input/output error", "run/x"),
            "Input/output error (run/x); check the disk",
        ),
        (OSError(errno.ENOSPC, "No space", "/x"), "No space (/x); free space on the disk"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "run/x"),
            "No such file (run/x); check the disk",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "elsewhere/x"), ""),
        (RuntimeError("a defect"), ""),
    ],
)
def test_refusals_of_the_machine_are_reported_in_one_line(error: Exception, line: str) -> None:
    refusal = describe_refusal(error, Path("run"))
    assert refusal.startswith(line)
    assert bool(refusal) == bool(line)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EMFILE, ""), "raise the limit on open files (ulimit -n)"),
        (RuntimeError("can't start new thread"), "raise the limit on processes (ulimit -u)"),
    ],
)
def test_a_limit_is_named_with_the_command_that_raises_it(error: Exception, remedy: str) -> None:
    refused = refusal(error)
    assert refused is not None
    assert find_remedy(refused) == remedy


@pytest.mark.slow
def test_an_incomplete_backup_is_an_error_and_is_completed_by_the_same_command(
    disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ballast = leave(disk, 30_000)
    command = [
        f"backup_url=file://{disk}/store",
        "monitoring.backup.retries=0",
        SELDOM,
        "training.max_steps=4",
    ]
    assert train(tmp_path / "run", *command) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the backup is not complete: step 4 and the results are only in" in last
    assert "give the same command again" in last
    ballast.unlink()
    assert train(tmp_path / "run", *command) == 0


@pytest.mark.slow
def test_a_run_that_cannot_begin_does_not_show_earlier_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    assert train(root, "training.max_steps=4") == 0
    assert "completed" in capfd.readouterr().out
    other = nn.Linear(2, 2)
    CheckpointManager(root).save_checkpoint(5, other, torch.optim.SGD(other.parameters()), [], {})
    assert train(root, "training.max_steps=6") == 1
    printed = capfd.readouterr().out
    assert "completed" not in printed
    assert "training did not begin" in printed


def test_a_disk_that_refuses_in_retention_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(tmp_path, 1, keep_last_n=1)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for step in range(1, 6):
            manager.save_checkpoint(step, model, optimizer, [], {})
    assert caplog.text.count("old checkpoints not removed") == 1
    assert "saved again" not in caplog.text
    manager.save_checkpoint(6, model, optimizer, [], {})
    assert [found["step"] for found in manager.list_checkpoints()] == [6]


def test_the_best_goes_only_if_there_is_no_other_way(disk: Path) -> None:
    model = nn.Linear(120, 120)  # 58 kB
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(disk, 1, keep_last_n=9, keep_every_n_steps=2, background=True)
    for step in range(1, 5):
        manager.save_checkpoint(step, model, optimizer, [], {}, is_best=step == 1)
        assert manager.wait()
    ballast = leave(disk, 0)
    for expected in ([1, 2, 4, 5], [1, 4, 5, 6], [1, 4, 6, 7], [1, 6, 7, 8]):
        step = expected[-1]
        assert manager.save_last(LiveState(step, model, optimizer, [], {}))
        assert [found["step"] for found in manager.list_checkpoints()] == expected
    larger = nn.Linear(200, 200)
    assert manager.save_last(LiveState(9, larger, torch.optim.SGD(larger.parameters()), [], {}))
    assert [found["step"] for found in manager.list_checkpoints()] == [8, 9]
    assert not manager.save_last(LiveState(10, nn.Linear(300, 300), optimizer, [], {}))
    assert [found["step"] for found in manager.list_checkpoints()] == [9]
    assert "No space left on device" in manager.problem
    ballast.unlink()


@pytest.mark.slow
def test_without_memory_for_a_copy_training_waits_for_the_disk(tmp_path: Path) -> None:
    code = """
import resource, torch
from torch import nn
from spectral_exp.monitoring import CheckpointManager
model = nn.Linear(4000, 4000, bias=False)  # 64 MB
optimizer = torch.optim.SGD(model.parameters())
small = nn.Linear(2, 2)
CheckpointManager("small", background=True).save_checkpoint(1, small, torch.optim.SGD(small.parameters()), [], {})
manager = CheckpointManager("run", 1, background=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), -1))
manager.prepare(model, optimizer)
manager.wait()
for step in (1, 2, 3):
    print(bool(manager.save_checkpoint(step, model, optimizer, [], {})), manager.wait(), manager.durable_step)
print(manager.failures)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.split("\n")[:4] == [
        "True True 0",
        "True True 2",
        "True True 3",
        "1",
    ], done.stderr
    assert done.stderr.count("not enough memory") + done.stderr.count("Cannot allocate memory") == 1


@pytest.mark.slow
@pytest.mark.parametrize("free_bytes", every_in_ci(2, [0, 4096, 8192, 16384]))
def test_resuming_on_a_full_disk_is_one_line(
    disk: Path, free_bytes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    root = disk / "run"
    assert train(root, SELDOM, "training.max_steps=4") == 0
    before = saved_steps(root)
    ballast = leave(disk, free_bytes)
    capfd.readouterr()
    assert train(root, SELDOM, "training.max_steps=6") in {1, 2}
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out
    assert "No space left on device" in printed.err.strip().splitlines()[-1]
    assert saved_steps(root) == before
    ballast.unlink()
    assert train(root, SELDOM, "training.max_steps=6") == 0
    assert status(root) == "completed"
