"""Real companions of real runs: killed, orphaned, interrupted, and with servers that hang."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from spectral_exp.__main__ import main
from spectral_exp.core.files import follow
from spectral_exp.monitoring import Companion, MetricsLogger, SystemMetrics
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from tests.conftest import NO_PLOTS, TINY, python, train
from tests.monitoring.companion.hook_server import HookServer, hook_server

__all__ = ["hook_server"]

pytestmark = pytest.mark.slow
needs_tensorboard = pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")

SHORT = (*TINY, NO_PLOTS, "monitoring/spectra=off", "training.sample_tokens=0")
LONG = (*SHORT, "training.max_steps=100000", "training.eval_interval=100000")
SYSTEM = ("monitoring/system=default", "monitoring.system.interval_s=0.3")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`."""
    end_s = time.monotonic() + 100
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within 100 s: {what}")


def companions_of(root: Path) -> list[psutil.Process]:
    """The companion processes of a run, which have its directory in no argument."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "companion.process" in " ".join(process.info["cmdline"] or []):
            try:
                files = {file.path for file in process.open_files()}
                where = process.cwd()
            except psutil.Error:
                continue
            if where == str(root.parent) or any(str(root) in path for path in files):
                found.append(process)
    return found


def sent_steps(root: Path) -> int:
    """The last step that the mirror has sent, -1 without one."""
    files = list(RunPaths(root).companion.glob("tensorboard-*.json"))
    try:
        return int(json.loads(files[0].read_text())["step"]) if files else -1
    except ValueError:
        return -1


def event_steps(folder: Path) -> list[int]:
    """The steps of the losses that TensorBoard shows, by its rule for several files."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    steps: list[int] = []
    for file in sorted(folder.glob("events.out.tfevents.*"), key=str):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.session_log.status == SessionLog.SessionStatus.Value("START"):
                steps = [step for step in steps if step < event.step]
            steps += [event.step for value in event.summary.value if value.tag == "loss"]
    return steps


def logged_steps(root: Path) -> list[int]:
    lines = RunPaths(root).metrics_file.read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@contextmanager
def training(cwd: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", "hydra.run.dir=run", *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_companion_costs_nothing_and_mirror_completes_what_it_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    with training(tmp_path, *LONG, *SYSTEM, "mirrors=[tensorboard]") as process:
        wait_until(lambda: sent_steps(root) > 2, "the companion sends")
        wait_until(RunPaths(root).system_file.exists, "the companion measures")
        (companion,) = companions_of(root)
        assert "torch" not in "".join(file.path for file in companion.memory_maps())
        companion.kill()
        last = len(logged_steps(root))
        wait_until(lambda: len(logged_steps(root)) > last + 5, "training goes on")
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 128 + signal.SIGINT, output
        assert "the companion process has ended early (signal 9)" in output
    assert sent_steps(root) < logged_steps(root)[-1]
    assert main(["mirror", str(root), "--to", "tensorboard"]) == 0
    assert event_steps(RunPaths(root).tensorboard) == logged_steps(root)
    assert capsys.readouterr().out == f"{root} -> tensorboard\n"


def test_the_companion_of_a_killed_run_delivers_the_rest_and_ends(
    tmp_path: Path, hook_server: HookServer
) -> None:
    root = tmp_path / "run"
    address = f"alerts=['webhook:{hook_server.url}/hook']"
    with training(tmp_path, *LONG, "mirrors=[tensorboard]", address) as process:
        saved = RunPaths(root).latest_link
        wait_until(lambda: sent_steps(root) > 2 and follow(saved), "a checkpoint")
        (companion,) = companions_of(root)
        process.kill()
        process.wait()
        psutil.wait_procs([companion], timeout=100)
        assert not companion.is_running()
    assert [message["event"] for message in hook_server.received] == ["failed"]
    assert event_steps(RunPaths(root).tensorboard) == logged_steps(root)
    # The next attempt cuts metrics back, and the mirror follows without a zigzag.
    with training(tmp_path, *LONG, "mirrors=[tensorboard]", address) as process:
        before = logged_steps(root)[-1]
        wait_until(lambda: sent_steps(root) > before + 2, "the second attempt")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=100)
    assert event_steps(RunPaths(root).tensorboard) == logged_steps(root)
    events = [message["event"] for message in hook_server.received]
    assert events == ["failed", "interrupted"]
    record = "".join(file.read_text() for file in root.rglob("*.yaml"))
    assert hook_server.url not in record + RunPaths(root).config_file.read_text()


