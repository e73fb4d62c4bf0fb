"""Attention without softmax: positive wave features, mixed in quadratic or linear time.

Letters: B batch, T tokens, C channels (`n_embd`), H heads (`n_head`), D = C/H head size, W waves
(`n_wave`), N chunks of L tokens.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_exp.core.errors import require
from spectral_exp.models.attention import Attention, LayerState, geometric_rates, to_length
from spectral_exp.models.norms import RMSNorm
from spectral_exp.models.precision import full_precision, upcast


class RunningSums(LayerState):
    """Sum of key features times [values, 1] over all tokens so far, (B, H, W, D + 1)."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None


def mix_quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the causal sums over j <= i of <q_i, k_j> v_j, computed from the T x T weights."""
    return (q @ k.transpose(-1, -2)).tril() @ v


def mix_linear(
    q: Tensor, k: Tensor, v: Tensor, chunk_size: int, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sums of `mix_quadratic` in O(T) time and memory, and the running sums.

    The computation is quadratic inside chunks and uses running sums between them.

    Args:
        q, k: features (B, H, T, W).
        v: values (B, H, T, E).
        chunk_size: L; memory holds T/L running sums of W x E.
        before: running sums (B, H, W, E) of the preceding tokens; None if there are none.

    Returns:
        The mixed values (B, H, T, E) and the running sums (B, H, W, E) after the last token.
    """
    T = q.shape[2]
    # (B, H, N, L, any); padding adds zeros to the sums.
    q, k, v = (_chunks(x, chunk_size) for x in (q, k, v))
    sums = (k.transpose(-1, -2) @ v).cumsum(dim=2)  # (B, H, N, W, E), each chunk's own included
    first = torch.zeros_like(sums[:, :, :1]) if before is None else before[:, :, None]
    sums = torch.cat([first, sums + first], dim=2)
    mixed = mix_quadratic(q, k, v) + q @ sums[:, :, :-1]
    return mixed.flatten(2, 3)[:, :, :T], sums[:, :, -1]


