"""Starting, tracing and counting attempts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COUNTS, ROOT

# Calls by which a run changes its directory, or finds its way in it.
CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,symlink,symlinkat,unlink,unlinkat,"
    "fallocate,ftruncate,mkdir,mkdirat,fcntl,readlink,flock,lseek"
)


@dataclass
class Attempt:
    """How an attempt ended."""

    signal: int
    code: int
    durable: int
    text: str


class Zygote:
    """The process that forks the attempts."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._answer()

    def run(self, scenario: str, root: Path, *strace: str, log: Path | None = None) -> Attempt:
        """Run one attempt to its end, under strace if options for it are given."""
        self._ask({"scenario": scenario, "root": str(root), "traced": bool(strace)})
        pid = self._answer()["pid"]
        tracer = None
        if strace:
            self._wait_until(lambda: status(pid, "State")[:1] in "Tt", pid)
            tracer = subprocess.Popen(
                [
                    "strace",
                    "-f",
                    "-qq",
                    "-o",
                    str(log or os.devnull),
                    "-e",
                    f"trace={CALLS}",
                    *strace,
                    "-p",
                    str(pid),
                ],
                stderr=subprocess.DEVNULL,
            )
            self._wait_until(lambda: status(pid, "TracerPid") not in ("", "0"), pid)
            os.kill(pid, signal.SIGCONT)
        attempt = Attempt(**self._answer())
        if tracer is not None:
            tracer.wait(30)
        return attempt

    def start(self, scenario: str, root: Path) -> int:
        """Start an attempt and return its process id; `finish` waits for its end."""
        self._ask({"scenario": scenario, "root": str(root), "traced": False})
        return int(self._answer()["pid"])

    def finish(self) -> Attempt:
        return Attempt(**self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, request: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote has died"
        found: dict[str, Any] = json.loads(line)
        return found

    def _wait_until(self, true: Callable[[], bool], pid: int) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, f"process {pid} cannot be traced"
            time.sleep(0.002)


def status(pid: int, field: str) -> str:
    """Return a field of `/proc/PID/status`."""
    try:
        found = re.search(
            rf"^{field}:\s*(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
        )
    except FileNotFoundError:
        return ""
    return found[1] if found else ""


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip if processes cannot be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("strace may not trace processes here")


@pytest.fixture(scope="session")
def root_user() -> None:
    """Skip if file systems cannot be mounted."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("mounting a file system needs root")


@contextlib.contextmanager
def mounted(*mount: str, at: Path) -> Iterator[Path]:
    """A file system mounted at a folder; skip if that is impossible."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *mount, str(at)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {' '.join(mount)}: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def points(
    zygote: Zygote, scenario: str, folder: Path, at_most: int | None
) -> list[tuple[str, int]]:
    """Every (call, how often it was made) of an undisturbed attempt; a sample of it, spread by a
    fixed seed."""
    log = folder / "calls"
    zygote.run(scenario, folder / "traced", "-e", "signal=none", log=log)
    found = re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)
    counts: Counter[str] = Counter()
    every = []
    for name in found:
        counts[name] += 1
        every.append((name, counts[name]))
    return (
        every
        if at_most is None or len(every) <= at_most
        else random.Random(0).sample(every, at_most)
    )


def report_count(what: str, tried: int, survived: int) -> None:
    """Add a line to the summary of the tests: how many points were tried and survived; all of them
    have to."""
    COUNTS.append(f"{what}: {tried} tried, {survived} survived")
    assert tried > 0
    assert survived == tried
