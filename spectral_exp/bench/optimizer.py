"""What an RGD step costs over fused AdamW, and over fused AdamW plus the transforms that define RGD.

The limit takes three real two-dimensional transforms of every gated matrix: of the parameter, of the update, and back.
RGD makes the same three, and reads the spectra a dozen times more for powers, maxima, roots and products. What remains
if those cost nothing is the floor, fused AdamW and RGD's own transforms: about as much as the limit, which is why 0.9
of it is out of reach while all three are done. Nor do fewer help: one complex transform of P + iU takes as long as the
two real ones that it stands for; and keeping F P from step to step would let round-off grow and double the
checkpoint's weights. `gate_every` is the way to do them less often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target, ratio, say, spread
from spectral_exp.bench.stacks import WAVE, Sizes, build
from spectral_exp.core.allocator import keep_freed_memory
from spectral_exp.optim.rgd import build_rgd, from_half_spectra, half_spectra

FUSED = "fused AdamW"
LIMIT = "fused AdamW + 3 FFTs"
FLOOR = "fused AdamW + RGD's FFTs"
RGD_STEP = "RGD"
RGD_EVERY_4 = "RGD, gate_every=4"

OVER_FUSED = Target(12, strict=True)
OVER_LIMIT = Target(0.9)

_STEPS = 4
"""Steps timed at once: an interval of `gate_every`."""


def run(options: Options) -> Iterator[Section]:
    """Measure steps of the wave model's parameters at vocabulary 256."""
    keep_freed_memory()  # as every run does
    say("optimizer steps")
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
    everyone = {name: _timed(step) for name, step in steps.items()}
    measure.interleave(everyone, 1, budget_s=0)
    rounds = measure.interleave(
        everyone, options.rounds or (2 if options.quick else 25), budget_s=options.budget_s(30)
    )
    n_gated = sum(parameter.numel() for parameter in hidden)
    yield Section(
        f"an optimizer step, {n_gated / 1e6:.1f} M gated parameters",
        [
            *(Line(name, "a step", "ms", spread(rounds, name, "ms")) for name in everyone),
            Line(
                RGD_STEP, f"a step / {FUSED}", "x", ratio(rounds, RGD_STEP, FUSED, "ms"), OVER_FUSED
            ),
            Line(
                RGD_STEP, f"a step / {LIMIT}", "x", ratio(rounds, RGD_STEP, LIMIT, "ms"), OVER_LIMIT
            ),
            Line(FLOOR, f"a step / {LIMIT}", "x", ratio(rounds, FLOOR, LIMIT, "ms")),
            Line(RGD_EVERY_4, f"a step / {FUSED}", "x", ratio(rounds, RGD_EVERY_4, FUSED, "ms")),
        ],
    )


def _timed(step: Callable[[], object]) -> Callable[[], Figures]:
    return lambda: {"ms": 1e3 * measure.timed(lambda: [step() for _ in range(_STEPS)]) / _STEPS}
