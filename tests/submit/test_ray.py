"""Jobs on a real Ray on this machine: stopped, killed, and continued by the same command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from spectral_exp.commands import submit
from spectral_exp.core.errors import UserError
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.lock import read_owner
from spectral_exp.runs.record import read_intact_config
from spectral_exp.submit.ray import find_ray
from tests.conftest import NO_PLOTS, TINY
from tests.s3_server import eventually


def ray_program() -> str:
    """The command `ray`, or nothing."""
    try:
        return find_ray(os.environ)
    except UserError:
        return ""


RAY = ray_program()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RAY, reason="ray is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes of Linux"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster, whose processes end with the test."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        ports = [opened.getsockname()[1] for opened in sockets]
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    # Ray's sockets lie in this folder, and names of sockets are short.
    folder = tempfile.mkdtemp(prefix="ray")
    process = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2",
            f"--temp-dir={folder}", "--include-dashboard=true",
            *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found = f"http://127.0.0.1:{ports[1]}"
    try:
        eventually(lambda: called("list", found).returncode == 0, 200.0)
        yield found
    finally:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for running in processes:
            if running.is_running():
                running.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def called(action: str, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Call `ray job`."""
    command = [RAY, "job", action, f"--address={address}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def status(address: str, job: str) -> str:
    """The sentence about the state of a job, as `Job 'x' succeeded`."""
    return called("status", address, job).stdout


def test_a_stopped_job_saves_and_the_same_command_continues_it(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = "training.sample_prompt='\"$HOME `x` é\n"
    endless = ("training.max_steps=1000000", "training.eval_interval=1000000")

    def submitted(*overrides: str) -> str:
        training = ["+experiment=wave", *TINY, NO_PLOTS, prompt, "experiment_id=run", *overrides]
        assert submit.main(["ray", f"--address={address}", "--cpus=1", *training]) == 0
        printed = capsys.readouterr().out
        (found,) = re.findall(r"^submitted job (\S+)$", printed, flags=re.MULTILINE)
        return str(found)

    run = tmp_path / "outputs/run"
    first = submitted(*endless, "monitoring.checkpoint.save_interval=1000000")
    eventually(lambda: (run / "logs/metrics.jsonl").exists(), 120.0)
    assert called("stop", address, first).returncode == 0
    (saved,) = (run / "checkpoints").glob("checkpoint_step_*.pt")
    step = int(saved.stem.rpartition("_")[2])

    second = submitted("training.max_steps=" + str(step + 10), "training.eval_interval=1000000")
    eventually(lambda: re.search("succeeded|failed", status(address, second)), 200.0)
    assert "succeeded" in status(address, second)
    log = called("logs", address, second).stdout
    assert f"resuming after step {step}" in log
    assert "status      completed" in log


def test_workers_share_a_sweep_and_finish_the_run_of_one_that_is_killed(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    training = [
        "-m", "+experiment=wave", "seed=1,2", *TINY, NO_PLOTS, "training.max_steps=300",
        "training.eval_interval=300", "monitoring.checkpoint.save_interval=10", "sweep=shared",
    ]  # fmt: skip
    options = ["ray", f"--address={address}", "--cpus=1", "--workers=2", "--"]
    assert submit.main([*options, *training]) == 0
    (listed,) = re.findall(r"^submitted jobs (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    jobs = listed.split(", ")
    sweep = tmp_path / "outputs/shared"

    def saved() -> list[Path]:
        return [path.parent.parent for path in sweep.glob("*/checkpoints/checkpoint_latest.pt")]

    eventually(saved, 120.0)
    killed = saved()[0]
    owner = read_owner(killed)
    assert owner is not None
    os.kill(owner["pid"], signal.SIGKILL)

    def ends() -> list[str]:
        found = [re.search("succeeded|failed", status(address, job)) for job in jobs]
        return [match[0] for match in found if match]

    eventually(lambda: len(ends()) == 2, 200.0)
    assert sorted(ends()) == ["failed", "succeeded"]
    runs = {path: read_intact_config(path / "config.json") for path in find_runs([sweep]).runs}
    assert sorted(run["config"]["seed"] for run in runs.values()) == [1, 2]
    assert {path: len(run["attempts"]) for path, run in runs.items()} == {
        path: 1 + (path == killed) for path in runs
    }
    results = [json.loads((path / "results.json").read_text()) for path in runs]
    assert [result["status"] for result in results] == ["completed"] * 2
