"""Signals, terminals and surroundings of the training command: real processes that lose something
on their way."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from spectral_exp.core import json_files
from spectral_exp.core.append_file import AppendFile
from spectral_exp.runs.lock import RunLock
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, ROOT, TINY, train
from tests.core.test_child_process import is_gone
from tests.s3_server import eventually
from tests.test_train import assert_same_state

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="signals, terminals and /proc of Linux"
)

ENDLESS = (
    "+experiment=wave",
    *TINY,
    NO_PLOTS,
    "training.max_steps=1000000",
    "training.eval_interval=1000000",
    "monitoring.checkpoint.save_interval=1000000",
)
TRAIN = (sys.executable, "-m", "spectral_exp.train")


def lines_of(run: Path) -> int:
    try:
        return (run / "logs/metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def trains_on(process: subprocess.Popen[Any], run: Path) -> None:
    """Return once the run has logged more lines than it has now."""
    before = lines_of(run)
    eventually(lambda: lines_of(run) > before + 1 or process.poll() is not None, 120.0)
    assert process.poll() is None


def assert_saved(run: Path) -> None:
    """The state of the last step is there, every line up to it is logged, and `train.log` ends with
    the reason."""
    results = json.loads((run / "results.json").read_text())
    steps = results["totals"]["steps"]
    assert results["status"] == "interrupted"
    assert [path.name for path in (run / "checkpoints").glob("*_step_*.pt")] == [
        f"checkpoint_step_{steps}.pt"
    ]
    assert lines_of(run) == steps // 2
    assert "status      interrupted" in (run / "train.log").read_text()


@contextmanager
def started(run: Path, *overrides: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """An endless training that has logged its first lines; killed at the end, if it still goes
    on."""
    command = [*TRAIN, *ENDLESS, f"hydra.run.dir={run}", *overrides]
    redirect = options.pop("redirect", None)
    if redirect is not None:
        command = ["bash", "-c", f'exec "$0" "$@" {redirect}', *command]
    process = subprocess.Popen(command, cwd=run.parent, **{"stdout": subprocess.DEVNULL, **options})
    try:
        trains_on(process, run)
        yield process
    finally:
        process.kill()
        process.wait()


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2"])
def test_every_signal_that_asks_to_stop_saves_first(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    with started(tmp_path / "run") as process:
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert_saved(tmp_path / "run")


# Python runs this when a process starts.
INTERRUPTS_IMPORT = """
import os, signal, sys

