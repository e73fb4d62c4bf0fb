"""Wave parts outside attention: wave packets per token and the resonance activation.

Letters: B batch, T tokens, C channels (`n_embd`), V vocabulary, W waves (`n_wave`), M harmonics
(`n_harmonic`).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spectral_exp.core.errors import require
from spectral_exp.models.embedding import Embedding
from spectral_exp.models.precision import full_precision, upcast

RESONANCE_STRENGTH = 0.1

_CPU_PIECE = 2**18


def resonance(h: Tensor) -> Tensor:
    """Return gelu(h) + 0.1 sin(h) elementwise."""
    if torch.compiler.is_compiling():
        return F.gelu(h) + RESONANCE_STRENGTH * torch.sin(h)  # the compiler fuses this
    activated: Tensor = _Resonance.apply(h)  # type: ignore[no-untyped-call]
    return activated


class _Resonance(torch.autograd.Function):
    """`resonance` that saves only h and adds in place, so it needs no more memory than gelu."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        h = h.contiguous()
        y = F.gelu(h)
        for part, out in zip(_pieces(h), _pieces(y), strict=True):
            out.add_(torch.sin(part), alpha=RESONANCE_STRENGTH)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        h, grad = h.contiguous(), grad.contiguous()
        result: Tensor = torch.ops.aten.gelu_backward(grad, h)
        for part, slope, out in zip(_pieces(h), _pieces(grad), _pieces(result), strict=True):
            out.addcmul_(torch.cos(part), slope, value=RESONANCE_STRENGTH)
        return result


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Return views of a contiguous `x` that fit a CPU's cache, or one view on other devices."""
    return torch.split(x.view(-1), _CPU_PIECE if x.device.type == "cpu" else max(1, x.numel()))


def wave_packets(freqs: Tensor, phases: Tensor, amps: Tensor) -> Tensor:
    """Return the packets [a sin(theta), a cos(theta)] at position 0, theta = 2 pi m f + phi.

    The harmonics are m = 1..M.

    Args:
        freqs: base frequencies f of each token (..., W).
        phases: phases phi (..., W).
        amps: amplitudes a (..., W, M).

    Returns:
        The packets (..., 2WM), all sines before all cosines.
    """
    harmonics = torch.arange(1, amps.shape[-1] + 1, device=amps.device, dtype=amps.dtype)
    theta = 2 * math.pi * freqs[..., None] * harmonics + phases[..., None]
    return torch.cat(
        [(amps * torch.sin(theta)).flatten(-2), (amps * torch.cos(theta)).flatten(-2)], dim=-1
    )


def at_positions(packets: Tensor, rates: Tensor, positions: Tensor) -> Tensor:
    """Return `packets` (B, T, 2WM) moved to `positions` t (T): theta is shifted by gamma t.

    A position adds the same angle to all harmonics of a wave, so each pair of sine and cosine is
    rotated by angle addition, and sines are computed for T positions and W waves only.

    Args:
        packets: packets at position 0 (B, T, 2WM).
        rates: position rates gamma (W).
        positions: positions t (T).
    """
    n_harmonic = packets.shape[-1] // (2 * len(rates))
    shift = positions.to(rates.dtype)[:, None] * rates.repeat_interleave(n_harmonic)  # (T, WM)
    cosines, sines = torch.cos(shift), torch.sin(shift)
    a, b = packets.chunk(2, dim=-1)
    return torch.cat([a * cosines + b * sines, b * cosines - a * sines], dim=-1)


