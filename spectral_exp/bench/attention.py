"""Attention layers relative to fused dot-product attention, and memory during generation.

A layer is measured forward and backward, with its projections. During generation linear pure-wave
attention stores running sums, whose size is independent of the number of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Spread, Target
from spectral_exp.core.allocator import keep_freed_memory
from spectral_exp.models.attention import (
    Attention,
    InterferenceAttention,
    PhasorAttention,
)
from spectral_exp.models.dot_product import DotProductAttention, RotaryAttention
from spectral_exp.models.pure_wave import PureWaveAttention, RunningSums

DOT_PRODUCT = "dot_product"
LINEAR = "pure_wave_linear"
QUADRATIC = "pure_wave"

LINEAR_RATIOS = {2048: Target(1.2), 8192: Target(0.6, strict=True)}
CONSTANT = Target(1)

_WIDTH, _HEADS, _WAVES = 384, 6, 48


def run(options: Options) -> Iterator[Section]:
    """Measure layers at each length, then generation."""
    keep_freed_memory()  # as every run does
    for n_tokens, n_rounds in ((64, 2),) if options.quick else ((2048, 9), (8192, 3)):
        yield _layers(options, n_tokens, n_rounds)
    yield _generation(options)


def _layers(options: Options, n_tokens: int, n_rounds: int) -> Section:
    title = f"an attention layer, forward and backward, {n_tokens} tokens"
    measure.log_progress(title)
    kinds: dict[str, Callable[..., Attention]] = {
        DOT_PRODUCT: DotProductAttention,
        "rotary": RotaryAttention,
        "interference": functools.partial(InterferenceAttention, n_wave=_WAVES),
        "phasor": functools.partial(PhasorAttention, n_wave=_WAVES),
        LINEAR: functools.partial(PureWaveAttention, n_wave=_WAVES, mode="linear"),
    }
    if n_tokens <= 2048:  # its T x T weights take gigabytes for longer sequences
        kinds[QUADRATIC] = functools.partial(PureWaveAttention, n_wave=_WAVES)
    x = torch.randn(1, n_tokens, _WIDTH, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    measurements: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_time_layer, kind(_WIDTH, _HEADS, n_tokens), x)
        for name, kind in kinds.items()
    }
    rounds = measure.measure_rounds(options, measurements, n_rounds, budget_s=40)
    lines = [Line(name, "a layer", "ms", measure.spread(rounds, name, "ms")) for name in kinds]
    for name in list(kinds)[1:]:
        target = LINEAR_RATIOS.get(n_tokens) if name == LINEAR else None
        relative = measure.ratio(rounds, name, DOT_PRODUCT, "ms")
        lines.append(Line(name, f"a layer / {DOT_PRODUCT}", "x", relative, target))
    return Section(title, lines)


def _time_layer(layer: Attention, x: Tensor) -> Figures:
    return measure.milliseconds(lambda: layer(x.detach().requires_grad_()).sum().backward())


@torch.no_grad()
def _generation(options: Options) -> Section:
    """Measure the time of a token and the memory after few and after many tokens."""
    few, many = (8, 64) if options.quick else (256, 4096)
    measure.log_progress(f"generating after {few} and after {many} tokens")
    layer = PureWaveAttention(_WIDTH, _HEADS, many + 64, n_wave=_WAVES, mode="linear")
    generator = torch.Generator().manual_seed(0)
    token = torch.randn(1, 1, _WIDTH, generator=generator)
    states: dict[int, RunningSums] = {}
    for n_tokens in (few, many):
        state = layer.new_state(1)
        assert isinstance(state, RunningSums)
        layer(torch.randn(1, n_tokens, _WIDTH, generator=generator), 0, state)
        states[n_tokens] = state

    def work(n_tokens: int) -> Figures:
        state = states[n_tokens]
        taken_s = measure.time_call(lambda: [layer(token, n_tokens, state) for _ in range(16)])
        return {"us": 1e6 * taken_s / 16}

    names = {n: f"after {n} tokens" for n in states}
    measurements: dict[str, Callable[[], Figures]] = {
        name: functools.partial(work, n) for n, name in names.items()
    }
    rounds = measure.measure_rounds(options, measurements, 15, budget_s=5)
    sizes = {n: float(state.sums.nbytes) for n, state in states.items() if state.sums is not None}
    growth = Spread.of([sizes[many] / sizes[few]])
    return Section(
        "pure_wave_linear, generating",
        [
            *(
                Line(name, "a token", "us", measure.spread(rounds, name, "us"))
                for name in names.values()
            ),
            *(Line(names[n], "memory", "kB", Spread.of([size / 1e3])) for n, size in sizes.items()),
            Line(names[many], f"memory / {names[few]}", "x", growth, CONSTANT),
        ],
    )
