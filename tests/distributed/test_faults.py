"""Whatever happens to one of several processes: all end, nothing is lost, the reason is named."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from spectral_exp.runs.layout import RunPaths
from tests.conftest import NO_PLOTS, TINY
from tests.distributed.driver import Processes, Run, problems, train_here
from tests.distributed.test_equality import differences, metrics_of

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(900)]

STEPS = 100_000  # more than any test waits for
SETTINGS = [
    "+experiment=wave_rgd",
    *TINY,
    NO_PLOTS,
    "training.grad_accum_steps=2",
    "training.eval_interval=1000",
    "monitoring/spectra=off",
    "monitoring.metrics.log_interval=1",
    "monitoring.checkpoint.save_interval=4",
    "schedule=constant",
    "hydra.run.dir=run",
    "distributed.nproc=2",
    "distributed.step_timeout_s=20",
]


class Command:
    """A training command on two processes, and the processes that it has started."""

    def __init__(self, cwd: Path, *overrides: str, max_steps: int = STEPS) -> None:
        self.paths = RunPaths(cwd / "run")
        arguments = [*SETTINGS, f"training.max_steps={max_steps}", *overrides]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spectral_exp.train", *arguments],
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ranks(self) -> dict[int, psutil.Process]:
        """Return the processes by rank, as soon as both have started."""
        found: dict[int, psutil.Process] = {}

        def are_there() -> bool:
            for child in psutil.Process(self.process.pid).children():
                rank = child.environ().get("RANK")
                if rank is not None:
                    found[int(rank)] = child
            return len(found) == 2

        self.wait_until(are_there)
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: self.logged() >= step)

    def logged(self) -> int:
        try:
            lines = self.paths.metrics_file.read_text().splitlines()
        except FileNotFoundError:
            return 0
        return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0

    def end(self, ranks: dict[int, psutil.Process]) -> tuple[int, str]:
        """Wait for the end; return the exit code and the messages, after a look for orphans."""
        _, printed = self.process.communicate(timeout=240)
        _, alive = psutil.wait_procs(list(ranks.values()), timeout=60)
        assert not [p for p in alive if p.is_running()]
        return self.process.returncode, printed


def results_of(paths: RunPaths) -> dict[str, Any]:
    results = json.loads(paths.results_file.read_text())
    assert isinstance(results, dict)
    return results


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run, which each test continues until its own fault."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def begin(cwd: Path) -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def start(*overrides: str, max_steps: int = STEPS) -> Command:
        commands.append(Command(cwd, *overrides, max_steps=max_steps))
        return commands[-1]

    yield start
    for command in commands:
        command.process.kill()
        command.process.communicate()


def running(command: Command) -> dict[int, psutil.Process]:
    """Return the processes of a command after some steps beyond those of earlier commands."""
    before = command.logged()
    ranks = command.ranks()
    # A continued run first cuts its metrics back.
    command.wait_until(lambda: RunPaths(command.paths.root).lock_file.is_file())
    command.wait_for_step(before + 6)
    return ranks


def test_a_killed_process_ends_all_and_is_named(begin: Callable[..., Command]) -> None:
    command = begin()
    ranks = running(command)
    ranks[1].kill()
    code, printed = command.end(ranks)
    assert code == 1, printed
    assert f"rank 1 failed: was killed by SIGKILL (process {ranks[1].pid})" in printed
    assert printed.count("error:") == 1
    results = results_of(command.paths)
    assert results["status"] == "failed"
    assert "rank 1" in results["error"]


def test_a_killed_first_process_ends_all(begin: Callable[..., Command]) -> None:
    command = begin()
    ranks = running(command)
    ranks[0].kill()
    code, printed = command.end(ranks)
    assert code == 1, printed
    assert f"error: rank 0 was killed by SIGKILL (process {ranks[0].pid})" in printed


def test_a_killed_launcher_leaves_no_process_and_the_run_saves(
    begin: Callable[..., Command],
) -> None:
    command = begin()
    ranks = running(command)
    command.process.kill()
    command.end(ranks)
    results = results_of(command.paths)
    assert results["status"] == "interrupted"
    assert max(command.paths.checkpoint_steps()) == results["totals"]["steps"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_to_all_repeated_at_once_saves(
    number: int, code: int, begin: Callable[..., Command]
) -> None:
    command = begin()
    ranks = running(command)
    for _ in range(2):
        for process in (psutil.Process(command.process.pid), *ranks.values()):
            process.send_signal(number)
    assert command.end(ranks)[0] == code
    results = results_of(command.paths)
    assert results["status"] == "interrupted"
    assert max(command.paths.checkpoint_steps()) == results["totals"]["steps"]


def test_a_signal_to_one_process_stops_and_saves_all(begin: Callable[..., Command]) -> None:
    command = begin()
    ranks = running(command)
    ranks[1].terminate()
    code, printed = command.end(ranks)
    assert code == 143, printed
    results = results_of(command.paths)
    assert max(command.paths.checkpoint_steps()) == results["totals"]["steps"]


def test_a_stopped_process_is_named_after_the_timeout(begin: Callable[..., Command]) -> None:
    command = begin("distributed.step_timeout_s=4")
    ranks = running(command)
    ranks[1].suspend()
    code, printed = command.end(ranks)
    assert code == 1, printed
    assert f"rank 1 (process {ranks[1].pid}" in printed
    assert "which is stopped) has not answered" in printed


def test_a_process_killed_before_training_ends_all(begin: Callable[..., Command]) -> None:
    command = begin()
    ranks = command.ranks()
    ranks[1].kill()
    code, printed = command.end(ranks)
    assert code == 1, printed
    assert "rank 1 failed: was killed by SIGKILL" in printed


def test_after_faults_the_run_equals_one_without(
    begin: Callable[..., Command], cwd: Path, tmp_path: Path
) -> None:
    """After one fault at least: other processes may have taken the tests above."""
    command = begin()
    ranks = running(command)
    ranks[0].kill()
    command.end(ranks)
    last = max(RunPaths(cwd / "run").checkpoint_steps()) + 3
    command = begin(max_steps=last)
    ranks = command.ranks()
    code, printed = command.end(ranks)
    assert code == 0, printed
    whole = subprocess.run(
        [
            sys.executable, "-m", "spectral_exp.train", *SETTINGS,
            f"training.max_steps={last}", "distributed.nproc=null", "monitoring.checkpoint.save_interval=1000",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    assert not differences(cwd / "run", tmp_path / "run")
    assert metrics_of(cwd / "run") == metrics_of(tmp_path / "run")


def test_faults_inside_training_are_decided_alike(tmp_path: Path) -> None:
    several, one = tmp_path / "several", tmp_path / "one"
    for folder in (several, one):
        folder.mkdir()
    settings = {"training.grad_accum_steps": 2, "training.max_steps": 6}
    bad = Run("bad", settings=settings, fault=(1, 2, "nan"))
    broken = Run("broken", settings=settings, fault=(1, 2, "raise"))
    always_bad = Run(
        "always_bad", settings={**settings, "training.max_bad_steps": 1}, fault=(1, 2, "nan")
    )
    at_risk = {"monitoring.checkpoint.max_steps_at_risk": 3, "training.max_steps": 8}
    full = Run("full", settings={**settings, **at_risk}, fault=(0, 0, "full"))
    seconds = {
        "training.max_steps": None,
        "training.max_train_s": 0.5,
        "monitoring.tracking.enabled": True,
    }
    # The weights of the processes are compared at each validation.
    timed = Run("timed", settings={**settings, **seconds, "training.eval_interval": 1})
    with Processes(2, several, [bad, always_bad, timed, full, broken]) as processes:
        processes.wait()
    assert problems(several, "bad") == ["", ""]
    saved = metrics_of(several / "bad")
    assert [line["step"] for line in saved] == [1, 2, 3, 4, 5, 6]
    assert saved[-1]["bad_steps"] == 1
    train_here(Run("bad", settings=settings, fault=(0, 2, "nan")), one)
    assert not differences(several / "bad", one / "bad")
    assert all(
        "1 step in a row had a non-finite loss" in p for p in problems(several, "always_bad")
    )
    main, member = problems(several, "full")
    assert main.startswith("RunError: no checkpoint has become durable for 4 steps"), main
    assert member == main.replace("RunError: ", "RunError: rank 0 failed: ")
    assert problems(several, "timed") == ["", ""]
    results = results_of(RunPaths(several / "timed"))
    assert results["budget"]["reached"] == "training.max_train_s"
    assert results["totals"]["train_s"] >= 0.5
    main, member = problems(several, "broken")
    assert main == "RunError: rank 1 failed: ValueError: no batch for step 2"
    assert member == "ValueError: no batch for step 2"
