"""Time until the command line prints help, and until it has logged the first training step.

The limit is a new interpreter until `import torch` has returned. The measured command is that of
`make run`, with all components, model and batches at full size, and a tokenized corpus.
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
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
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
    """Measure both times and the import of torch."""
    numbers = itertools.count(1)
    measurements: dict[str, Callable[[], Figures]] = {
        IMPORT_TORCH: functools.partial(_import_torch, options.folder),
        HELP: functools.partial(_print_help, options.folder),
        FIRST_STEP: lambda: train_one_step(
            options.new_folder(f"run_{next(numbers)}"), options.folder / "cache"
        ),
    }
    measure.log_progress("starting processes")
    rounds = measure.measure_rounds(options, measurements, 5, quick=2, budget_s=90)
    beyond = measure.difference(rounds, FIRST_STEP, IMPORT_TORCH, "s")
    relative = measure.ratio(rounds, FIRST_STEP, IMPORT_TORCH, "s")
    yield Section(
        "fresh processes",
        [
            Line(IMPORT_TORCH, "limit: time", "s", measure.spread(rounds, IMPORT_TORCH, "s")),
            Line(HELP, "time", "s", measure.spread(rounds, HELP, "s"), HELP_S),
            Line(FIRST_STEP, "time", "s", measure.spread(rounds, FIRST_STEP, "s")),
            Line(FIRST_STEP, f"time / {IMPORT_TORCH}", "x", relative),
            Line(FIRST_STEP, f"time beyond {IMPORT_TORCH}", "s", beyond, BEYOND_TORCH_S),
        ],
    )


def _import_torch(folder: Path) -> Figures:
    """Measure the seconds until a new interpreter has imported torch, without its exit."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "import torch; print('done', flush=True)"]
    with subprocess.Popen(
        command, cwd=folder, env=measure.environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        output = process.stdout.readline()
        taken_s = time.perf_counter() - start
    if not output:
        raise RunError(f"import torch ended with {process.returncode}")
    return {"s": taken_s}


def _print_help(folder: Path) -> Figures:
    """Measure the seconds of `--help`."""
    command, env = [*_TRAIN, "--help"], measure.environment()
    print_help = functools.partial(
        measure.run_process, command, env, folder=folder, timeout_s=_MAX_S
    )
    return {"s": measure.time_call(print_help)}


def train_one_step(folder: Path, cache: Path, *overrides: str) -> Figures:
    """Measure the seconds until the first metrics line is written, then kill the process."""
    output = folder / "printed"
    with output.open("wb") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*_MAKE_RUN, *overrides],
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
                    reason = measure.last_line(output.read_text(encoding="utf-8", errors="replace"))
                    raise RunError(
                        f"no training step was logged; exit code {process.poll()}: {reason}"
                    )
                time.sleep(0.002)
            return {"s": time.perf_counter() - start}
        finally:
            process.kill()
            process.wait()
