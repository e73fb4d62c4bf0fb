"""What our loop adds to a step, beside a bare PyTorch loop.

Both train in one process: copies of one model with copies of one optimizer, on the same batches. The bare loop reads a
batch, computes the loss and its gradients, clips them, updates the weights and drops the gradients: nothing else, and
it never looks at the loss. Ours is `Runner.run` with all components on, at the specification's recommended intervals:
metrics every 10 steps, plots every 1000, and a checkpoint in the background, here every 200 so that there are several
to look at. It sets learning rates, keeps the loss history and refuses non-finite updates. Neither validates.

They take turns in blocks of steps; a figure is the difference between neighbouring blocks. Where plots are drawn or a
checkpoint is in flight is reported apart: a block that begins with the save, however much of it the save takes.

Two more runs of ours, without plots, have a stopwatch on each activity that the bare loop does without: those of a
step, and those of a save, in processor time of whichever thread does them. They run when the arithmetic of a model has
put other things into the processor's caches, and then take several times as long as when they are repeated by
themselves. Most of a save's is time in which Python serves the thread that writes, and the thread that trains waits.
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

from spectral_exp.bench.measure import Line, Options, Section, Spread, Target, say
from spectral_exp.config.build import build
from spectral_exp.config.command_line import CommandLine
from spectral_exp.core import files, json_files
from spectral_exp.monitoring import CheckpointManager, MetricsLogger, VisualizationManager
from spectral_exp.monitoring.checkpoint import archive
from spectral_exp.monitoring.checkpoint.direct_file import DirectFile
from spectral_exp.monitoring.checkpoint.staging import Staged
from spectral_exp.training.profiling import StepProfiler
from spectral_exp.training.progress import Progress
from spectral_exp.training.runner import Runner
from spectral_exp.training.step import Stepper

OURS = "ours"
BARE = "bare loop"

ADDED_US = Target(40, strict=True)
ADDED_PERCENT = Target(1, strict=True)

_RUN = (
    "+experiment=classic", "data=markov", "data.n_tokens=100000", "threads=1", "training.sample_tokens=0",
    "training.eval_windows=1", "training.eval_interval=1000000",
    "monitoring.metrics.log_interval=10", "monitoring.visualization.viz_interval=1000",
)  # fmt: skip


@dataclass(frozen=True)
class _Case:
    """A model, and how to take turns on it.

    Attributes:
        name: for the table.
        settings: overrides that give its size.
        block: steps of a turn; whole metrics intervals.
        steps: of each loop.
        save_interval: steps between checkpoints.
        target: of the median.
    """

    name: str
    settings: Sequence[str]
    block: int
    steps: int
    save_interval: int
    target: Target


@dataclass(frozen=True)
class _Pair:
    """Seconds a step of neighbouring blocks, and what went on during ours."""

    bare_s: float
    ours_s: float
    saving: bool
    plotting: bool


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
    """Measure both cases."""
    for number, case in enumerate(CASES):
        # Half as many still hold several checkpoints.
        steps = (
            4 * case.block if options.quick else case.steps // 2 if options.brief else case.steps
        )
        say(f"{case.name}: {steps} steps of each loop")
        pairs = _take_turns(
            case, steps, options.new_folder(f"ours_{number}"), options.new_folder(f"bare_{number}")
        )
        yield Section(case.name, list(_lines(case, pairs)))
    steps = 50 if options.quick else 1500
    yield _where_it_goes(steps, options.new_folder("step"))
    yield _where_a_save_goes(steps, options.new_folder("save"))


def _lines(case: _Case, pairs: Sequence[_Pair]) -> Iterator[Line]:
    yield Line(BARE, "limit: a step", "ms", Spread.of(1e3 * pair.bare_s for pair in pairs))
    everywhere = Spread.of([1e6 * sum(pair.ours_s - pair.bare_s for pair in pairs) / len(pairs)])
    kinds = {
        "added to a step": [pair for pair in pairs if not pair.saving and not pair.plotting],
        "the same, a checkpoint in flight": [
            pair for pair in pairs if pair.saving and not pair.plotting
        ],
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
    yield Line(OURS, "added on average, plots and all", "us", everywhere)


_Functions = Sequence[tuple[object, str]]
_STEP: Mapping[str, _Functions] = {
    "learning rates and schedules": [(Stepper, "_set_schedules")],
    "taking in loss and gradient norm": [(Stepper, "record")],
    "asking what is due": [
        (MetricsLogger, "should_log"), (VisualizationManager, "should_visualize"),
        (CheckpointManager, "should_checkpoint"), (CheckpointManager, "exceeds_risk"), (StepProfiler, "step"),
        (Progress, "update"),
    ],
    "a metrics line, every 10 steps": [(Runner, "_training_metrics"), (Runner, "_log")],
}  # fmt: skip
_SAVE: Mapping[str, _Functions] = {
    "the call, in the thread that trains": [(CheckpointManager, "save_checkpoint")],
    "copying the tensors, in the thread that writes": [(Staged, "copy")],
    "the archive": [(archive, "write_archive")],
    "the file besides, and its sidecar": [
        (DirectFile, "__init__"), (DirectFile, "sync"), (json_files, "write_json_atomic"),
    ],
    "the pointer": [(files, "replace_symlink")],
    "reading the newest back, removing the oldest": [(CheckpointManager, "_clean_up")],
}  # fmt: skip


def _where_it_goes(steps: int, folder: Path) -> Section:
    """Microseconds a step of each activity of ours, on the small model."""
    spent_s = _stopwatches(_STEP, steps, steps + 1, folder, time.perf_counter)
    return _per_unit(
        "a step: where it goes", {name: 1e6 * s / steps for name, s in spent_s.items()}, "us"
    )


def _where_a_save_goes(steps: int, folder: Path) -> Section:
    """Processor time of each activity of a save beside training, on the small model."""
    every = max(1, steps // 15)
    spent_s = _stopwatches(_SAVE, steps, every, folder, time.thread_time)
    return _per_unit(
        "a save: where it goes",
        {name: 1e3 * s / (steps // every) for name, s in spent_s.items()},
        "ms",
    )


def _stopwatches(
    activities: Mapping[str, _Functions],
    steps: int,
    save_interval: int,
    folder: Path,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Seconds of each activity over `steps` of ours, without plots."""
    settings = (
        f"training.max_steps={steps}", "monitoring.visualization.viz_interval=1000000",
        f"monitoring.checkpoint.save_interval={save_interval}",
    )  # fmt: skip
    (job,) = CommandLine.parse([*_RUN, *_SMALL, *settings]).compose()
    with ExitStack() as stack, _quiet():
        calls: list[tuple[str, list[float]]] = []
        for activity, functions in activities.items():
            for owner, name in functions:
                seconds: list[float] = []
                calls.append((activity, seconds))
                stack.enter_context(
                    mock.patch.object(owner, name, _timed(getattr(owner, name), seconds, clock))
                )
        stack.enter_context(build(job.config, folder, [])).run()
    total_s = dict.fromkeys(activities, 0.0)
    for activity, seconds in calls:
        # Without the slowest: the first call opens files, and others of the machine come in between.
        usual = sorted(seconds)[: -(len(seconds) // 10) or None]
        total_s[activity] += statistics.mean(usual) * len(seconds)
    return total_s


def _per_unit(title: str, spent: Mapping[str, float], unit: str) -> Section:
    lines = [Line(OURS, activity, unit, Spread.of([value])) for activity, value in spent.items()]
    return Section(title, [*lines, Line(OURS, "their sum", unit, Spread.of([sum(spent.values())]))])


def _timed(
    function: Callable[..., Any], seconds: list[float], clock: Callable[[], float]
) -> Callable[..., Any]:
    """`function`, which adds how long each call took by `clock` to `seconds`."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start_s = clock()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(clock() - start_s)

    return timed


def _take_turns(case: _Case, steps: int, ours: Path, bare: Path) -> list[_Pair]:
    """Run our loop to its end; before each of its blocks the bare one does the same steps."""
    lengths = (
        f"training.max_steps={steps}",
        f"monitoring.checkpoint.save_interval={case.save_interval}",
    )
    (job,) = CommandLine.parse([*_RUN, *case.settings, *lengths]).compose()
    with _quiet(), build(job.config, ours, []) as runner, build(job.config, bare, []) as other:
        turns = _Turns(case.block, runner.stepper.batches, runner)
        turns.bare = _bare_block(other, _Turns(case.block, other.batches))
        gc.collect()
        runner.stepper.batches = turns
        runner.run()
        return turns.pairs


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the first lines of a run, which would tell of it, out of the middle of the tables."""
    logger = logging.getLogger("spectral_exp")
    level, logger.level = logger.level, logging.WARNING
    try:
        yield
    finally:
        logger.level = level


def _bare_block(parts: Runner, batches: _Turns) -> Callable[[int, int], None]:
    """The bare loop over the steps from one up to, not including, another."""
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


class _Turns:
    """The batches of a loop. Those of ours let the bare loop have its turn whenever a block begins.

    Those of the bare loop have nobody else to wait for, but cost it the same call.

    Attributes:
        pairs: of every block but the first, which warms up.
        bare: does the bare loop's steps from one up to, not including, another.
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

    def __call__(self, step: int, micro_step: int) -> tuple[Tensor, Tensor]:
        """The batch, after the bare loop's turn where it is due."""
        # A save or plots of step n come at the end of that step: a block begins with it and has them to itself.
        if step % self._block == 0:
            self._turn(step)
        return self._batches(step, micro_step)

    def _turn(self, step: int) -> None:
        if self._runner is None or self.bare is None:
            return
        now_s = time.perf_counter()
        if step > 2 * self._block:
            first = step - self._block
            saved = first % self._runner.config["monitoring"]["checkpoint"]["save_interval"] == 0
            plotted = self._runner.visualization.should_visualize(first)
            ours_s = (now_s - self._began_s) / self._block
            self.pairs.append(_Pair(self._bare_s, ours_s, saved, plotted))
        # What is still being written must not slow the bare loop down. No collection of garbage here: what follows one
        # is slower by two milliseconds, since it has been through all the memory there is.
        self._runner.checkpoint.wait()
        start_s = time.perf_counter()
        self.bare(step, step + self._block)
        self._began_s = time.perf_counter()
        self._bare_s = (self._began_s - start_s) / self._block
