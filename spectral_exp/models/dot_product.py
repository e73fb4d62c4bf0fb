"""Softmax attention by dot products of queries and keys, with different encodings of positions.

Letters: B batch, T tokens, S tokens seen so far, C channels (`n_embd`), H heads (`n_head`), D = C/H
head size.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from spectral_exp.core.errors import require
from spectral_exp.models.attention import SoftmaxAttention, concatenate_heads, geometric_rates
from spectral_exp.models.precision import upcast


class DotProductAttention(SoftmaxAttention):
    """Scaled dot-product attention (Vaswani et al. 2017); settings as for SoftmaxAttention."""

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__(n_embd, n_head, block_size, dropout, bias, n_embd // n_head)
        self.scale = (n_embd // n_head) ** -0.5

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return the projections unchanged."""
        return q, k


class NoPositionAttention(DotProductAttention):
    """Dot products without any encoding of positions (Haviv et al. 2022).

    The embedding adds no position table either, so that positions differ only by the causal mask.
    Settings as for SoftmaxAttention.
    """

    carries_position = True


class ALiBiAttention(DotProductAttention):
    """Dot products with linear biases (ALiBi, Press et al. 2022): score_ij loses m_h (i - j).

    The slopes m_h of the heads are a geometric ladder, see `alibi_slopes`. Settings as for
    SoftmaxAttention.
    """

    carries_position = True
    slopes: Tensor

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__(n_embd, n_head, block_size, dropout, bias)
        self.register_buffer("slopes", alibi_slopes(n_head), persistent=False)

    def score_bias(self, T: int, S: int) -> Tensor:
        """Return the biases, which are -infinity for tokens in the future."""
        tokens = torch.arange(S, device=self.slopes.device)
        distances = tokens[S - T :, None] - tokens
        bias = -self.slopes[:, None, None] * distances
        return bias.masked_fill(distances < 0, -math.inf)[None]

    def feature_flops(self) -> int:
        """Count one addition per head and key."""
        return self.n_head * self.block_size


class RotaryAttention(SoftmaxAttention):
    """Attention with rotary positions (Su et al. 2021).

    The d-th pair of channels turns by base^(-2d/D) radians per token.

    Args:
        base: > 1; a larger one makes the slowest pairs slower.
        frequencies: "fixed", or "learned", one set of rates per layer that starts at these.
        n_embd, n_head, block_size, dropout, bias: as for SoftmaxAttention.
    """

    carries_position = True
    keeps_projection = False
    wave_parameters = ("rates",)
    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        bias: bool = False,
        base: float = 10000.0,
        frequencies: Literal["fixed", "learned"] = "fixed",
    ) -> None:
        head_size = n_embd // n_head
        super().__init__(n_embd, n_head, block_size, dropout, bias, head_size)
        self.scale = head_size**-0.5
        require(
            head_size % 2 == 0,
            "n_embd",
            n_embd,
            f"n_head={n_head} times an even number for rotary attention",
        )
        require(1 < base < math.inf, "base", base, "a finite number > 1")
        allowed = "fixed or learned"
        require(frequencies in ("fixed", "learned"), "frequencies", frequencies, allowed)
        self.rates: nn.Parameter | None = None
        if frequencies == "learned":
            self.rates = nn.Parameter(geometric_rates(head_size // 2, base=base))
            return
        # Angles in float64: float32 would be off by 1e-4 radians after some thousand tokens.
        angles = torch.arange(block_size, dtype=torch.float64)[:, None] * geometric_rates(
            head_size // 2, torch.float64, base
        )
        self.register_buffer(
            "cosines", angles.cos().to(torch.get_default_dtype()), persistent=False
        )
        self.register_buffer("sines", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Rotate channel pairs (d, d + D/2) of q and k by position times rate."""
        end = start + q.shape[2]
        if self.rates is None:
            cosines, sines = self.cosines[start:end], self.sines[start:end]
        else:
            positions = torch.arange(start, end, device=q.device, dtype=self.rates.dtype)
            angles = positions[:, None] * self.rates
            cosines, sines = angles.cos(), angles.sin()
        return _rotate(upcast(q), cosines, sines), _rotate(upcast(k), cosines, sines)

    def feature_flops(self) -> int:
        """Count three operations per channel of q and k for the rotation."""
        return 6 * self.score_width


def alibi_slopes(n_head: int) -> Tensor:
    """Return the slopes of ALiBi, shape (n_head).

    For a power of two they are 2^(-8h/H) for h = 1..H. Otherwise those of the next lower power of
    two come first, then every second one, from the first, of the next higher power.
    """
    lower = 2 ** (n_head.bit_length() - 1)
    exponents = [-8 * h / lower for h in range(1, lower + 1)]
    exponents += [-4 * h / lower for h in range(1, 2 * lower, 2)]
    return torch.pow(2.0, torch.tensor(exponents[:n_head]))


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs (x_d, x_{d + D/2}) of x (B, H, T, D) by angles given as (T, D/2)."""
    a, b = x.chunk(2, dim=-1)
    return concatenate_heads(a * cosines - b * sines, a * sines + b * cosines)