def interrupt(event, arguments):
    if event == "import" and arguments[0] == os.environ.get("TEST_INTERRUPT_AT"):
        os.environ["TEST_INTERRUPT_AT"] = ""
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "module"),
    [
        (["-m", "spectral_exp.train"], "hydra"),
        (["-m", "spectral_exp", "train"], "hydra"),
        (["-m", "spectral_exp", "compare"], "spectral_exp.results"),
        (["-m", "spectral_exp.train"], "spectral_exp.config.build"),
    ],
    ids=["train", "program", "other", "check"],
)
def test_ctrl_c_before_anything_begins_ends_with_one_line(
    program: list[str], module: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS_IMPORT)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    variables = {"PYTHONPATH": paths, "TEST_INTERRUPT_AT": module}
    done = subprocess.run(
        [sys.executable, *program, "+experiment=wave"], cwd=tmp_path,
        env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.split("\n") in (["", "stopped by SIGINT", ""], ["stopped by SIGINT", ""])
    assert done.stdout == ""
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_delivered_twice_saves_too(second: signal.Signals, tmp_path: Path) -> None:
    """As a batch system does, which sends SIGTERM twice within a tenth of a second."""
    with started(tmp_path / "run") as process:
        for number in (signal.SIGTERM, second, signal.SIGCONT, second):
            process.send_signal(number)
        # Of two that wait at the same time the system delivers the one with the lower number first.
        assert process.wait(60) in (128 + signal.SIGTERM, 128 + second)
    assert_saved(tmp_path / "run")


ENDLESS_STEP = """
import itertools, sys, time, types
from spectral_exp import train
from spectral_exp.core import signals
from spectral_exp.training.step import Stepper

ticks = itertools.count(0.0, 1.5)
signals.time = types.SimpleNamespace(monotonic=lambda: next(ticks))
take_step = Stepper.take_step

def take_endless_step(self, number):
    if number == 9:
        print("waiting", flush=True)
        time.sleep(600)
    return take_step(self, number)

Stepper.take_step = take_endless_step
sys.exit(train.main())
"""


@pytest.mark.slow
def test_a_second_signal_that_comes_later_ends_at_once(tmp_path: Path) -> None:
    """A step that does not end: for the process, 1.5 seconds pass between two signals."""
    command = [sys.executable, "-c", ENDLESS_STEP, *ENDLESS, "hydra.run.dir=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert "waiting\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGTERM)
        assert any("once more to stop at once" in line for line in process.stderr)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
    finally:
        process.kill()
    assert not list((tmp_path / "run").glob("checkpoints/*.pt"))
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_preempted_run_that_goes_on_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = ("training.max_steps=1000", "training.eval_interval=500")
    with started(tmp_path / "run", *whole) as process:
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
        assert process.wait(60) == 143
    assert_saved(tmp_path / "run")
    assert train("resume=run", cwd=tmp_path).returncode == 0
    assert train(*ENDLESS, *whole, "hydra.run.dir=other", cwd=tmp_path).returncode == 0
    assert_same_state(tmp_path / "run", tmp_path / "other", 1000)


@pytest.mark.slow
def test_a_signal_during_a_git_command_stops_before_anything_is_recorded(tmp_path: Path) -> None:
    """git is no worker of a sweep that could be asked to save."""
    (tmp_path / "git").write_text("#!/bin/sh\ntouch asked\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*TRAIN, *ENDLESS, "hydra.run.dir=run"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    try:
        eventually((tmp_path / "asked").exists)
        (git,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=30)
        assert (process.returncode, printed) == (143, b"stopped by SIGTERM\n")
    finally:
        process.kill()
    assert is_gone(git.pid)
    assert not (tmp_path / "run/config.json").exists()


def test_a_signal_that_a_library_turns_into_another_error_is_no_failure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """OmegaConf does that where a signal interrupts it while it restores its flags."""

    def interrupted(*arguments: Any) -> list[str]:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            raise AttributeError("no parent")

    with monkeypatch.context() as patch:
        patch.setattr("spectral_exp.train.list_changed_settings", interrupted)
        code = main(["+experiment=wave", *TINY, NO_PLOTS, f"hydra.run.dir={tmp_path}/run"])
    assert code == 128 + signal.SIGHUP
    assert capfd.readouterr().err.splitlines() == ["stopped by SIGHUP"]
    assert main(["+experiment=wave", *TINY, NO_PLOTS, f"hydra.run.dir={tmp_path}/run"]) == 0


@pytest.mark.slow
def test_a_signal_that_is_not_among_the_chosen_ones_has_its_ordinary_effect(tmp_path: Path) -> None:
    with started(tmp_path / "run", "training.stop_signals=[SIGTERM]") as process:
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == -signal.SIGUSR1


def test_unknown_signals_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = "training.stop_signals=[SIGTERM,SIGKILL]"
    assert main(["+experiment=wave", *TINY, choice, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: training.stop_signals=SIGKILL must be a list of SIGTERM, ")
    assert not (tmp_path / "run").exists()


# --- terminals ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["2>&-", ">&-", "<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_without_an_output_training_goes_on(redirect: str, tmp_path: Path) -> None:
    with started(tmp_path / "run", redirect=redirect) as process:
        trains_on(process, tmp_path / "run")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert_saved(tmp_path / "run")


@pytest.mark.slow
def test_a_reader_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """`2>&1 | tee`, and Ctrl-C ends them both."""
    read_end, write_end = os.pipe()
    with started(tmp_path / "run", stdout=write_end, stderr=write_end) as process:
        os.close(write_end)
        os.close(read_end)
        trains_on(process, tmp_path / "run")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert_saved(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_closes_ends_the_run_in_order_or_not_at_all(
    nohup: bool, tmp_path: Path
) -> None:
    """The process leads the session of a terminal, which is closed under its progress bar."""
    terminal, name = pty.openpty()
    ours = os.ttyname(name)
    prepare = "import os, signal, sys; os.setsid(); "
    prepare += f"d = os.open({ours!r}, os.O_RDWR); [os.dup2(d, n) for n in range(3)]; "
    prepare += "signal.signal(signal.SIGHUP, signal.SIG_IGN); " if nohup else ""
    prepare += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", prepare, *TRAIN, *ENDLESS, "hydra.run.dir=run"]
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(terminal, 1 << 16):
                seen.extend(part)
        except OSError:
            return

    process = subprocess.Popen(command, cwd=tmp_path)
    threading.Thread(target=read, daemon=True).start()
    try:
        trains_on(process, tmp_path / "run")
        eventually(lambda: b"[----" in seen)
        os.close(name)
        # Closing it would wait for the thread that reads. The process at the other end notices the
        # end nevertheless.
        os.close(os.dup(terminal))
        os.dup2(os.open(os.devnull, os.O_RDWR), terminal)
        if nohup:
            trains_on(process, tmp_path / "run")
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == (143 if nohup else 129)
    finally:
        process.kill()
        process.wait()
    assert_saved(tmp_path / "run")


# --- sweeps ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda pid: os.killpg(pid, signal.SIGINT), 130),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGTERM), 143, marks=pytest.mark.exhaustive),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGHUP), 129, marks=pytest.mark.exhaustive),
        (lambda pid: os.kill(pid, signal.SIGTERM), 143),
        (lambda pid: os.kill(pid, signal.SIGKILL), -9),
    ],
    ids=["Ctrl-C", "SIGTERM to all", "SIGHUP to all", "SIGTERM", "SIGKILL"],
)
def test_every_job_of_a_parallel_sweep_is_saved_and_no_worker_stays(
    stop: Callable[[int], None], code: int, tmp_path: Path
) -> None:
    pytest.importorskip("joblib")
    jobs = [
        "-m",
        "seed=1,2,3",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "sweep=sweep",
    ]
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [*TRAIN, *jobs, *ENDLESS],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )

    def runs() -> list[Path]:
        return sorted((tmp_path / "outputs/sweep").glob("wave_seed*_????????"))

    try:
        eventually(lambda: sum(map(bool, map(lines_of, runs()))) == 2 or process.poll(), 150.0)
        workers = psutil.Process(process.pid).children(recursive=True)
        stop(process.pid)
        assert process.wait(60) == code
        for worker in workers:
            eventually(lambda pid=worker.pid: is_gone(pid))  # type: ignore[misc]
    finally:
        process.kill()
        process.wait()
    begun = [run for run in runs() if lines_of(run)]
    # The third job had not begun, and was not begun after that.
    assert [run.name[:10] for run in begun] == ["wave_seed1", "wave_seed2"]
    for run in begun:
        assert_saved(run)
    assert "Traceback" not in errors.read_text()


# --- surroundings ---------------------------------------------------------------------------------


def unshared(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a mount namespace of its own."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no mount namespaces here")
    return subprocess.run(
        [*prefix, "bash", "-c", script, *TRAIN], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_without_proc_a_run_is_made(tmp_path: Path) -> None:
    overrides = " ".join(f"'{o}'" for o in ("+experiment=wave", *TINY, "hydra.run.dir=run"))
    done = unshared(f'mount -t tmpfs none /proc && exec "$0" "$@" {overrides}', tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["hardware"]["memory_gb"] is None
    assert "status      completed" in done.stdout


def test_without_a_place_for_temporary_files_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert main(["+experiment=classic", *TINY, NO_PLOTS, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert "status      completed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_working_directory_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["+experiment=classic", *TINY, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == (
        "error: the working directory has been removed; change to one that exists\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_working_directory_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    """The run lies elsewhere, and even its plots are still drawn."""
    (tmp_path / "here").mkdir()
    process = subprocess.Popen(
        [*TRAIN, *(o for o in ENDLESS if o != NO_PLOTS), f"hydra.run.dir={tmp_path / 'run'}"],
        cwd=tmp_path / "here", stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        trains_on(process, tmp_path / "run")
        (tmp_path / "here").rmdir()
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 143
    finally:
        process.kill()
    assert_saved(tmp_path / "run")
    assert f"resume={tmp_path / 'run'}" in printed


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_lock_and_logs_have_the_mode_that_the_user_wants(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with RunLock(tmp_path) as lock:
            log = AppendFile(tmp_path / "logs/log")
            log.write(b"line\n")
            log.close()
            json_files.write_json_atomic(tmp_path / "config.json", {})
            for path in (lock.path, log.path, tmp_path / "config.json"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path
    finally:
        os.umask(before)
