"""Cost of an RGD step relative to fused AdamW, without and with the transforms that define RGD.

The limit adds three real two-dimensional transforms of every gated matrix to fused AdamW: of the
parameter, of the update, and back. RGD computes the same three and reads the spectra a dozen more
times for powers, maxima, roots and products. The floor is fused AdamW with RGD's own transforms,
without these reads. It costs about as much as the limit, so 0.9 of the limit is out of reach with
three transforms per step. Fewer transforms do not help: one complex transform of P + iU takes as
long as the two real ones that it replaces, and keeping F P between steps would accumulate round-off
and double the checkpoint's weights. `gate_every` reduces their frequency instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
from spectral_exp.bench.stacks import WAVE, Sizes, build
from spectral_exp.core.allocator import keep_freed_memory
from spectral_exp.optim.gate import from_half_spectra, half_spectra
from spectral_exp.optim.rgd import build_rgd

FUSED = "fused AdamW"
LIMIT = "fused AdamW + 3 FFTs"
FLOOR = "fused AdamW + RGD's FFTs"
RGD_STEP = "RGD"
RGD_EVERY_4 = "RGD, gate_every=4"

OVER_FUSED = Target(12, strict=True)
OVER_LIMIT = Target(0.9)

_STEPS = 4
"""Steps per measurement, one interval of `gate_every`."""


def run(options: Options) -> Iterator[Section]:
    """Measure steps of the wave model's parameters at vocabulary 256."""
    keep_freed_memory()  # as every run does
    measure.log_progress("optimizer steps")
    sizes = (
        Sizes(64, n_embd=32, n_layer=1, n_head=2, block_size=32) if options.quick else Sizes(256)
    )
    model, fused, _ = build(WAVE, sizes)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
    hidden = [
        p
        for group in model.parameter_groups()
        if group["role"] == "hidden"
        for p in group["params"]
    ]

    @torch.no_grad()
    def limit() -> None:
        fused.step()
        for parameter in hidden:
            assert parameter.grad is not None
            torch.fft.rfft2(parameter)
            torch.fft.irfft2(torch.fft.rfft2(parameter.grad), s=parameter.shape)

    @torch.no_grad()
    def floor() -> None:
        fused.step()
        for parameter in hidden:
            assert parameter.grad is not None
            half_spectra(parameter[None])
            from_half_spectra(half_spectra(parameter.grad[None]), parameter.shape[1])

    steps: dict[str, Callable[[], object]] = {
        FUSED: fused.step,
        LIMIT: limit,
        FLOOR: floor,
        RGD_STEP: build_rgd(model.parameter_groups(), warmup_steps=0).step,
        RGD_EVERY_4: build_rgd(model.parameter_groups(), warmup_steps=0, gate_every=4).step,
    }
    measurements = {name: functools.partial(_time_steps, step) for name, step in steps.items()}
    rounds = measure.measure_rounds(options, measurements, 25, quick=2, budget_s=30)
    lines = [
        Line(name, "a step", "ms", measure.spread(rounds, name, "ms")) for name in measurements
    ]
    for name, other, target in (
        (RGD_STEP, FUSED, OVER_FUSED),
        (RGD_STEP, LIMIT, OVER_LIMIT),
        (FLOOR, LIMIT, None),
        (RGD_EVERY_4, FUSED, None),
    ):
        relative = measure.ratio(rounds, name, other, "ms")
        lines.append(Line(name, f"a step / {other}", "x", relative, target))
    n_gated = sum(parameter.numel() for parameter in hidden)
    yield Section(f"an optimizer step, {n_gated / 1e6:.1f} M gated parameters", lines)


def _time_steps(step: Callable[[], object]) -> Figures:
    return {"ms": 1e3 * measure.time_call(lambda: [step() for _ in range(_STEPS)]) / _STEPS}
