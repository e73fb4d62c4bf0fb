"""Shared by all tests: a small run that takes a second, and a cache of its own."""

from __future__ import annotations

import copy
import fcntl
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.s3_server import s3_server

__all__ = ["s3_server"]

# Tests compute on tiny tensors, for which more threads only wait for each other. Read by torch when
# it is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes decides no test: a busy machine is slow.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent

# The smallest run in which every component does its work.
TINY = (
    "training=smoke",
    "data=markov",
    "data.n_tokens=20000",
    "model.n_embd=16",
    "model.n_layer=2",
    "model.n_head=2",
    "model.block_size=16",
    "model.n_wave=4",
    "training.max_steps=12",
    "training.eval_interval=6",
    "training.eval_windows=4",
    "training.sample_tokens=4",
    "monitoring.checkpoint.save_interval=4",
    "monitoring.metrics.log_interval=2",
    "threads=1",
)
NO_PLOTS = "monitoring/visualization=off"


COUNTS: list[str] = []
"""Lines of the test that runs for the summary at the end."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Attach the lines of a test to its report, which reaches the summary from any process."""
    report = yield
    if call.when == "call":
        report.user_properties += [("count", line) for line in COUNTS]
        COUNTS.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the lines of all tests."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", [])]
    if lines := sorted(text for name, text in properties if name == "count"):
        terminalreporter.section("faults tried")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized text and noted places go to folders of the tests, in this process and in those it
    starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTRAL_EXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests with `arguments` as a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def train(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the training command as a process of its own."""
    return python("-m", "spectral_exp.train", *overrides, cwd=cwd)


def first_in_ci(total: int, sampled: int) -> list[Any]:
    """Parameters 0 to `total`; CI runs the first `sampled`."""
    return [
        pytest.param(i, marks=pytest.mark.exhaustive if i >= sampled else ()) for i in range(total)
    ]


def every_in_ci(n: int, values: Iterable[Any]) -> list[Any]:
    """Parameters `values`; CI runs every `n`-th of them, beginning with the first."""
    return [
        pytest.param(value, marks=pytest.mark.exhaustive if i % n else ())
        for i, value in enumerate(values)
    ]


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    from spectral_exp.config.command_line import CommandLine

    (job,) = CommandLine.parse(list(overrides)).compose()
    return job.config


def compose(*overrides: str) -> dict[str, Any]:
    """The plain configuration that a command line of `overrides` means; the caller may change
    it."""
    return copy.deepcopy(_composed(overrides))


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return a folder that `build` has filled, once for all processes of the test run."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            folder.mkdir()
            build(folder)
            (folder / "built").touch()
    return folder