def _chunks(x: Tensor, chunk_size: int) -> Tensor:
    """Split (B, H, T, any) into (B, H, N, L, any), with the last chunk padded by zeros."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % chunk_size))
    return x.reshape(x.shape[0], x.shape[1], -1, chunk_size, x.shape[-1])


class PureWaveAttention(Attention):
    """Linear attention (Katharopoulos et al. 2020) between positive wave features.

    The weight of token j in token i is <phi(q_i), phi(k_j)> divided by its causal sum. q and k are
    W waves per head, sin(freq * t + phase), whose frequency and phase are projected from x. They
    are scaled to length W^(1/4), so that the feature map phi = elu(.) + 1 receives values of order
    one. Both modes compute the same function; decoding always uses the running sums. Dropout does
    not apply to the mixing weights, which linear mode never forms. Frequencies are multiplied by
    the position, so the computation stays in full precision up to the result.

    Two settings depart from that definition. `frequencies`: a projected frequency times the
    position gives nearly random phases at distant tokens, so the agreement of two waves carries
    little information on their distance. Learned frequencies are the same for q and k of all
    tokens, as in phasor attention, so phases advance evenly with the position. `feature_length`:
    waves of length W^(1/4) give features close to 1 and nearly equal weights; longer waves separate
    tokens more.

    Args:
        n_embd: C.
        n_head: H; must divide C.
        block_size: the longest sequence.
        dropout: probability of dropping a channel of the result.
        bias: whether the linear maps have biases.
        n_wave: W.
        mode: "quadratic" forms all T x T weights; "linear" takes O(T) time and memory.
        chunk_size: L, tokens per chunk of linear mode.
        frequencies: "projected" from x, or "learned", W per head that start at 10000^(-w/W) radians
            per token.
        feature_length: the length that q and k are scaled to; W^(1/4) by default.
    """

    carries_position = True
    wave_parameters = ("omega",)

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        bias: bool = False,
        n_wave: int = 16,
        mode: Literal["quadratic", "linear"] = "quadratic",
        chunk_size: int = 64,
        frequencies: Literal["projected", "learned"] = "projected",
        feature_length: float | None = None,
    ) -> None:
        super().__init__(n_embd, n_head, block_size)
        require(n_wave >= 1, "n_wave", n_wave, ">= 1")
        require(mode in ("quadratic", "linear"), "mode", mode, "quadratic or linear")
        require(chunk_size >= 1, "chunk_size", chunk_size, ">= 1")
        require(
            frequencies in ("projected", "learned"),
            "frequencies",
            frequencies,
            "projected or learned",
        )
        fits = feature_length is None or 0 < feature_length < math.inf
        require(fits, "feature_length", feature_length, "a finite number > 0, or null")
        self.n_wave, self.mode, self.chunk_size = n_wave, mode, chunk_size
        self.feature_length = n_wave**0.25 if feature_length is None else feature_length
        self.omega: nn.Parameter | None = None
        if frequencies == "learned":
            self.omega = nn.Parameter(geometric_rates(n_wave).repeat(n_head, 1))
        # Phases of q and k, and their frequencies if projected.
        self.projections = 2 if frequencies == "learned" else 4
        self.waves = nn.Linear(n_embd, self.projections * n_head * n_wave, bias=bias)
        self.values = nn.Linear(n_embd, n_embd, bias=bias)
        self.output = nn.Linear(n_embd, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None

    def normalize_queries_and_keys(self) -> None:
        """Scale the projected phases, and frequencies, to root mean square 1 per head."""
        size = self.projections // 2 * self.n_wave
        self.query_norm, self.key_norm = RMSNorm(size), RMSNorm(size)

    def forward(self, x: Tensor, start: int = 0, state: LayerState | None = None) -> Tensor:
        """Mix tokens x (B, T, C) from position `start`, including the tokens held in `state`."""
        v = self._heads(self.values(x))
        with full_precision(x):
            q, k = self._features(x, start)
            v = F.pad(upcast(v), (0, 1), value=1.0)  # the channel of ones sums the weights
            if isinstance(state, RunningSums):
                chunk_size = min(self.chunk_size, x.shape[1])
                mixed, state.sums = mix_linear(q, k, v, chunk_size, state.sums)
            elif self.mode == "linear":
                mixed, _ = mix_linear(q, k, v, self.chunk_size)
            else:
                mixed = mix_quadratic(q, k, v)
            y = mixed[..., :-1] / mixed[..., -1:]
        y = y.transpose(1, 2).flatten(2).to(self.output.weight.dtype)
        result: Tensor = self.residual_dropout(self.output(y))
        return result

    def weights(self, x: Tensor) -> Tensor:
        """Return the mixing weights (B, H, T, T); row i holds the weights of tokens j <= i."""
        with full_precision(x):
            q, k = self._features(x, 0)
            products = (q @ k.transpose(-1, -2)).tril()
            return products / products.sum(-1, keepdim=True)

    def new_state(self, batch_size: int) -> LayerState:
        """Return an empty memory, which takes its shape from the first tokens."""
        return RunningSums()

    def flops_per_token(self) -> int:
        """Count the linear maps, the features, and the mixing of the mode in use.

        Features cost twelve operations per wave of q and k. Quadratic mixing costs T products of W
        features and T values of D + 1 channels per head. Linear mixing replaces T by L and adds
        updating and reading W x (D + 1) running sums.
        """
        head = self.n_embd // self.n_head + 1
        waves = self.n_head * self.n_wave
        linear = 2 * self.n_embd * self.projections * waves + 4 * self.n_embd**2
        features = 12 * 2 * waves
        span, sums = self.block_size, 0
        if self.mode == "linear":
            span, sums = min(self.chunk_size, self.block_size), 4 * self.n_wave * head
        return linear + features + self.n_head * (2 * span * (self.n_wave + head) + sums)

    def _features(self, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return the positive features phi(q) and phi(k), each (B, H, T, W)."""
        dtype = self.waves.weight.dtype
        positions = torch.arange(start, start + x.shape[1], device=x.device, dtype=dtype)[:, None]
        # The linear map too is exempt from autocast: a frequency error grows with the position.
        projected = self._heads(self.waves(x.to(dtype)))
        q, k = projected.chunk(2, dim=-1)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.omega is None:
            (q_freq, q_phase), (k_freq, k_phase) = q.chunk(2, dim=-1), k.chunk(2, dim=-1)
        else:
            q_phase, k_phase = q, k
            q_freq = k_freq = self.omega[:, None]
        q = torch.sin(q_freq * positions + q_phase)
        k = torch.sin(k_freq * positions + k_phase)
        length = q.new_full((self.n_head, 1, 1), self.feature_length)
        q, k = (to_length(x, torch.zeros_like(length), length, self.n_wave) for x in (q, k))
        return F.elu(q) + 1, F.elu(k) + 1
