from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.runs import layout
from spectral_exp.runs import lock as run_lock
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import LostRunError, RunLock

HOLDER = """
import sys
from spectral_exp.runs.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the run directory `tmp_path`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_owner(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on \S+ since \d{{4}}-"):
        RunLock(tmp_path).acquire()


def test_lock_vanishes_with_a_killed_owner(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_lock_is_released_and_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path):
            with pytest.raises(UserError, match=f"process {os.getpid()} "):
                RunLock(tmp_path).acquire()
            assert [path.name for path in tmp_path.iterdir()] == [layout.LOCK_NAME]
        assert list(tmp_path.iterdir()) == []


def test_without_flock_the_file_itself_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "fcntl", None)
    with RunLock(tmp_path), pytest.raises(UserError, match="in use by"):
        RunLock(tmp_path).acquire()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    owner = {"host": socket.gethostname(), "pid": dead.pid, "since": "then"}
    RunPaths(tmp_path).lock_file.write_text(json.dumps(owner))
    with RunLock(tmp_path):
        pass


def test_the_lock_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot lock"):
        RunLock(tmp_path / "missing").acquire()


# --- a directory that goes away ----------------------------------------------------------------


def test_a_held_lock_passes_its_check(tmp_path: Path) -> None:
    RunLock(tmp_path).check()
    with RunLock(tmp_path) as lock:
        before = lock.path.read_bytes()
        lock.check()
        assert lock.path.read_bytes() == before


def test_a_moved_directory_is_lost_and_its_lock_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with RunLock(run) as lock:
        run.rename(tmp_path / "moved")
        with pytest.raises(
            LostRunError, match=r"run was moved or removed .* resume=<the folder of the run now>"
        ):
            lock.check()
        # Nobody else can take the directory where it lies now.
        with pytest.raises(UserError, match="in use by"):
            RunLock(tmp_path / "moved").acquire()
    assert not run.exists()


@pytest.mark.parametrize("copied", [False, True], ids=["new", "copied"])
def test_the_lock_of_a_successor_stays(tmp_path: Path, copied: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock = RunLock(run)
    lock.acquire()
    if copied:
        run.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", run)
    else:
        shutil.rmtree(run)
        run.mkdir()
    with RunLock(run) as successor:
        with pytest.raises(LostRunError):
            lock.check()
        lock.release()
        successor.check()
        with pytest.raises(UserError, match="in use by"):
            RunLock(run).acquire()


def test_a_lock_file_that_was_removed_by_hand_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLock(tmp_path) as lock:
        lock.path.unlink()
        lock.check()
        assert "was removed during the run" in caplog.text
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            RunLock(tmp_path).acquire()
        lock.path.unlink()
        with RunLock(tmp_path), pytest.raises(LostRunError):
            lock.check()


# --- what lies in its place --------------------------------------------------------------------


def test_a_link_or_pipe_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    RunPaths(run).lock_file.symlink_to(victim)
    with pytest.raises(UserError, match="it is a link, which is not followed inside a run"):
        RunLock(run).acquire()
    assert victim.read_text() == "precious"
    RunPaths(run).lock_file.unlink()
    os.mkfifo(RunPaths(run).lock_file)
    with pytest.raises(UserError, match="Is a FIFO, not a file"):
        RunLock(run).acquire()


@pytest.mark.parametrize(
    "content", ['{"pid": "x", "host": 1}', '{"pid": 1, "host": "\\u001b[2J", "since": ""}', "[]"]
)
def test_a_foreign_lock_file_is_not_printed(
    tmp_path: Path, holder: subprocess.Popen[str], content: str
) -> None:
    RunPaths(tmp_path).lock_file.write_text(content)
    with pytest.raises(UserError, match="in use by another process;"):
        RunLock(tmp_path).acquire()


# --- whether a run is running ------------------------------------------------------------------


def test_the_liveness_of_an_owner(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert run_lock.is_running(tmp_path)
    assert run_lock.is_running_elsewhere(tmp_path)
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie works on nothing
    assert not run_lock.is_running(tmp_path)
    holder.wait()
    assert not run_lock.is_running(tmp_path)
    with RunLock(tmp_path):
        assert run_lock.is_running(tmp_path)
        assert not run_lock.is_running_elsewhere(tmp_path)
    assert not run_lock.is_running(tmp_path)


def test_an_owner_on_another_host_lives_while_it_logs(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    owner = {"host": "elsewhere", "pid": os.getpid(), "since": "2026-01-01T00:00:00"}
    paths.lock_file.write_text(json.dumps(owner))
    assert run_lock.is_running_elsewhere(tmp_path)
    os.utime(paths.lock_file, (0, 0))
    assert not run_lock.is_running_elsewhere(tmp_path)
    paths.logs.mkdir()
    paths.metrics_file.touch()
    assert run_lock.is_running_elsewhere(tmp_path)
