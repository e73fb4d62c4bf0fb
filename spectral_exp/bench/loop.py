"""Overhead of the training loop over a bare PyTorch loop.

Both loops train in one process, with copies of one model and optimizer on the same batches. The
bare loop loads a batch, computes the loss and its gradients, clips them, updates the weights and
clears the gradients. It never reads the loss. The measured loop is `Runner.run` with all
components: metrics every 10 steps, plots every 1000, and a checkpoint in the background every 200.
It also sets learning rates, stores the loss history and rejects non-finite updates. Neither loop
validates.

The loops alternate in blocks of steps, and a figure is the difference between neighbouring blocks.
Blocks that begin with a save are reported separately, and so are blocks with plots.

Two further runs without plots time each additional activity of a step and of a save, the latter in
processor time of the executing thread. The model's arithmetic displaces other data from the
processor's caches, so an activity takes several times as long as when it is repeated alone. During
most of a save's time Python runs the writing thread while the training thread waits.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor, nn

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Line, Options, Section, Spread, Target
from spectral_exp.config.build import build
from spectral_exp.config.command_line import CommandLine
from spectral_exp.core import files, json_files
from spectral_exp.monitoring import CheckpointManager, MetricsLogger, VisualizationManager
from spectral_exp.monitoring.checkpoint import archive
from spectral_exp.monitoring.checkpoint.direct_file import DirectFile
from spectral_exp.monitoring.checkpoint.staging import Staged
from spectral_exp.monitoring.checkpoint.store import CheckpointStore
from spectral_exp.training.profiling import StepProfiler
from spectral_exp.training.progress import Progress
from spectral_exp.training.runner import Runner
from spectral_exp.training.step import Stepper

OURS = "ours"
BARE = "bare loop"

ADDED_US = Target(40, strict=True)
ADDED_PERCENT = Target(1, strict=True)

_RUN = (
    "+experiment=classic",
    "data=markov",
    "data.n_tokens=100000",
    "threads=1",
    "training.sample_tokens=0",
    "training.eval_windows=1",
    "training.eval_interval=1000000",
    "monitoring.metrics.log_interval=10",
    "monitoring.visualization.viz_interval=1000",
)


@dataclass(frozen=True)
class _Case:
    """Model size and intervals of a comparison.

    Attributes:
        name: title in the table.
        settings: overrides that set the size of the model.
        block: steps of a block, a multiple of the metrics interval.
        steps: steps of each loop.
        save_interval: steps between checkpoints.
        target: target of the median.
    """

    name: str
    settings: Sequence[str]
    block: int
    steps: int
    save_interval: int
    target: Target


@dataclass(frozen=True)
class _Pair:
    """Seconds per step of neighbouring blocks, and the activity in the block of `Runner`."""

    bare_s: float
    ours_s: float
    is_saving: bool
    is_plotting: bool


_SMALL = (
    "model.n_embd=16",
    "model.n_layer=1",
    "model.n_head=2",
    "model.block_size=16",
    "training.batch_size=4",
)
_LARGE = (
    "model.n_embd=128",
    "model.n_layer=4",
    "model.n_head=4",
    "model.block_size=64",
    "training.batch_size=4",
)
CASES = (
    _Case("a step of about 1 ms", _SMALL, block=50, steps=6000, save_interval=200, target=ADDED_US),
    _Case(
        "a step of about 20 ms",
        _LARGE,
        block=10,
        steps=1000,
        save_interval=200,
        target=ADDED_PERCENT,
    ),
)


def run(options: Options) -> Iterator[Section]:
    """Measure both cases, then the activities of a step and of a save."""
    for number, case in enumerate(CASES):
        # Half the steps still include several checkpoints.
        steps = (
            4 * case.block if options.quick else case.steps // 2 if options.brief else case.steps
        )
        measure.log_progress(f"{case.name}: {steps} steps of each loop")
        ours, bare = (options.new_folder(f"{name}_{number}") for name in ("ours", "bare"))
        yield Section(case.name, list(_lines(case, _alternate(case, steps, ours, bare))))
    steps = 50 if options.quick else 1500
    yield _break_down_step(steps, options.new_folder("step"))
    yield _break_down_save(steps, options.new_folder("save"))


def _lines(case: _Case, pairs: Sequence[_Pair]) -> Iterator[Line]:
    yield Line(BARE, "limit: a step", "ms", Spread.of(1e3 * pair.bare_s for pair in pairs))
    average = Spread.of([1e6 * sum(pair.ours_s - pair.bare_s for pair in pairs) / len(pairs)])
    without_plots = [pair for pair in pairs if not pair.is_plotting]
    kinds = {
        "added to a step": [pair for pair in without_plots if not pair.is_saving],
        "added to a step during a save": [pair for pair in without_plots if pair.is_saving],
    }
    for name, chosen in kinds.items():
        if not chosen:
            continue
        in_us, in_percent = (
            case.target if case.target is limit else None for limit in (ADDED_US, ADDED_PERCENT)
        )
        yield Line(
            OURS, name, "us", Spread.of(1e6 * (pair.ours_s - pair.bare_s) for pair in chosen), in_us
        )
        relative = Spread.of(100 * (pair.ours_s / pair.bare_s - 1) for pair in chosen)
        yield Line(OURS, f"{name}, relative", "%", relative, in_percent)
    yield Line(OURS, "added on average, including plots", "us", average)


_Functions = Sequence[tuple[object, str]]
_STEP: Mapping[str, _Functions] = {
    "learning rates and schedules": [(Stepper, "_set_schedules")],
    "recording loss and gradient norm": [(Stepper, "record")],
    "interval checks": [
        (MetricsLogger, "should_log"),
        (VisualizationManager, "should_visualize"),
        (CheckpointManager, "should_checkpoint"),
        (CheckpointManager, "exceeds_risk"),
        (StepProfiler, "step"),
        (Progress, "update"),
    ],
    "a metrics line, every 10 steps": [(Runner, "_training_metrics"), (Runner, "_log")],
}
_SAVE: Mapping[str, _Functions] = {
    "the call, in the training thread": [(CheckpointManager, "save_checkpoint")],
    "copying the tensors, in the writing thread": [(Staged, "copy")],
    "writing the archive": [(archive, "write_archive")],
    "opening and syncing the file, and its sidecar": [
        (DirectFile, "__init__"),
        (DirectFile, "sync"),
        (json_files, "write_json_atomic"),
    ],
    "replacing the link": [(files, "replace_symlink")],
    "verifying the newest, removing the oldest": [(CheckpointStore, "prune")],
}


def _break_down_step(steps: int, folder: Path) -> Section:
    """Return the time of each activity of a step of the small model."""
    spent_s = _time_activities(_STEP, steps, steps + 1, folder, time.perf_counter)
    spent_us = {name: 1e6 * s / steps for name, s in spent_s.items()}
    return _activity_section("activities of a step", spent_us, "us")


def _break_down_save(steps: int, folder: Path) -> Section:
    """Return the processor time of each activity of a save during training of the small model."""
    interval = max(1, steps // 15)
    spent_s = _time_activities(_SAVE, steps, interval, folder, time.thread_time)
    spent_ms = {name: 1e3 * s / (steps // interval) for name, s in spent_s.items()}
    return _activity_section("activities of a save", spent_ms, "ms")


def _time_activities(
    activities: Mapping[str, _Functions],
    steps: int,
    save_interval: int,
    folder: Path,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Return the seconds of each activity over `steps` steps of `Runner`, without plots."""
    settings = (
        f"training.max_steps={steps}",
        "monitoring.visualization.viz_interval=1000000",
        f"monitoring.checkpoint.save_interval={save_interval}",
    )
    (job,) = CommandLine.parse([*_RUN, *_SMALL, *settings]).compose()
    with ExitStack() as stack, _quiet():
        calls: list[tuple[str, list[float]]] = []
        for activity, functions in activities.items():
            for owner, name in functions:
                seconds: list[float] = []
                calls.append((activity, seconds))
                timer = _add_timer(getattr(owner, name), seconds, clock)
                stack.enter_context(mock.patch.object(owner, name, timer))
        stack.enter_context(build(job.config, folder, [])).run()
    total_s = dict.fromkeys(activities, 0.0)
    for activity, seconds in calls:
        # The slowest tenth is excluded: the first call opens files, and other processes interrupt.
        typical = sorted(seconds)[: -(len(seconds) // 10) or None]
        total_s[activity] += statistics.mean(typical) * len(seconds)
    return total_s


def _activity_section(title: str, spent: Mapping[str, float], unit: str) -> Section:
    lines = [Line(OURS, activity, unit, Spread.of([value])) for activity, value in spent.items()]
    return Section(title, [*lines, Line(OURS, "their sum", unit, Spread.of([sum(spent.values())]))])


def _add_timer(
    function: Callable[..., Any], seconds: list[float], clock: Callable[[], float]
) -> Callable[..., Any]:
    """Wrap `function` to append the duration of each call by `clock` to `seconds`."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start_s = clock()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(clock() - start_s)

    return timed


def _alternate(case: _Case, steps: int, ours: Path, bare: Path) -> list[_Pair]:
    """Run `Runner` to its end, with the same steps of the bare loop before each block."""
    lengths = (
        f"training.max_steps={steps}",
        f"monitoring.checkpoint.save_interval={case.save_interval}",
    )
    (job,) = CommandLine.parse([*_RUN, *case.settings, *lengths]).compose()
    with _quiet(), build(job.config, ours, []) as runner, build(job.config, bare, []) as other:
        batches = _BlockBatches(case.block, runner.stepper.batches, runner)
        batches.bare = _bare_block(other, _BlockBatches(case.block, other.batches))
        gc.collect()
        runner.stepper.batches = batches
        runner.run()
        return batches.pairs


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log lines of a run, which would interrupt the tables."""
    logger = logging.getLogger("spectral_exp")
    level, logger.level = logger.level, logging.WARNING
    try:
        yield
    finally:
        logger.level = level


def _bare_block(parts: Runner, batches: _BlockBatches) -> Callable[[int, int], None]:
    """Return the bare loop, a function of its first step and of the step after its last."""
    model, optimizer, loss = parts.model, parts.optimizer, parts.loss
    parameters, clip = list(model.parameters()), parts.settings.grad_clip

    def block(first: int, end: int) -> None:
        for step in range(first, end):
            x, y = batches(step, 0)
            objective, _ = loss(model(x), y)
            objective.backward()
            nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()

    return block


class _BlockBatches:
    """Batches of a loop; those of `Runner` also run the bare loop at the start of each block.

    The bare loop gets its batches by the same call, so both loops pay for it.

    Attributes:
        pairs: measurements of all blocks except the first, which is a warm-up.
        bare: runs the bare loop from a first step up to, but not including, an end step.
    """

    def __init__(
        self,
        block: int,
        batches: Callable[[int, int], tuple[Tensor, Tensor]],
        ours: Runner | None = None,
    ) -> None:
        self.pairs: list[_Pair] = []
        self.bare: Callable[[int, int], None] | None = None
        self._block, self._batches, self._runner = block, batches, ours
        self._began_s = self._bare_s = 0.0

    def __call__(self, step: int, micro_batch: int) -> tuple[Tensor, Tensor]:
        """Return the batch, after the bare loop's block if a new block begins."""
        # The save and plots of step n follow that step, so they fall into the block that begins
        # with it.
        if step % self._block == 0:
            self._begin_block(step)
        return self._batches(step, micro_batch)

    def _begin_block(self, step: int) -> None:
        if self._runner is None or self.bare is None:
            return
        now_s = time.perf_counter()
        if step > 2 * self._block:
            first = step - self._block
            interval = self._runner.config["monitoring"]["checkpoint"]["save_interval"]
            is_plotting = self._runner.visualization.should_visualize(first)
            ours_s = (now_s - self._began_s) / self._block
            self.pairs.append(_Pair(self._bare_s, ours_s, first % interval == 0, is_plotting))
        # A save in progress must not slow down the bare loop. Garbage collection here would make
        # the next steps slower by two milliseconds, since it reads all memory.
        self._runner.checkpoint.wait()
        start_s = time.perf_counter()
        self.bare(step, step + self._block)
        self._began_s = time.perf_counter()
        self._bare_s = (self._began_s - start_s) / self._block
