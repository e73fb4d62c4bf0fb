"""Cost of a log entry of six metrics, and entries lost when the process is killed.

`python -m spectral_exp.bench.metrics_log CONTENDER FOLDER` logs until it is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from spectral_exp.bench import measure, peers
from spectral_exp.bench.measure import Figures, Line, Options, Section, Spread, Target
from spectral_exp.core.errors import RunError
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.layout import METRICS_NAME

OURS = "ours"
JSON_LINE = "a JSON line"
BARE_WRITE = "bare write"

MEDIAN_US = Target(10, strict=True)
P99_US = Target(30, strict=True)
NOTHING_LOST = Target(0)

NAMES = ("loss", "perplexity", "learning_rate", "grad_norm", "tokens_per_s", "wave_ratio")

_COUNTER = "logged"
_MAX_CHILD_S = 60.0


class Log(Protocol):
    """A tool that logs metrics."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log one entry."""

    def close(self) -> None:
        """Close the log."""


class _Ours:
    def __init__(self, folder: Path) -> None:
        logger = MetricsLogger(folder)
        self.log, self.close = logger.log_metrics, logger.close


class _JsonLine:
    """A JSON line per entry, flushed to the system."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / METRICS_NAME).open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        entry = {
            "step": step,
            "timestamp": datetime.now().isoformat(timespec="milliseconds"),
            **metrics,
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _BareWrite:
    """The limit: one system call with a prepared line."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / METRICS_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._line = b"x" * 199 + b"\n"

    def log(self, step: int, metrics: dict[str, float]) -> None:
        os.write(self._descriptor, self._line)

    def close(self) -> None:
        os.close(self._descriptor)


def _contenders() -> tuple[dict[str, Callable[[Path], Log]], list[str]]:
    contenders: dict[str, Callable[[Path], Log]] = {OURS: _Ours, JSON_LINE: _JsonLine}
    if peers.has_tensorboard():
        return {**contenders, peers.TENSORBOARD: peers.TensorBoardLog}, []
    return contenders, [f"{peers.TENSORBOARD}: not installed: {peers.REMEDY}"]


def run(options: Options) -> Iterator[Section]:
    """Measure the time of an entry, then the entries lost by kills."""
    contenders, missing = _contenders()
    yield Section("an entry of six metrics", _entries(options, contenders), missing)
    yield Section("entries lost by SIGKILL", _kills(options, contenders), missing)


def _entries(options: Options, contenders: dict[str, Callable[[Path], Log]]) -> list[Line]:
    measure.log_progress("logging entries of six metrics")
    n_entries = 300 if options.quick else 3000
    logs = {
        name: make(options.new_folder(f"entries/{name}"))
        for name, make in {BARE_WRITE: _BareWrite, **contenders}.items()
    }
    measurements = {name: _entry_timer(log, n_entries) for name, log in logs.items()}
    rounds = measure.measure_rounds(options, measurements, 9, quick=3, budget_s=30)
    for log in logs.values():
        log.close()
    lines = []
    for figure, target in (("median", MEDIAN_US), ("p99", P99_US)):
        for name in logs:
            value = measure.spread(rounds, name, figure)
            own_target = target if name == OURS else None
            lines.append(Line(name, f"an entry: {figure}", "us", value, own_target))
    for reference in (BARE_WRITE, JSON_LINE):
        relative = measure.ratio(rounds, OURS, reference, "median")
        lines.append(Line(OURS, f"an entry / {reference}", "x", relative))
    return lines


def _entry_timer(log: Log, n_entries: int) -> Callable[[], Figures]:
    draw = random.Random(0)
    entries = [{name: draw.random() for name in NAMES} for _ in range(n_entries)]
    step = 0

    def measure_entries() -> Figures:
        nonlocal step
        taken_ns = []
        for metrics in entries:
            step += 1
            start = time.perf_counter_ns()
            log.log(step, metrics)
            taken_ns.append(time.perf_counter_ns() - start)
        return {
            "median": 1e-3 * statistics.median(taken_ns),
            "p99": 1e-3 * statistics.quantiles(taken_ns, n=100)[98],
        }

    return measure_entries


# --- kills ----------------------------------------------------------------------------------------


def _kills(options: Options, contenders: dict[str, Callable[[Path], Log]]) -> list[Line]:
    n_kills = options.rounds or (2 if options.quick else 5)
    measure.log_progress(f"killing {n_kills} processes of each of {len(contenders)} contenders")
    lines = []
    for number, name in enumerate(contenders):
        lost = [
            float(_count_lost(name, options.new_folder(f"kill_{number}/{kill}"), kill))
            for kill in range(n_kills)
        ]
        # The worst kill counts, not the median.
        worst = Spread.of([max(lost)])
        note = f"maximum of {n_kills} kills"
        target = NOTHING_LOST if name == OURS else None
        lines.append(Line(name, "entries lost", "", worst, target, note))
    return lines


def _count_lost(name: str, folder: Path, kill: int) -> int:
    """Kill a process that logs and count the missing entries whose call had returned."""
    logs = folder / "logs"
    logs.mkdir()
    counter = folder / _COUNTER
    counter.write_bytes(bytes(8))
    command = [sys.executable, "-m", "spectral_exp.bench.metrics_log", name, str(folder)]
    process = subprocess.Popen(command, env=measure.environment(), stdin=subprocess.DEVNULL)
    try:
        deadline = time.perf_counter() + _MAX_CHILD_S
        while _read_counter(counter) < 100 + 317 * kill:
            if process.poll() is not None or time.perf_counter() > deadline:
                raise RunError(
                    f"the logging process ({name}) made no progress; exit code {process.poll()}"
                )
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    returned = _read_counter(counter)
    return len(set(range(1, returned + 1)) - _steps_on_disk(name, logs))


def _read_counter(counter: Path) -> int:
    return int.from_bytes(counter.read_bytes(), "little")


def _steps_on_disk(name: str, logs: Path) -> set[int]:
    if name == peers.TENSORBOARD:
        return peers.TensorBoardLog.steps(logs, NAMES[-1])
    steps = set()
    for line in (logs / METRICS_NAME).read_bytes().splitlines(keepends=True):
        if line.endswith(b"}\n"):  # the last line may be incomplete
            steps.add(int(json.loads(line)["step"]))
    return steps


def _log_until_killed(name: str, folder: Path) -> None:
    log = _contenders()[0][name](folder / "logs")
    deadline = time.monotonic() + _MAX_CHILD_S  # if the parent has died
    with (folder / _COUNTER).open("r+b") as file, mmap.mmap(file.fileno(), 8) as counter:
        step = 0
        while time.monotonic() < deadline:
            step += 1
            log.log(step, dict.fromkeys(NAMES, step + 0.5))
            counter[:] = step.to_bytes(8, "little")


if __name__ == "__main__":
    _log_until_killed(sys.argv[1], Path(sys.argv[2]))
