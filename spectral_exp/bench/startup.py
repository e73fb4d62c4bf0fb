"""How long the command line takes to answer, and to begin training.

The limit is a fresh interpreter until `import torch` has returned. Ours is the command of `make run` until its first
training step is done and logged: all components on, model and batches of the real sizes, the corpus already tokenized.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from spectral_exp.bench import measure
from spectral_exp.bench.measure import (
    Figures,
    Line,
    Options,
    Section,
    Target,
    difference,
    ratio,
    say,
    spread,
)
from spectral_exp.core.errors import RunError
from spectral_exp.runs.layout import METRICS_NAME

IMPORT_TORCH = "import torch"
HELP = "--help"
FIRST_STEP = "command to first step"

HELP_S = Target(0.8, strict=True)
BEYOND_TORCH_S = Target(1.5)

_TRAIN = (sys.executable, "-m", "spectral_exp.train")
_MAKE_RUN = (*_TRAIN, "+experiment=wave_rgd", "monitoring.metrics.log_interval=1")
_MAX_S = 120.0


def run(options: Options) -> Iterator[Section]:
    """Measure both, beside the import of torch alone."""
    numbers = itertools.count(1)
    everyone: dict[str, Callable[[], Figures]] = {
        IMPORT_TORCH: functools.partial(_imported_torch, options.folder),
        HELP: functools.partial(_ended, [*_TRAIN, "--help"], options.folder),
        FIRST_STEP: lambda: _first_step(
            options.new_folder(f"run_{next(numbers)}"), options.folder / "cache"
        ),
    }
    say("starting processes")
    measure.interleave(everyone, 1, budget_s=0)
    rounds = measure.interleave(
        everyone, options.rounds or (2 if options.quick else 5), budget_s=options.budget_s(90)
    )
    beyond = difference(rounds, FIRST_STEP, IMPORT_TORCH, "s")
    yield Section(
        "fresh processes",
        [
            Line(IMPORT_TORCH, "limit: time", "s", spread(rounds, IMPORT_TORCH, "s")),
            Line(HELP, "time", "s", spread(rounds, HELP, "s"), HELP_S),
            Line(FIRST_STEP, "time", "s", spread(rounds, FIRST_STEP, "s")),
            Line(
                FIRST_STEP,
                f"time / {IMPORT_TORCH}",
                "x",
                ratio(rounds, FIRST_STEP, IMPORT_TORCH, "s"),
            ),
            Line(FIRST_STEP, f"time beyond {IMPORT_TORCH}", "s", beyond, BEYOND_TORCH_S),
        ],
    )


def _imported_torch(folder: Path) -> Figures:
    """Seconds until a fresh interpreter has torch; what it then takes to end does not count."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "import torch; print('done', flush=True)"]
    with subprocess.Popen(
        command, cwd=folder, env=measure.environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        taken_s = time.perf_counter() - start
    if not told:
        raise RunError(f"import torch ended with {process.returncode}")
    return {"s": taken_s}


def _ended(command: list[str], folder: Path) -> Figures:
    """Seconds until a command has ended."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=measure.environment(),
        capture_output=True,
        text=True,
        timeout=_MAX_S,
        check=False,
    )
    taken_s = time.perf_counter() - start
    if done.returncode != 0:
        raise RunError(
            f"{' '.join(command[1:])} ended with {done.returncode}: {measure.last_line(done.stderr)}"
        )
    return {"s": taken_s}


def _first_step(folder: Path, cache: Path) -> Figures:
    """Seconds until the first step is done and its line of metrics there; the process is then ended."""
    told = folder / "printed"
    with told.open("wb") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(
            _MAKE_RUN,
            cwd=folder,
            env=measure.environment(SPECTRAL_EXP_CACHE=str(cache.resolve())),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            while not any(
                file.read_bytes().endswith(b"\n")
                for file in folder.glob(f"outputs/*/logs/{METRICS_NAME}")
            ):
                if process.poll() is not None or time.perf_counter() - start > _MAX_S:
                    reason = measure.last_line(told.read_text(encoding="utf-8", errors="replace"))
                    raise RunError(
                        f"no training step was logged; exit code {process.poll()}: {reason}"
                    )
                time.sleep(0.002)
            return {"s": time.perf_counter() - start}
        finally:
            process.kill()
            process.wait()
