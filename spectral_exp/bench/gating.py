"""Effect of `gate_every` on the validation loss of a small model, paired by seed.

This bench is not part of `all`, because it measures no time. Weights and batches of a seed are the
same for every interval, so differences are due to the interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Line, Options, Section
from spectral_exp.bench.stacks import WAVE_RGD, Sizes, build
from spectral_exp.data import Batches, Byte, Dataset, EvalWindows, Markov, PythonStdlib, prepare
from spectral_exp.optim.rgd import build_rgd
from spectral_exp.optim.schedule import Cosine
from spectral_exp.training.evaluation import evaluate

INTERVALS = (1, 2, 4)

_SEEDS, _STEPS, _WARMUP_STEPS, _BATCH, _WINDOWS = 3, 400, 40, 16, 256
_LEARNING_RATE = 3e-3


def run(options: Options) -> Iterator[Section]:
    """Train every interval with every seed; the option --rounds is the number of seeds."""
    n_seeds = options.rounds or (2 if options.quick else _SEEDS)
    n_steps = 5 if options.quick else _STEPS
    sizes = Sizes(256, n_embd=64, n_layer=2, n_head=2, block_size=64)
    corpus = Markov(n_tokens=20_000) if options.quick else PythonStdlib()
    data = prepare(
        corpus, Byte(), block_size=sizes.block_size, cache_dir=options.new_folder("cache")
    )
    rounds = []
    for seed in range(1, n_seeds + 1):
        intervals = ", ".join(map(str, INTERVALS))
        measure.log_progress(
            f"gate_every={intervals}: {n_steps} steps with seed {seed} of {n_seeds}"
        )
        rounds.append({_name(k): {"bpb": _train(data, sizes, seed, k, n_steps)} for k in INTERVALS})
    first, *others = map(_name, INTERVALS)
    lines = [
        Line(name, "loss", "bits/byte", measure.spread(rounds, name, "bpb"))
        for name in (first, *others)
    ]
    for name in others:
        paired = measure.difference(rounds, name, first, "bpb")
        lines.append(Line(name, f"loss - {first}, same seed", "bits/byte", paired))
    yield Section(
        f"validation after {n_steps} steps of {_BATCH * sizes.block_size} bytes, wave + RGD, "
        f"{n_seeds} seeds",
        lines,
    )


def _name(interval: int) -> str:
    return f"gate_every={interval}"


def _train(data: Dataset, sizes: Sizes, seed: int, gate_every: int, n_steps: int) -> float:
    """Train the wave stack with RGD and return its bits per byte on the validation text."""
    model, _, loss = build(WAVE_RGD, sizes, seed)
    optimizer = build_rgd(
        model.parameter_groups(), _LEARNING_RATE, warmup_steps=_WARMUP_STEPS, gate_every=gate_every
    )
    schedule = Cosine(n_steps, min(_WARMUP_STEPS, n_steps))
    batches = Batches(data.train, sizes.block_size, _BATCH, seed)
    for step in range(1, n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * schedule.factor(step)
        x, y = batches(step)
        loss(model(x), y)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    windows = EvalWindows(data.val, data.tokenizer.token_bytes, sizes.block_size, _BATCH, _WINDOWS)
    return evaluate(model, windows, torch.device("cpu")).bpb
