"""Time and memory of a training step, wave relative to classic and classic to a bare loop.

Classic uses torch's fused AdamW and attention, and the cross-entropy of `spectral_exp.losses`,
which needs less time and memory than torch's.
`python -m spectral_exp.bench.model STACK VOCABULARY TOKENS` measures one stack's peak memory.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
from spectral_exp.bench.nanogpt import NanoGPT, NanoGPTTraining, OurTraining
from spectral_exp.bench.stacks import (
    CLASSIC,
    STACKS,
    WAVE,
    WAVE_RGD,
    WAVE_RGD_QFE,
    Sizes,
    TrainingStep,
)
from spectral_exp.core.allocator import keep_freed_memory

STEP_RATIOS = {
    2048: {WAVE: Target(1.08), WAVE_RGD: Target(1.13), WAVE_RGD_QFE: Target(1.16)},
    8192: {WAVE: Target(1.06), WAVE_RGD: Target(1.08), WAVE_RGD_QFE: Target(1.10)},
}
LARGE_VOCABULARY = 50257
LARGE_VOCABULARY_RATIO = Target(1.20)
MEMORY_RATIO = Target(1.10)
BARE_LOOP_RATIO = Target(1.0)

OURS = "our classic"
BARE_LOOP = "bare nanoGPT loop"

# Vocabulary, tokens per step, rounds; a step of the last case takes seconds.
_CASES = (
    (256, 2048, 7),
    (1024, 2048, 5),
    (256, 8192, 3),
    (1024, 8192, 3),
    (LARGE_VOCABULARY, 2048, 3),
)
_BRIEF_CASES = ((256, 2048, 5), (256, 8192, 3), (LARGE_VOCABULARY, 2048, 3))
_LEFT_OUT = (
    "vocabulary 1024, memory at 50257, the compiled loop: not part of all, "
    "see `spectral-exp bench model`"
)
_QUICK_CASES = ((64, 64, 2),)
_QUICK = {"n_embd": 32, "n_layer": 1, "n_head": 2, "block_size": 32}


def run(options: Options) -> Iterator[Section]:
    """Measure steps, memory, then classic relative to a bare loop."""
    keep_freed_memory()  # as every run does
    cases = _QUICK_CASES if options.quick else _BRIEF_CASES if options.brief else _CASES
    for vocab_size, n_tokens, n_rounds in cases:
        yield _steps(options, vocab_size, n_tokens, n_rounds)
    sizes = (64,) if options.quick else (256,) if options.brief else (256, LARGE_VOCABULARY)
    for vocab_size in sizes:
        yield _memory(options, vocab_size, 64 if options.quick else 2048)
    yield _bare_loop(options, compiled=False)
    if options.brief:
        yield Section("the rest", [], [_LEFT_OUT])
    elif not options.quick:
        yield _bare_loop(options, compiled=True)


def _sizes(vocab_size: int, quick: bool) -> Sizes:
    return Sizes(vocab_size, **_QUICK) if quick else Sizes(vocab_size)


# --- time -----------------------------------------------------------------------------------------


def _steps(options: Options, vocab_size: int, n_tokens: int, n_rounds: int) -> Section:
    title = f"a training step, vocabulary {vocab_size}, {n_tokens} tokens"
    measure.log_progress(title)
    sizes = _sizes(vocab_size, options.quick)
    steps = {stack: TrainingStep(stack, sizes, n_tokens) for stack in STACKS}
    measurements: dict[str, Callable[[], Figures]] = {
        stack: functools.partial(measure.milliseconds, step) for stack, step in steps.items()
    }
    rounds = measure.measure_rounds(options, measurements, n_rounds, budget_s=60)
    lines = [Line(stack, "a step", "ms", measure.spread(rounds, stack, "ms")) for stack in STACKS]
    for stack in STACKS[1:]:
        target = STEP_RATIOS.get(n_tokens, {}).get(stack)
        if vocab_size == LARGE_VOCABULARY:
            target = LARGE_VOCABULARY_RATIO
        relative = measure.ratio(rounds, stack, CLASSIC, "ms")
        lines.append(Line(stack, f"a step / {CLASSIC}", "x", relative, target))
    return Section(title, lines)


# --- memory ---------------------------------------------------------------------------------------


def _memory(options: Options, vocab_size: int, n_tokens: int) -> Section:
    """Measure the peak memory of training steps, each time in a new process.

    A single peak is not representative: reuse by the allocator differs between processes and
    changes it by a tenth.
    """
    title = f"peak memory of training, vocabulary {vocab_size}, {n_tokens} tokens"
    if not measure.can_measure_peak():
        return Section(title, [], [measure.NO_PEAK])
    measure.log_progress(title)
    arguments = (str(vocab_size), str(n_tokens), *(("quick",) if options.quick else ()))
    measurements = {
        stack: functools.partial(measure.child, "spectral_exp.bench.model", stack, *arguments)
        for stack in STACKS
    }
    n_rounds = options.rounds or (1 if options.quick else 7)
    rounds = measure.interleave(measurements, n_rounds, budget_s=options.budget_s(100))
    lines = [
        Line(stack, "peak", "MB", measure.spread(rounds, stack, "peak_mb")) for stack in STACKS
    ]
    for stack in STACKS[1:]:
        relative = measure.ratio(rounds, stack, CLASSIC, "peak_mb")
        target = None if options.quick else MEMORY_RATIO
        lines.append(Line(stack, f"peak / {CLASSIC}", "x", relative, target))
    return Section(title, lines)


def _measure_memory(stack: str, vocab_size: int, n_tokens: int, quick: bool) -> Figures:
    """Return the increase of peak resident memory by building a stack and two steps, in MB."""
    keep_freed_memory()
    sizes = _sizes(vocab_size, quick)
    TrainingStep(stack, Sizes(8, **_QUICK), 64)()  # excludes what torch loads on first use
    gc.collect()
    before_mb = measure.begin_peak()
    step = TrainingStep(stack, sizes, n_tokens)
    for _ in range(2):
        step()
    return {"peak_mb": measure.peak_mb() - before_mb}


# --- classic and a bare loop ----------------------------------------------------------------------


def _bare_loop(options: Options, compiled: bool) -> Section:
    """Measure the classic model and nanoGPT's on nanoGPT's recipe for a CPU."""
    title = f"nanoGPT's CPU recipe, {'compiled' if compiled else 'eager'}"
    if compiled and not _has_compiler():
        return Section(title, [], ["compiled: not measured: no compiler"])
    measure.log_progress(title)
    ours, bare = OurTraining(compiled), NanoGPTTraining(compiled)
    n_steps = 3 if options.quick else 20
    measurements: dict[str, Callable[[], Figures]] = {
        OURS: functools.partial(_rate, ours.step, n_steps),
        BARE_LOOP: functools.partial(_rate, bare.step, n_steps),
    }
    rounds = measure.measure_rounds(options, measurements, 15, quick=2, budget_s=15)
    lines = [
        Line(name, "tokens per second", "", measure.spread(rounds, name, "tokens_per_s"))
        for name in measurements
    ]
    # A time and not a rate, so that less is better as in all figures with a target.
    relative = measure.ratio(rounds, OURS, BARE_LOOP, "s")
    lines.append(Line(OURS, f"time per token / {BARE_LOOP}", "x", relative, BARE_LOOP_RATIO))
    return Section(title, lines)


def _has_compiler() -> bool:
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return any(map(shutil.which, names))


def _rate(step: Callable[[], object], n_steps: int) -> Figures:
    taken_s = measure.time_call(lambda: [step() for _ in range(n_steps)])
    return {"s": taken_s, "tokens_per_s": n_steps * NanoGPT.TOKENS_PER_STEP / taken_s}


if __name__ == "__main__":
    STACK, VOCABULARY, TOKENS, *FLAGS = sys.argv[1:]
    print(json.dumps(_measure_memory(STACK, int(VOCABULARY), int(TOKENS), "quick" in FLAGS)))
