"""What all benches share: interleaved rounds, medians with their spread, targets, the table and the facts beside it."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import RunError

PACKAGES = ("torch", "numpy", "isal", "lightning", "tensorboard", "polars", "duckdb")
"""Distributions whose versions explain figures."""

Figures = Mapping[str, float]
Rounds = Sequence[Mapping[str, Figures]]
"""Of every round, what each contender measured: rounds[i][contender][figure]."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        folder: an empty folder to write below; removed afterwards.
        quick: few rounds of small cases.
        sizes_mb: sizes of the state, in 10^6 bytes.
        rounds: rounds of everything that is repeated; None for as many as suit the case.
        n_runs: run directories to read.
        brief: whether other benches follow: rounds end sooner, and what takes longest is left out.
    """

    folder: Path
    quick: bool
    sizes_mb: tuple[int, ...]
    rounds: int | None
    n_runs: int = 100
    brief: bool = False

    def budget_s(self, alone_s: float) -> float:
        """The seconds for rounds that get `alone_s` where no other bench follows."""
        return 0.4 * alone_s if self.brief else alone_s

    def new_folder(self, name: str) -> Path:
        """Make a folder to write into."""
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
        """The spread of at least one value."""
        ordered = sorted(values)
        if len(ordered) == 1:
            return cls(ordered[0], ordered[0], ordered[0], 1)
        q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, q1, q3, len(ordered))


@dataclass(frozen=True)
class Target:
    """What a figure is to stay below; `strict` excludes the value itself."""

    value: float
    strict: bool = False

    def met(self, measured: float) -> bool:
        """Whether `measured` reaches it."""
        return measured < self.value or (measured == self.value and not self.strict)

    @property
    def relation(self) -> str:
        """What stands between a figure and the target."""
        return "<" if self.strict else "<="

    def as_json(self) -> dict[str, Any]:
        """The target as it stands in the JSON file."""
        return {"relation": self.relation, "value": self.value}

    def __str__(self) -> str:
        return f"{self.relation} {_number(self.value)}"


@dataclass(frozen=True)
class Line:
    """One measured figure of one contender, with its unit ("x" for ratios), and the target where there is one."""

    contender: str
    figure: str
    unit: str
    value: Spread
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        return None if self.target is None else self.target.met(self.value.median)


@dataclass(frozen=True)
class Section:
    """The lines of one measurement; `missing` names contenders that could not take part, and why."""

    title: str
    lines: Sequence[Line]
    missing: Sequence[str] = ()


# --- measuring -------------------------------------------------------------------------------------------------------


def interleave(
    contenders: Mapping[str, Callable[[], Figures]],
    rounds: int,
    *,
    budget_s: float,
    min_rounds: int = 3,
) -> list[dict[str, Figures]]:
    """Let all contenders take turns in every round, each time in another order; what they return by round.

    So whatever disturbs the machine for a while disturbs all of them.

    Args:
        contenders: each measures itself once and returns its figures.
        rounds: how many rounds.
        budget_s: seconds after which no further round begins, once there are `min_rounds`.
        min_rounds: see `budget_s`.
    """
    names = list(contenders)
    measured: list[dict[str, Figures]] = []
    started = time.perf_counter()
    for number in range(rounds):
        spent_s = time.perf_counter() - started
        if number >= min_rounds and spent_s * (number + 1) / number > budget_s:
            break
        shift = number % len(names)
        taken: dict[str, Figures] = {}
        for name in names[shift:] + names[:shift]:
            gc.collect()
            taken[name] = contenders[name]()
        measured.append(taken)
    return measured


def spread(rounds: Rounds, contender: str, figure: str) -> Spread:
    """The spread over the rounds of a contender's figure."""
    return Spread.of(taken[contender][figure] for taken in rounds)


def ratio(rounds: Rounds, contender: str, reference: str, figure: str) -> Spread:
    """The spread of a contender's figure over the reference's, each taken within one round."""
    return Spread.of(taken[contender][figure] / taken[reference][figure] for taken in rounds)


def difference(rounds: Rounds, contender: str, reference: str, figure: str) -> Spread:
    """The spread of a contender's figure minus the reference's, each taken within one round."""
    return Spread.of(taken[contender][figure] - taken[reference][figure] for taken in rounds)


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def environment(**more: str) -> dict[str, str]:
    """The environment for a child process, in which this package is found from any folder."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module as a process of its own and return the JSON object that it prints last.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(
            f"{module} {' '.join(arguments)} ended with {done.returncode}: {last_line(done.stderr)}"
        )
    found: dict[str, Any] = json.loads(last_line(done.stdout))
    return found


NO_PEAK = "peak memory: not measured, it needs /proc/self/clear_refs of Linux"
"""What to say where `can_measure_peak` is false."""


def can_measure_peak() -> bool:
    """Whether this system tells the highest resident memory since a moment of our choice."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def begin_peak() -> float:
    """Begin the high-water mark of resident memory anew; returns what is resident now, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident_mb("VmRSS")


def peak_mb() -> float:
    """The highest resident memory of this process since `begin_peak`, MB."""
    return _resident_mb("VmHWM")


def _resident_mb(entry: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RunError(f"/proc/self/status has no {entry}")


def last_line(text: str) -> str:
    """The last line of `text` that is not empty."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def say(text: str) -> None:
    """Tell what is going on, apart from the results."""
    print(f"... {text}", file=sys.stderr, flush=True)


# --- facts -----------------------------------------------------------------------------------------------------------


def file_system(folder: Path) -> dict[str, Any]:
    """Type, device and free space (GB, 10^9 bytes) of the file system that `folder` is on."""
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
    """Versions of Python and of `PACKAGES`; None for those that are not installed."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


# --- showing ---------------------------------------------------------------------------------------------------------


def as_json(bench: str, section: Section) -> list[dict[str, Any]]:
    """The lines of a section as they stand in the JSON file."""
    return [
        {
            "bench": bench,
            "section": section.title,
            "contender": line.contender,
            "figure": line.figure,
            "unit": line.unit,
            "median": line.value.median,
            "q1": line.value.q1,
            "q3": line.value.q3,
            "n": line.value.n,
            "target": line.target.as_json() if line.target else None,
            "met": line.met,
            "note": line.note,
        }
        for line in section.lines
    ]


def table(bench: str, section: Section) -> str:
    """A section for people."""
    rows = [("", "", "median", "quartiles", "n", "target", "")]
    for line in section.lines:
        value = line.value
        quartiles = f"{_number(value.q1)} .. {_number(value.q3)}" if value.n > 1 else ""
        verdict = "" if line.met is None else "met" if line.met else "MISSED"
        told = "  ".join(filter(None, [verdict, line.note]))
        target = str(line.target) if line.target else ""
        median = f"{_number(value.median)} {line.unit}".strip()
        rows.append((line.figure, line.contender, median, quartiles, str(value.n), target, told))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    text = [f"{bench}: {section.title}"]
    for figure, contender, *numbers, told in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[2:], strict=True)]
        text.append(
            "  ".join(
                [f"  {figure:<{widths[0]}}", f"{contender:<{widths[1]}}", *cells, told]
            ).rstrip()
        )
    text += [f"  {reason}" for reason in section.missing]
    return "\n".join(text)


def _number(value: float) -> str:
    """Three digits, without exponents."""
    if value and abs(value) < 0.001:
        return f"{value:.4f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