def test_a_server_that_hangs_delays_neither_training_nor_its_end_beyond_the_deadline(
    tmp_path: Path, hook_server: HookServer
) -> None:
    done = train(
        *SHORT,
        "hydra.run.dir=run",
        f"alerts=['webhook:{hook_server.url}/silent']",
        "monitoring.companion.exit_deadline_s=0.5",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert hook_server.connections == 1
    wait_until(lambda: not companions_of(tmp_path / "run"), "the companion ends by itself")
    text = RunPaths(tmp_path / "run").companion_log.read_text()
    assert "alert by webhook at 127.0.0.1: not everything was sent" in text
    results = json.loads(RunPaths(tmp_path / "run").results_file.read_text())
    assert results["status"] == "completed"


def test_a_run_that_moves_to_another_process_ends_the_companion(tmp_path: Path) -> None:
    """Also if a process that training has started keeps the pipe open."""
    root = tmp_path / "run"
    root.mkdir()
    code = (
        "import os, sys, time; from spectral_exp.monitoring import Companion, SystemMetrics;"
        "from spectral_exp.runs.lock import RunLock; lock = RunLock('run'); lock.acquire();"
        "c = Companion('run', system=SystemMetrics(interval_s=0.2)); c.start();"
        "os.set_inheritable(c._process._input.fileno(), True); child = os.fork();"
        "child or (time.sleep(200), os._exit(0)); print(child, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            wait_until(RunPaths(root).system_file.exists, "the companion measures")
            (companion,) = companions_of(root)
            process.kill()
            process.wait()
            psutil.wait_procs([companion], timeout=100)
            assert not companion.is_running(), "while the child holds the pipe"
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_cannot_be_measured_or_logged_stops_nothing(
    tmp_path: Path, hook_server: HookServer
) -> None:
    """A run without a folder has no disk to measure; a bad record fails in its handler."""
    address = f"webhook:{hook_server.url}/hook"
    with Companion(tmp_path / "run", alerts=[address], system=SystemMetrics(interval_s=0.2)):
        logging.getLogger("spectral_exp.core.append_file").error("cannot write %s: full", "x")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging, "raiseExceptions", False)
            logging.getLogger("spectral_exp.any").warning("%d", "no number")
        wait_until(lambda: hook_server.received, "the alert")
    assert [message["event"] for message in hook_server.received] == ["disk"]
    assert "cannot write x: full" in hook_server.received[0]["text"]


def test_a_message_never_goes_to_a_file_that_has_the_number_of_the_closed_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    companion = Companion(tmp_path, alerts=["webhook:http://127.0.0.1:9/x"], exit_deadline_s=0)
    companion.start()
    closing = threading.Thread(target=companion.close, kwargs={"waits": False})
    modes: list[int] = []
    original = os.write

    def write(descriptor: int, content: bytes) -> int:
        if closing.ident is None:
            closing.start()
            closing.join(0.2)
        modes.append(os.fstat(descriptor).st_mode)
        return original(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    companion.report(logging.makeLogRecord({"name": "spectral_exp.any", "msg": "text"}))
    closing.join()
    assert [stat.S_ISFIFO(mode) for mode in modes] == [True, True]
    wait_until(lambda: not companions_of(tmp_path), "the companion ends by itself")


def test_a_loop_without_log_handlers_still_prints_its_warnings(tmp_path: Path) -> None:
    code = (
        "import logging; from spectral_exp.monitoring import Companion\n"
        "with Companion('run', alerts=['webhook:http://127.0.0.1:9/x'], exit_deadline_s=9):\n"
        "    logging.getLogger('spectral_exp.any').warning('printed')"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "printed\n")


def test_no_companion_runs_for_nothing_and_own_loops_have_one(tmp_path: Path) -> None:
    with Companion(tmp_path, system=SystemMetrics(enabled=False)) as companion:
        assert not companion.enabled
        assert not companions_of(tmp_path)
    with RunLock(tmp_path), MetricsLogger(tmp_path / "logs", 1) as logger:
        system = SystemMetrics(interval_s=0.2)
        with Companion(tmp_path, ["tensorboard"], system=system) as companion:
            logger.log_metrics(1, {"loss": 1.0})
            wait_until(RunPaths(tmp_path).system_file.exists, "a line")
    assert event_steps(RunPaths(tmp_path).tensorboard) == [1]


@pytest.mark.exhaustive
def test_a_sweep_says_that_it_is_done(tmp_path: Path, hook_server: HookServer) -> None:
    sweep = (
        *("-m", *SHORT, "seed=1,2", "sweep=both", "training.max_steps=2"),
        f"alerts=['webhook:{hook_server.url}/hook']",
    )
    done = train(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [(message["event"], message["run"]) for message in hook_server.received]
    assert sorted(kind for kind, _ in events) == ["finished", "finished", "sweep_done"]
    assert events[-1] == ("sweep_done", "both")
    train(*sweep, cwd=tmp_path)
    assert len(hook_server.received) == 3, "there was nothing to do"
