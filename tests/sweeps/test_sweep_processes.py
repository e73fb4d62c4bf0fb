"""Sweeps as real processes: launchers that share jobs, die, and come again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from spectral_exp.commands.compare import main as compare
from spectral_exp.runs.layout import SWEEP_NAME
from tests.conftest import NO_PLOTS, TINY, train
from tests.s3_server import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux"),
]

SHORT = (*TINY, NO_PLOTS, "training.max_steps=2", "training.eval_interval=2")
ENDLESS = (
    *TINY,
    NO_PLOTS,
    "training.max_steps=1000000",
    "training.eval_interval=1000000",
    # More checkpoints would be skipped while one is written, and fill the pipe with messages.
    "monitoring.checkpoint.save_interval=100",
)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def attempts(sweep: Path) -> dict[str, int]:
    """Job -> number of times that it was begun."""
    return {
        file.parent.name: len(json.loads(file.read_text())["attempts"])
        for file in sweep.glob("*/config.json")
    }


def owners(sweep: Path) -> dict[Path, int]:
    """Folder of a job -> process that is training it."""
    texts = {file.parent: file.read_text() for file in sweep.glob("*/run.lock")}
    locks = {job: json.loads(text) for job, text in texts.items() if text}
    return {job: lock["pid"] for job, lock in locks.items() if psutil.pid_exists(lock["pid"])}


def statuses(sweep: Path) -> dict[str, str]:
    """Job without its hash -> status of its results."""
    return {
        file.parent.name[:-9]: json.loads(file.read_text())["status"]
        for file in sweep.glob("*/results.json")
    }


@pytest.mark.timeout(900)
def test_launchers_share_extend_and_repair_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "outputs/shared"
    one = start("-m", "+experiment=wave", "seed=1,2,3", *SHORT, "sweep=shared", cwd=tmp_path)
    other = start("seed=3,2,1", *SHORT, "+experiment=wave", "sweep=shared", cwd=tmp_path)
    for launcher in (one, other):
        printed, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, printed
        assert "outputs/shared: 3 of 3 jobs done" in printed
    assert list(attempts(sweep).values()) == [1, 1, 1]

    # The last lines are the comparison, with the numbers of `compare`, and the command.
    monkeypatch.chdir(tmp_path)
    assert compare(["outputs/shared"]) == 0
    table = capsys.readouterr().out
    assert table in printed
    assert printed.rpartition("python -m spectral_exp.train ")[2].endswith(" sweep=shared\n")

    # Two runs and the ledger are damaged; another order and one more seed.
    for job, name in zip(sorted(sweep.glob("wave_seed*"))[:2], ("results", "config"), strict=True):
        text = (job / f"{name}.json").read_text()
        (job / f"{name}.json").write_text(text[:-40])
    (sweep / SWEEP_NAME).write_text("{")
    done = train(
        "-m", "seed=4,1,2,3", "threads=1", "+experiment=wave", *SHORT, "sweep=shared", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "outputs/shared: 4 jobs, 1 done, 2 interrupted, 1 waiting" in done.stdout
    assert statuses(sweep) == {f"wave_seed{seed}": "completed" for seed in (1, 2, 3, 4)}
    assert "sweep.json.corrupt" in done.stderr
    # The record of the second was damaged, and with it its first attempt.
    assert sorted(attempts(sweep).values()) == [1, 1, 1, 2]


@pytest.mark.timeout(900)
def test_a_killed_launcher_and_a_killed_worker_cost_no_job(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    sweep = tmp_path / "outputs/killed"
    command = ["-m", "+experiment=wave", "seed=1,2", *ENDLESS, "sweep=killed"]
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    def checkpoints(seed: int) -> int:
        return len(list(sweep.glob(f"wave_seed{seed}_*/checkpoints/*_step_*.pt")))

    launcher = start(*command, cwd=tmp_path)
    try:
        eventually(lambda: checkpoints(1) or launcher.poll() is not None, 300.0)
    finally:
        launcher.kill()
        launcher.communicate()
    assert list(attempts(sweep).values()) == [1]

    # The other launcher continues that job beside a new one, and replaces a worker that is killed.
    launcher = start(*command, *parallel, cwd=tmp_path)
    try:
        eventually(
            lambda: (len(owners(sweep)) == 2 and checkpoints(2)) or launcher.poll() is not None,
            300.0,
        )
        pids = owners(sweep)
        assert len(set(pids.values())) == 2
        os.kill(pids[next(sweep.glob("wave_seed2_*"))], signal.SIGKILL)
        eventually(
            lambda: sorted(attempts(sweep).values())[-1:] == [3] or launcher.poll() is not None,
            300.0,
        )
        workers = psutil.Process(launcher.pid).children(recursive=True)
        trackers = [w.pid for w in workers if any("resource_tracker" in c for c in w.cmdline())]
        assert len(trackers) == 2
        assert all(blocks_or_catches(pid, signal.SIGUSR1) for pid in trackers)
        # As a batch system sends it: to all processes.
        os.killpg(launcher.pid, signal.SIGUSR1)
        printed, _ = launcher.communicate(timeout=60)
        assert launcher.returncode == 128 + signal.SIGUSR1, printed
    finally:
        launcher.kill()
        launcher.wait()
    assert "Traceback" not in printed
    assert "tracker" not in printed
    assert "warning: the launcher failed: " in printed
    assert "to continue the sweep: python -m spectral_exp.train -m " in printed
    for worker in workers:
        eventually(lambda pid=worker.pid: not psutil.pid_exists(pid))  # type: ignore[misc]
    assert "interrupted" in statuses(sweep).values()
    # What was in progress went on from its checkpoint.
    assert re.search(r"resuming after step \d+", printed)


def test_ctrl_c_while_workers_start_ends_in_order(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    launcher = start("+experiment=wave", "seed=1,2,3", *ENDLESS, *parallel, "sweep=x", cwd=tmp_path)
    started: dict[int, bool] = {}

    def find_workers() -> bool:
        for child in psutil.Process(launcher.pid).children():
            if any("popen_loky" in word for word in child.cmdline()):
                started.setdefault(child.pid, blocks_or_catches(child.pid, signal.SIGTERM))
        return len(started) == 2

    try:
        eventually(lambda: find_workers() or launcher.poll() is not None, 300.0)
        os.killpg(launcher.pid, signal.SIGINT)
        printed, _ = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode == 130, printed
    assert "Traceback" not in printed
    # The signal waits until a worker can handle it.
    assert list(started.values()) == [True, True]
    for worker in started:
        eventually(lambda pid=worker: not psutil.pid_exists(pid))  # type: ignore[misc]
    # No job began a step.
    assert not list(tmp_path.glob("outputs/x/*/logs/metrics.jsonl"))


def blocks_or_catches(pid: int, number: signal.Signals) -> bool:
    masks = re.findall(r"Sig(?:Blk|Cgt):\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize(
    ("launcher", "module"),
    [("submitit_local", "hydra_plugins.hydra_submitit_launcher"),
     ("ray", "hydra_plugins.hydra_ray_launcher")],
)  # fmt: skip
def test_other_launchers_run_and_skip_jobs(launcher: str, module: str, tmp_path: Path) -> None:
    pytest.importorskip(module, reason=f"hydra/launcher={launcher} is not installed")
    command = ["+experiment=wave", "seed=1,2", *SHORT, "sweep=other"]
    one = train(*command, f"hydra/launcher={launcher}", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert statuses(tmp_path / "outputs/other") == {
        "wave_seed1": "completed",
        "wave_seed2": "completed",
    }
    again = train(*command, f"hydra/launcher={launcher}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "outputs/other: 2 jobs, 2 done" in again.stdout
    assert list(attempts(tmp_path / "outputs/other").values()) == [1, 1]
