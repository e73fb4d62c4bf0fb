"""Step time of training beside a companion process, relative to training alone.

The companion measures the machine every second and, if tensorboardX is installed, mirrors the run.
Both contenders are the command of a user, with all other components.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
from spectral_exp.core.errors import RunError
from spectral_exp.runs.layout import RESULTS_NAME

ALONE = "training alone"
ACCOMPANIED = "training with a companion"

RELATIVE = Target(1.02)

_TRAIN = (sys.executable, "-m", "spectral_exp.train", "+experiment=wave_rgd")
_QUIET = ("monitoring.checkpoint.save_interval=1000", "training.sample_tokens=0")
_COMPANION = ("monitoring/system=default", "monitoring.system.interval_s=1")
_MIRROR = "mirrors=[tensorboard]"
_STEPS, _QUICK_STEPS = 100, 5
_MAX_S = 600.0


def run(options: Options) -> Iterator[Section]:
    """Measure both in turn."""
    numbers = itertools.count(1)
    has_tracker = importlib.util.find_spec("tensorboardX") is not None
    overrides = (*_COMPANION, _MIRROR) if has_tracker else _COMPANION

    def train(*overrides: str) -> Figures:
        return _train(options, options.new_folder(f"run_{next(numbers)}"), overrides)

    contenders: dict[str, Callable[[], Figures]] = {
        ALONE: train,
        ACCOMPANIED: functools.partial(train, *overrides),
    }
    measure.log_progress("training with and without a companion")
    rounds = measure.measure_rounds(options, contenders, 5, quick=1, budget_s=120)
    relative = measure.ratio(rounds, ACCOMPANIED, ALONE, "ms")
    yield Section(
        "wave_rgd, " + ("system metrics and TensorBoard" if has_tracker else "system metrics"),
        [
            *(Line(name, "step", "ms", measure.spread(rounds, name, "ms")) for name in contenders),
            Line(ACCOMPANIED, f"step / {ALONE}", "x", relative, RELATIVE),
        ],
    )


def _train(options: Options, folder: Path, overrides: tuple[str, ...]) -> Figures:
    """Return the milliseconds of a training step, without the start and the end of the process."""
    steps = _QUICK_STEPS if options.quick else _STEPS
    command = [*_TRAIN, *_QUIET, *overrides, f"training.max_steps={steps}"]
    cache = (options.folder / "cache").resolve()
    env = measure.environment(SPECTRAL_EXP_CACHE=str(cache))
    measure.run_process(command, env, folder=folder, timeout_s=_MAX_S)
    try:
        (results,) = folder.glob(f"outputs/*/{RESULTS_NAME}")
    except ValueError as error:
        raise RunError("the run has written no results") from error
    totals = json.loads(results.read_text(encoding="utf-8"))["totals"]
    return {"ms": 1000 * totals["train_s"] / totals["steps"]}
