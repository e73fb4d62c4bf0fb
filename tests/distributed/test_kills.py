"""A process is killed at the worst moments: all end, and the same command ends with equal bits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, ROOT, TINY
from tests.distributed.test_equality import differences, metrics_of
from tests.distributed.test_fsdp_runs import ALIGNED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of processes"),
]

KILL_AT, MARK = "TEST_KILL_AT", "TEST_KILL_MARK"

# Python runs this when a process starts. A hook sees each operation before it is done.
HOOK = f"""
import os, signal, sys

rank, event, path = os.environ.get("{KILL_AT}", "none:none:none").split(":")

def kill(happening, arguments):
    if happening == event and any(str(argument).endswith(path) for argument in arguments):
        os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK") == rank:
    sys.addaudithook(kill)
"""

SETTINGS = [
    "+experiment=wave_rgd",
    *TINY,
    *(f"{name}={value}" for name, value in ALIGNED.items()),
    NO_PLOTS,
    "monitoring/spectra=off",
    "monitoring/checkpoint=sync",
    "monitoring.checkpoint.save_interval=4",
    "monitoring.metrics.log_interval=1",
    "training.eval_interval=1000",
    "hydra.run.dir=run",
]
TRAIN = [sys.executable, "-m", "spectral_exp.train"]
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    *("-m", "spectral_exp.train"),
]
OWN = [*TRAIN, "distributed.nproc=2"]
SHARDED = [
    *("distributed.strategy=fsdp", "distributed.exact=true"),
    "monitoring.checkpoint.format=sharded",
]


class Kill(NamedTuple):
    """A rank that is killed when it is about to do something to a file."""

    rank: int
    operation: str
    path: str
    newest: int
    """The newest checkpoint that is left."""


BEFORE_THE_GROUP = Kill(0, "open", "run/run.lock", 0)
WHILE_RANK_0_SAVES = Kill(0, "os.rename", "/checkpoint_step_8.pt", 4)
WHILE_RANK_1_SAVES = Kill(1, "os.rename", ".step_8.tmp/shard_1.pt", 4)
WHILE_RANK_0_PUBLISHES = Kill(0, "os.rename", ".step_8.tmp", 4)


def alive(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with a mark, by whomever."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def run(command: list[str], cwd: Path, kill: Kill | None = None) -> tuple[int, str]:
    """Run a command; return its exit code and messages once none of its processes is left."""
    mark = str(cwd)
    place = "" if kill is None else f"{kill.rank}:{kill.operation}:{kill.path}"
    paths = os.pathsep.join([str(cwd / "hook"), str(ROOT)])
    variables = {"PYTHONPATH": paths, MARK: mark, **({KILL_AT: place} if place else {})}
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, timeout=240, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(mark)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("start", "settings", "kills"),
    [
        (OWN, [], [BEFORE_THE_GROUP, WHILE_RANK_0_SAVES]),
        pytest.param(
            OWN, SHARDED, [WHILE_RANK_1_SAVES, WHILE_RANK_0_PUBLISHES, WHILE_RANK_0_SAVES],
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            TORCHRUN, SHARDED, [BEFORE_THE_GROUP, WHILE_RANK_1_SAVES, WHILE_RANK_0_SAVES],
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["ddp", "fsdp", "torchrun"],
)  # fmt: skip
def test_the_same_command_ends_with_equal_bits_after_each_kill(
    start: list[str],
    settings: list[str],
    kills: list[Kill],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    (killed / "hook").mkdir(parents=True)
    (killed / "hook/sitecustomize.py").write_text(HOOK)
    paths = RunPaths(killed / "run")
    for kill in kills:
        code, printed = run([*start, *SETTINGS, *settings], killed, kill)
        assert code == 1, printed
        assert max(paths.checkpoint_steps(), default=0) == kill.newest
        if start is OWN:
            reason = f"rank {kill.rank} {'failed: ' if kill.rank else ''}was killed by SIGKILL"
            assert [reason in line for line in printed.splitlines() if "error:" in line] == [True]
    code, printed = run([*start, *SETTINGS, *settings], killed)
    assert code == 0, printed

    whole.mkdir()
    monkeypatch.chdir(whole)
    assert main([*SETTINGS]) == 0
    assert not differences(killed / "run", whole / "run")
    assert metrics_of(killed / "run") == metrics_of(whole / "run")