class WaveEmbedding(Embedding):
    """Wave packet per token, mapped to C channels and blended with a plain table.

    x = LayerNorm(r * wave + (1 - r) * table) with r = sigmoid(`wave_ratio`). A position rotates the
    waves of a packet, so there is no position table.

    Args:
        vocab_size: V.
        block_size: ignored, accepted for the common interface; packets have no last position.
        n_embd: C.
        position_table: ignored, accepted for the common interface.
        n_wave: W, waves per token.
        n_harmonic: M, harmonics per wave.
        wave_ratio: "learned" makes the blend a parameter; "scheduled" moves r from `ratio_start` to
            `ratio_end` in proportion to the progress of the run.
        ratio_start: r at the start, between 0 and 1.
        ratio_end: r at the end of a scheduled run, between 0 and 1; ignored if learned.
        bias: whether the linear map and the normalization have biases.
    """

    wave_parameters = ("base_freqs", "phases", "harmonic_amps", "position_rates", "wave_ratio")
    wave_ratio: Tensor

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: int,
        position_table: bool = False,
        n_wave: int = 16,
        n_harmonic: int = 4,
        wave_ratio: Literal["learned", "scheduled"] = "learned",
        ratio_start: float = 0.5,
        ratio_end: float = 0.9,
        bias: bool = False,
    ) -> None:
        super().__init__()
        require(n_wave >= 1, "n_wave", n_wave, ">= 1")
        require(n_harmonic >= 1, "n_harmonic", n_harmonic, ">= 1")
        require(
            wave_ratio in ("learned", "scheduled"), "wave_ratio", wave_ratio, "learned or scheduled"
        )
        require(0 < ratio_start < 1, "ratio_start", ratio_start, "between 0 and 1, both excluded")
        require(0 < ratio_end < 1, "ratio_end", ratio_end, "between 0 and 1, both excluded")
        self.n_wave, self.n_harmonic = n_wave, n_harmonic
        self.scheduled, self.ratio_start, self.ratio_end = (
            wave_ratio == "scheduled",
            ratio_start,
            ratio_end,
        )

        self.table = nn.Embedding(vocab_size, n_embd)
        ladder = torch.linspace(0.5, 5.0, n_wave)
        self.base_freqs = nn.Parameter(ladder + 0.1 * torch.randn(vocab_size, n_wave))
        self.phases = nn.Parameter(2 * math.pi * torch.rand(vocab_size, n_wave))
        # This spread gives a packet the expected length 0.5 for every W and M.
        spread = 0.5 / math.sqrt(n_harmonic * n_wave)
        self.harmonic_amps = nn.Parameter(spread * torch.randn(vocab_size, n_wave, n_harmonic))
        self.position_rates = nn.Parameter(0.1 * torch.randn(n_wave))
        self.to_channels = nn.Linear(2 * n_wave * n_harmonic, n_embd, bias=bias)
        self.norm = nn.LayerNorm(n_embd, bias=bias)

        # A scheduled ratio is a buffer: it is saved with the model, so generation uses the trained
        # blend, and filling it in place does not recompile a compiled model.
        logit = torch.tensor(_logit(ratio_start))
        if self.scheduled:
            self.register_buffer("wave_ratio", logit)
        else:
            self.wave_ratio = nn.Parameter(logit)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Return the vectors (B, T, C) of `ids` (B, T), which begin at position `start`."""
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        with full_precision(self.phases):
            amps = self.harmonic_amps.flatten(1)
            if self.table.num_embeddings <= ids.numel():
                # A small vocabulary: compute the packet of each token once, then look it up.
                packets = F.embedding(ids, self._packets(self.base_freqs, self.phases, amps))
            else:
                tables = (self.base_freqs, self.phases, amps)
                packets = self._packets(*(F.embedding(ids, table) for table in tables))
            packets = at_positions(packets, upcast(self.position_rates), positions)
        wave = self.to_channels(packets.to(self.to_channels.weight.dtype))
        r = torch.sigmoid(self.wave_ratio)
        rows = self.table(ids)
        # In this form the backward pass saves only the difference.
        blend: Tensor = self.norm(rows + r * (wave - rows))
        return blend

    def _packets(self, freqs: Tensor, phases: Tensor, amps: Tensor) -> Tensor:
        amps = upcast(amps).reshape(*freqs.shape, self.n_harmonic)
        return wave_packets(upcast(freqs), upcast(phases), amps)

    def flops_per_token(self) -> int:
        """Count the linear map (2WM x C), six operations per harmonic, two per wave, the blend."""
        states, n_embd = self.n_wave * self.n_harmonic, self.table.embedding_dim
        return 2 * (2 * states) * n_embd + 6 * states + 2 * self.n_wave + 3 * n_embd

    def set_progress(self, fraction: float) -> None:
        """Set a scheduled ratio to its value after `fraction` (0 to 1) of the run."""
        if self.scheduled:
            done = min(max(fraction, 0.0), 1.0)
            with torch.no_grad():
                self.wave_ratio.fill_(
                    _logit(self.ratio_start + done * (self.ratio_end - self.ratio_start))
                )

    def metrics(self) -> dict[str, Tensor]:
        """Return the share r of the wave packet in the blend, as `wave_ratio`."""
        return {"wave_ratio": torch.sigmoid(self.wave_ratio.detach())}


def _logit(r: float) -> float:
    return math.log(r / (1 - r))
