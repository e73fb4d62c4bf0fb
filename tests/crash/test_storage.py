"""Storage that refuses: full, failing, forbidden, cut off from power."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from spectral_exp.monitoring import CheckpointManager
from tests.crash.conftest import Zygote, mounted, points, tell

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_WITHOUT_FLUSHING = 2
# Calls that a failing disk refuses. Reading is refused at loading too: that is told and tried with older files.
_WRITING = {"write", "pwrite64", "fsync", "rename", "symlink", "unlink", "fallocate", "ftruncate", "mkdir"}


def fail_at_every_call(
    zygote: Zygote, error: str, folder: Path, capsys: pytest.CaptureFixture[str], at_most: int | None
) -> None:
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
    tell(capsys, f"{error} at system calls", len(chosen), len(chosen) - len(failed))


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EACCES"])
def test_one_refusal_at_a_sample_of_calls(
    zygote: Zygote, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at_every_call(zygote, error, tmp_path, capsys, at_most=12)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EACCES", "EROFS"])
def test_one_refusal_at_every_call(
    zygote: Zygote, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_at_every_call(zygote, error, tmp_path, capsys, at_most=None)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_disk_that_never_takes_anything(zygote: Zygote, error: str, tmp_path: Path) -> None:
    attempt = zygote.run("library", tmp_path / "run", "-e", f"inject=fsync:error={error}")
    assert attempt.text == "no checkpoint of step 8: None"  # it trained to the end, and could save nothing
    assert attempt.durable == 0
    assert not list((tmp_path / "run/checkpoints").glob("*.pt"))
    assert zygote.run("library", tmp_path / "run").text == zygote.run("library", tmp_path / "other").text


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


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize("scenario", ["library", "background"])
def test_power_cuts(zygote: Zygote, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    expected = zygote.run(scenario, tmp_path / "undisturbed").text
    survived, cuts = 0, 6
    for number in range(cuts):
        image = tmp_path / f"image{number}"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
            # What was never synchronised is in memory only, and goes with the power.
            zygote.run("library", disk / "before")
            attempt = zygote.run(scenario, disk / "run")
            (disk / "never synchronised").write_bytes(b"x" * 10_000)
            folder = os.open(disk, os.O_RDONLY)
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("<I", _WITHOUT_FLUSHING))
            os.close(folder)
        with mounted("-o", "loop", str(image), at=tmp_path / "disk") as disk:
            found = CheckpointManager(disk / "run", enabled=False).load_latest_checkpoint()
            durable = found is not None and found["step"] >= attempt.durable == 8
            survived += durable and not (disk / "never synchronised").exists()
            assert zygote.run(scenario, disk / "run").text.split("\n")[0] == expected.split("\n")[0]
        image.unlink()
    tell(capsys, f"power cuts, {scenario}", cuts, survived)
