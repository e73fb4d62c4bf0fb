"""Storage that refuses: full, failing, forbidden, cut off from power."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from spectral_exp.core.errors import UserError
from spectral_exp.monitoring import CheckpointManager, MetricsLogger
from tests.conftest import every_in_ci
from tests.crash.conftest import Zygote, mounted, points, report_count
from tests.crash.scenarios import library_loop
from tests.crash.test_last_save import train

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_WITHOUT_FLUSHING = 2
# Calls that a failing disk refuses. If reading fails too, loading warns and tries
# older files.
_WRITING = {
    "write",
    "pwrite64",
    "fsync",
    "rename",
    "symlink",
    "unlink",
    "fallocate",
    "ftruncate",
    "mkdir",
}


def fail_at_every_call(zygote: Zygote, error: str, folder: Path, at_most: int | None) -> None:
    expected = zygote.run("library", folder / "undisturbed").text
    chosen = [point for point in points(zygote, "library", folder, None) if point[0] in _WRITING]
    chosen = chosen[:: max(1, len(chosen) // at_most)] if at_most else chosen
    failed = []
    for number, (call, count) in enumerate(chosen):
        root = folder / f"{number}"
        attempt = zygote.run("library", root, "-e", f"inject={call}:error={error}:when={count}")
        # Training goes on: the one refusal changes nothing of what comes out.
        if attempt.text != expected:
            failed.append((call, count, attempt.text))
    assert not failed, failed[:3]
    report_count(f"{error} at system calls", len(chosen), len(chosen) - len(failed))


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EACCES"])
def test_one_refusal_at_a_sample_of_calls(zygote: Zygote, error: str, tmp_path: Path) -> None:
    fail_at_every_call(zygote, error, tmp_path, at_most=12)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", every_in_ci(4, ["ENOSPC", "EIO", "EACCES", "EROFS"]))
def test_one_refusal_at_every_call(zygote: Zygote, error: str, tmp_path: Path) -> None:
    fail_at_every_call(zygote, error, tmp_path, at_most=None)


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_disk_that_never_takes_anything(zygote: Zygote, error: str, tmp_path: Path) -> None:
    attempt = zygote.run("library", tmp_path / "run", "-e", f"inject=fsync:error={error}")
    assert (
        attempt.text == "no checkpoint of step 8: None"
    )  # it trained to the end, and could save nothing
    assert attempt.durable == 0
    assert not list((tmp_path / "run/checkpoints").glob("*.pt"))
    assert (
        zygote.run("library", tmp_path / "run").text
        == zygote.run("library", tmp_path / "other").text
    )


@pytest.mark.slow
def test_a_disk_that_writes_a_part_at_a_time(zygote: Zygote, tmp_path: Path) -> None:
    attempt = zygote.run("short writes", tmp_path / "run")
    assert attempt.durable == 8
    assert attempt.text == zygote.run("library", tmp_path / "undisturbed").text


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize("free_kb", [0, 8, 20, 28, 40, 80, 150])
def test_a_disk_that_runs_full(zygote: Zygote, tmp_path: Path, free_kb: int) -> None:
    expected = zygote.run("library", tmp_path / "undisturbed").text
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", at=tmp_path / "small") as small:
        ballast = small / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (1024 - free_kb) * 1024 - 16384)
        attempt = zygote.run("library", small / "run")
        assert attempt.signal == 0
        assert "Error" not in attempt.text
        found = CheckpointManager(small / "run", enabled=False).load_latest_checkpoint()
        assert (found["step"] if found else 0) >= attempt.durable
        ballast.unlink()
        assert zygote.run("library", small / "run").text == expected


def cut_power(disk: Path) -> None:
    """Lose all data that was never synchronized, which is only in memory."""
    assert disk.stat().st_dev != disk.parent.stat().st_dev  # never of any other file system
    folder = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(folder, _SHUTDOWN, struct.pack("<I", _WITHOUT_FLUSHING))
    os.close(folder)


def new_disk(image: Path) -> Path:
    """The image of an empty ext4."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    return image


def files_of(run: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, links with their targets."""
    return {
        str(path.relative_to(run)): str(path.readlink()).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize(
    ("scenario", "cuts"),
    [("library", 4), ("background", 4), pytest.param("run", 2, marks=pytest.mark.slow)],
)
def test_power_cuts(zygote: Zygote, scenario: str, cuts: int, tmp_path: Path) -> None:
    expected = zygote.run(scenario, tmp_path / "undisturbed").text
    survived, last_step = 0, 12 if scenario == "run" else 8
    for number in range(cuts):
        image = new_disk(tmp_path / f"image{number}")
        with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
            zygote.run("library", disk / "before")
            attempt = zygote.run(scenario, disk / "run")
            (disk / "never synchronized").write_bytes(b"x" * 10_000)
            before = files_of(disk / "run")
            cut_power(disk)
        with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
            after = files_of(disk / "run")
            assert {name: after.get(name) for name in before} == before
            # What was removed may be back: pruned checkpoints, and a lock that nobody holds.
            removed = ("checkpoints/checkpoint_step_", "run.lock")
            assert all(name.startswith(removed) for name in after.keys() - before.keys())
            found = CheckpointManager(disk / "run", enabled=False).load_latest_checkpoint()
            durable = found is not None and found["step"] >= attempt.durable == last_step * (
                scenario != "run"
            )
            survived += durable and not (disk / "never synchronized").exists()
            assert zygote.run(scenario, disk / "run").text.split("\n")[0] == expected.split("\n")[0]
        image.unlink()
    report_count(f"power cuts, {scenario}", cuts, survived)


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("step", [2, 6])
def test_a_power_cut_leaves_the_metrics_of_every_step_before_a_durable_checkpoint(
    tmp_path: Path, background: bool, step: int
) -> None:
    image = new_disk(tmp_path / "image")
    with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:

        def cut(durable_step: int) -> None:
            if durable_step == step:
                cut_power(disk)

        with contextlib.suppress(OSError, UserError):  # the disk is gone
            library_loop(disk / "run", cut, background)
    with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
        found = CheckpointManager(disk / "run", enabled=False).load_latest_checkpoint()
        assert found is not None
        assert found["step"] >= step
        steps = [entry["step"] for entry in MetricsLogger(disk / "run/logs").load_metrics()]
        assert steps[: found["step"]] == list(range(1, found["step"] + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("root_user")
def test_a_disk_that_goes_away_is_an_error_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """While a run trains on it, and before that, when Hydra's files are written."""
    image = new_disk(tmp_path / "image")
    with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
        (disk / "run/.hydra").mkdir(parents=True)
        subprocess.run(["chattr", "+i", str(disk / "run/.hydra")], check=True)
        assert train(disk / "run") == 1
        printed = capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "Operation not permitted" in printed.err.splitlines()[-1]
        assert "check the disk, then give the same command again" in printed.err.splitlines()[-1]
        subprocess.run(["chattr", "-i", str(disk / "run/.hydra")], check=True)
        steps = 0

        def cut(*_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:  # the first is one of the check of the settings
                cut_power(disk)

        handle = register_optimizer_step_post_hook(cut)
        try:
            assert train(disk / "run") == 1
        finally:
            handle.remove()
            gc.collect()  # what is still open keeps the disk from being unmounted
        printed = capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert (
            "the last steps 1 to 12 are not saved: Input/output error"
            in printed.err.splitlines()[-1]
        )
