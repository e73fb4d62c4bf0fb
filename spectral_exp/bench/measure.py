"""Interleaved rounds, medians and quartiles, targets, tables and machine facts for all benches."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import RunError

PACKAGES = ("torch", "numpy", "isal", "lightning", "tensorboard", "polars", "duckdb")
"""Distributions whose versions are reported."""

Figures = Mapping[str, float]
Rounds = Sequence[Mapping[str, Figures]]
"""Figures of each contender in each round: rounds[i][contender][figure]."""


@dataclass(frozen=True)
class Options:
    """Options of a bench.

    Attributes:
        folder: an empty folder for files; removed afterwards.
        quick: whether to measure few rounds of small cases.
        sizes_mb: sizes of the state, in 10^6 bytes.
        rounds: number of rounds; None for the default of each measurement.
        n_runs: number of run directories to read.
        peers: the interpreter for which other dashboards are installed.
        brief: whether the bench is part of `all`, with fewer rounds and without the slowest cases.
    """

    folder: Path
    quick: bool
    sizes_mb: tuple[int, ...]
    rounds: int | None
    n_runs: int = 100
    peers: Path = Path(sys.executable)
    brief: bool = False

    def budget_s(self, alone_s: float) -> float:
        """Return the time limit of rounds that have `alone_s` when the bench runs alone."""
        return 0.4 * alone_s if self.brief else alone_s

    def new_folder(self, name: str) -> Path:
        """Create a folder below `folder`."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `n` values."""

    median: float
    q1: float
    q3: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        ordered = sorted(values)
        if len(ordered) == 1:
            return cls(ordered[0], ordered[0], ordered[0], 1)
        q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, q1, q3, len(ordered))


@dataclass(frozen=True)
class Target:
    """Upper limit of a figure; `strict` excludes the value itself."""

    value: float
    strict: bool = False

    def is_met(self, measured: float) -> bool:
        """Whether `measured` is within the limit."""
        return measured < self.value or (measured == self.value and not self.strict)

    @property
    def relation(self) -> str:
        """The relation between a figure and the target."""
        return "<" if self.strict else "<="

    def as_json(self) -> dict[str, Any]:
        """Return the target as an entry of the JSON file."""
        return {"relation": self.relation, "value": self.value}

    def __str__(self) -> str:
        return f"{self.relation} {_number(self.value)}"


@dataclass(frozen=True)
class Line:
    """One measured figure of one contender with its unit ("x" for ratios) and optional target."""

    contender: str
    figure: str
    unit: str
    value: Spread
    target: Target | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the target; None without a target."""
        return None if self.target is None else self.target.is_met(self.value.median)


@dataclass(frozen=True)
class Section:
    """The lines of one measurement; `missing` lists unavailable contenders with the reason."""

    title: str
    lines: Sequence[Line]
    missing: Sequence[str] = ()


# --- measuring ------------------------------------------------------------------------------------


def interleave(
    contenders: Mapping[str, Callable[[], Figures]],
    rounds: int,
    *,
    budget_s: float,
    min_rounds: int = 3,
) -> list[dict[str, Figures]]:
    """Measure all contenders once per round, in rotated order, and return their figures by round.

    A temporary disturbance of the machine thus affects all contenders.

    Args:
        contenders: functions that measure once and return figures.
        rounds: maximum number of rounds.
        budget_s: time limit in seconds for rounds beyond `min_rounds`.
        min_rounds: number of rounds that always run.
    """
    names = list(contenders)
    measured: list[dict[str, Figures]] = []
    started = time.perf_counter()
    for number in range(rounds):
        spent_s = time.perf_counter() - started
        if number >= min_rounds and spent_s * (number + 1) / number > budget_s:
            break
        shift = number % len(names)
        figures: dict[str, Figures] = {}
        for name in names[shift:] + names[:shift]:
            gc.collect()
            figures[name] = contenders[name]()
        measured.append(figures)
    return measured


def measure_rounds(
    options: Options,
    contenders: Mapping[str, Callable[[], Figures]],
    rounds: int,
    *,
    quick: int | None = None,
    budget_s: float,
) -> list[dict[str, Figures]]:
    """Run all contenders once as a warm-up, then measure them as `interleave` does.

    Args:
        options: may set the number of rounds.
        contenders: functions that measure once and return figures.
        rounds: maximum number of rounds by default.
        quick: the same for a quick bench; by default `rounds`.
        budget_s: time limit in seconds of a bench that runs alone.
    """
    interleave(contenders, 1, budget_s=0)
    default = quick if options.quick and quick is not None else rounds
    return interleave(contenders, options.rounds or default, budget_s=options.budget_s(budget_s))


def spread(rounds: Rounds, contender: str, figure: str) -> Spread:
    """Return the spread of a contender's figure over the rounds."""
    return Spread.of(figures[contender][figure] for figures in rounds)


def ratio(rounds: Rounds, contender: str, reference: str, figure: str) -> Spread:
    """Return the spread of a contender's figure divided by the reference's in the same round."""
    return Spread.of(figures[contender][figure] / figures[reference][figure] for figures in rounds)


def difference(rounds: Rounds, contender: str, reference: str, figure: str) -> Spread:
    """Return the spread of a contender's figure minus the reference's in the same round."""
    return Spread.of(figures[contender][figure] - figures[reference][figure] for figures in rounds)


def time_call(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds(work: Callable[[], object], figure: str = "ms") -> Figures:
    """Return the time of a call as a figure."""
    return {figure: 1e3 * time_call(work)}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child process that can import this package from any folder."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a separate process and return the JSON object that it prints last.

    Raises:
        RunError: the process failed.
    """
    result: dict[str, Any] = json.loads(
        last_line(run_process([sys.executable, "-m", module, *arguments], environment()))
    )
    return result


def run_process(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    folder: Path | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a Python command and return its output.

    Raises:
        RunError: the process failed; the message quotes the last line of its errors.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(
            f"{' '.join(command[1:])} ended with {done.returncode}: {last_line(done.stderr)}"
        )
    return done.stdout


NO_PEAK = "peak memory: not measured, it needs /proc/self/clear_refs of Linux"
"""Reason to report if `can_measure_peak` is false."""


def can_measure_peak() -> bool:
    """Whether this system can reset the peak of resident memory."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def begin_peak() -> float:
    """Reset the peak of resident memory and return the current resident memory in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident_mb("VmRSS")


def peak_mb() -> float:
    """Return the peak of this process's resident memory since `begin_peak`, in MB."""
    return _resident_mb("VmHWM")


def _resident_mb(entry: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RunError(f"/proc/self/status has no {entry}")


def last_line(text: str) -> str:
    """Return the last line of `text` that is not empty."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def log_progress(text: str) -> None:
    """Print the current measurement to stderr."""
    print(f"... {text}", file=sys.stderr, flush=True)


# --- facts ----------------------------------------------------------------------------------------


def file_system(folder: Path) -> dict[str, Any]:
    """Return type, device and free space (GB, 10^9 bytes) of the file system of `folder`."""
    import psutil

    resolved = folder.resolve()
    mounted = [
        part
        for part in psutil.disk_partitions(all=True)
        if resolved.is_relative_to(part.mountpoint)
    ]
    nearest = max(mounted, key=lambda part: len(part.mountpoint), default=None)
    return {
        "type": nearest.fstype if nearest else None,
        "device": nearest.device if nearest else None,
        "free_gb": round(psutil.disk_usage(str(resolved)).free / 1e9, 1),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of `PACKAGES`; None if a package is not installed."""
    installed: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


# --- output ---------------------------------------------------------------------------------------


def as_json(bench: str, section: Section) -> list[dict[str, Any]]:
    """Return the lines of a section as entries of the JSON file."""
    return [
        {
            "bench": bench,
            "section": section.title,
            "contender": line.contender,
            "figure": line.figure,
            "unit": line.unit,
            **asdict(line.value),
            "target": line.target.as_json() if line.target else None,
            "met": line.is_met,
            "note": line.note,
        }
        for line in section.lines
    ]


def format_table(bench: str, section: Section) -> str:
    """Return a section as a text table."""
    rows = [("", "", "median", "quartiles", "n", "target", "")]
    for line in section.lines:
        value = line.value
        quartiles = f"{_number(value.q1)} .. {_number(value.q3)}" if value.n > 1 else ""
        verdict = "" if line.is_met is None else "met" if line.is_met else "MISSED"
        notes = "  ".join(filter(None, [verdict, line.note]))
        target = str(line.target) if line.target else ""
        median = f"{_number(value.median)} {line.unit}".strip()
        rows.append((line.figure, line.contender, median, quartiles, str(value.n), target, notes))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    text = [f"{bench}: {section.title}"]
    for figure, contender, *numbers, notes in rows:
        names = [f"  {figure:<{widths[0]}}", f"{contender:<{widths[1]}}"]
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[2:], strict=True)]
        text.append("  ".join([*names, *cells, notes]).rstrip())
    text += [f"  {reason}" for reason in section.missing]
    return "\n".join(text)


def _number(value: float) -> str:
    """Format a number with three digits and without an exponent."""
    if value and abs(value) < 0.001:
        return f"{value:.4f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
