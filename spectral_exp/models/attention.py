"""Causal multi-head attention: the contract of every kind, and the four kinds that are a softmax of a dot product.

Each of these four turns x into queries and keys of its own, then makes one call of PyTorch's fused attention.

Letters: B batch, T tokens, S tokens seen so far, C channels (`n_embd`), H heads (`n_head`), D = C/H head size,
W waves (`n_wave`), F features that a query and a key are compared by.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spectral_exp.core.errors import require
from spectral_exp.models.precision import full_precision, upcast

_LEAST_NORM = 1e-6
_LEAST_LENGTH = 1e-20


def geometric_rates(n: int, dtype: torch.dtype | None = None) -> Tensor:
    """The geometric ladder 10000^(-w/n), w = 0..n-1, of radians per token (Vaswani et al. 2017): (n)."""
    w = torch.arange(n, dtype=dtype or torch.get_default_dtype())
    return torch.pow(10000.0, -w / n)


class LayerState:
    """What one attention layer remembers of the tokens before, for incremental decoding."""


class KeyValues(LayerState):
    """The keys (B, H, S, F) and values (B, H, S, D) so far, in buffers that hold `capacity` tokens."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.batch_size, self.capacity, self.length = batch_size, capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Remember k (B, H, T, F) and v (B, H, T, D); return all keys and values so far."""
        if self.keys is None or self.values is None:
            # Made on first use: only then is it known which precision autocast computes keys in.
            self.keys = k.new_empty(self.batch_size, k.shape[1], self.capacity, k.shape[-1])
            self.values = v.new_empty(self.batch_size, v.shape[1], self.capacity, v.shape[-1])
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module, ABC):
    """What GPT asks of an attention layer: x (B, T, C) to (B, T, C), never looking ahead.

    Subclasses set `output`, the projection back to C, and implement the four methods. `carries_position` is true
    where attention itself knows positions, so that the embedding needs no position table. `wave_parameters` names
    those of a module's own parameters that describe waves; they are exempt from weight decay.
    """

    carries_position: bool = False
    wave_parameters: tuple[str, ...] = ()
    output: nn.Linear

    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        require(
            n_head >= 1 and n_embd % n_head == 0,
            "n_embd",
            n_embd,
            f"a multiple of n_head={n_head}",
            "change one of them",
        )
        self.n_embd, self.n_head, self.block_size = n_embd, n_head, block_size

    @abstractmethod
    def forward(self, x: Tensor, start: int = 0, state: LayerState | None = None) -> Tensor:
        """Mix x (B, T, C), whose first token stands at position `start`; with `state`, also with all tokens before."""

    @abstractmethod
    def weights(self, x: Tensor) -> Tensor:
        """The mixing weights (B, H, T, T): row i says how much of each token j <= i goes into token i."""

    @abstractmethod
    def new_state(self, batch_size: int) -> LayerState:
        """An empty memory for `batch_size` sequences."""

    @abstractmethod
    def flops_per_token(self) -> int:
        """Operations per token in a forward pass over a full block; every query is counted against all its keys."""

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H * any) to (B, H, T, any)."""
        return x.reshape(x.shape[0], x.shape[1], self.n_head, -1).transpose(1, 2)


class SoftmaxAttention(Attention):
    """The frame of every kind whose weights are the softmax of a dot product; subclasses say of what.

    `keeps_projection` is false where the derivative of `queries_and_keys` needs its results alone: then the memory of
    the projections is free again before the backward pass.

    Args:
        n_embd: C.
        n_head: H; must divide C.
        block_size: the longest sequence.
        dropout: probability of dropping a mixing weight, and a channel of the result.
        bias: whether the linear maps have biases.
        score_size: how many numbers per head a query (and a key) is made of.
    """

    keeps_projection: bool = True

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float, bias: bool, score_size: int
    ) -> None:
        super().__init__(n_embd, n_head, block_size)
        self.dropout, self.scale, self.head_size = dropout, 1.0, n_embd // n_head
        self.score_width = n_head * score_size
        self.project = nn.Linear(n_embd, 2 * self.score_width + n_embd, bias=bias)
        self.output = nn.Linear(n_embd, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)

    @abstractmethod
    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """From projections (B, H, T, F) to queries and keys (B, H, T, F); dot product times `scale` is the score."""

    def feature_flops(self) -> int:
        """Operations per token from the projections to the queries and keys: 0 unless a subclass counts its own."""
        return 0

    def forward(self, x: Tensor, start: int = 0, state: LayerState | None = None) -> Tensor:
        """Mix x (B, T, C), whose first token stands at position `start`; with `state`, also with all tokens before."""
        q, k, v = self._queries_keys_values(x, start)
        if isinstance(state, KeyValues):
            k, v = state.append(k, v)
        T, S = q.shape[2], k.shape[2]
        # Only a later chunk of several tokens needs a mask of its own: a lone token sees everything before it.
        mask = (
            torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T) if 1 < T < S else None
        )
        dropout = self.dropout if self.training else 0.0
        # Fused kernels want as many features as channels. Zeros change no dot product.
        features, channels = q.shape[-1], v.shape[-1]
        if features < channels:
            q, k = F.pad(q, (0, channels - features)), F.pad(k, (0, channels - features))
        elif features > channels:
            v = F.pad(v, (0, features - channels))
        y = F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=T == S, scale=self.scale
        )[..., :channels]
        mixed: Tensor = self.residual_dropout(self.output(y.transpose(1, 2).flatten(2)))
        return mixed

    def weights(self, x: Tensor) -> Tensor:
        """The mixing weights (B, H, T, T): row i says how much of each token j <= i goes into token i."""
        q, k, _ = self._queries_keys_values(x, 0)
        scores = self.scale * (upcast(q) @ upcast(k).transpose(-1, -2))
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1)

    def new_state(self, batch_size: int) -> LayerState:
        """An empty memory for `batch_size` sequences."""
        return KeyValues(batch_size, self.block_size)

    def flops_per_token(self) -> int:
        """The linear maps, T scores of F features and T values of C channels, and what making the features costs."""
        linear = 2 * self.n_embd * (2 * self.score_width + self.n_embd) + 2 * self.n_embd**2
        return (
            linear + 2 * self.block_size * (self.score_width + self.n_embd) + self.feature_flops()
        )

    def _queries_keys_values(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x).split([self.score_width, self.score_width, self.n_embd], dim=-1)
        if not self.keeps_projection and torch.is_grad_enabled():
            v = v.clone()  # as a part of the projections it would keep all of them
        v = self._heads(v)
        with full_precision(x):
            q, k = self.queries_and_keys(self._heads(q), self._heads(k), start)
        return q.to(v.dtype), k.to(v.dtype), v


class DotProductAttention(SoftmaxAttention):
    """Scaled dot-product attention (Vaswani et al. 2017); the settings are those of SoftmaxAttention."""

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__(n_embd, n_head, block_size, dropout, bias, n_embd // n_head)
        self.scale = (n_embd // n_head) ** -0.5

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """The projections themselves."""
        return q, k


class RotaryAttention(SoftmaxAttention):
    """Dot-product attention whose queries and keys turn with their position (Su et al. 2021), base 10000."""

    carries_position = True
    keeps_projection = False
    cosines: Tensor
    sines: Tensor

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False
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
        # Angles in float64: float32 would be off by 1e-4 radians after some thousand tokens.
        angles = torch.arange(block_size, dtype=torch.float64)[:, None] * geometric_rates(
            head_size // 2, torch.float64
        )
        self.register_buffer(
            "cosines", angles.cos().to(torch.get_default_dtype()), persistent=False
        )
        self.register_buffer("sines", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Turn channel pairs (d, d + D/2) of q and k by the position times their rate."""
        end = start + q.shape[2]
        cosines, sines = self.cosines[start:end], self.sines[start:end]
        return _turn(upcast(q), cosines, sines), _turn(upcast(k), cosines, sines)

    def feature_flops(self) -> int:
        """Three operations per channel of q and k for the turn."""
        return 6 * self.score_width


class InterferenceAttention(SoftmaxAttention):
    """Attention by how well the waves of query and key agree: tau <q, k> of unit-length waves, then softmax.

    q and k are W numbers per head, a linear map of x plus one learned phase offset per head and wave. tau is learned
    per head and starts at sqrt(W); dividing by sqrt(W) instead would leave all weights nearly equal.

    Args:
        n_wave: W.
        n_embd, n_head, block_size, dropout, bias: as for SoftmaxAttention.
    """

    wave_parameters = ("phase_offsets", "tau")
    keeps_projection = False

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        bias: bool = False,
        n_wave: int = 16,
    ) -> None:
        require(n_wave >= 1, "n_wave", n_wave, ">= 1")
        super().__init__(n_embd, n_head, block_size, dropout, bias, n_wave)
        self.n_wave = n_wave
        self.phase_offsets = nn.Parameter(torch.zeros(n_head, n_wave))
        self.tau = nn.Parameter(torch.full((n_head,), math.sqrt(n_wave)))

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Shift both by the phase offsets and normalise both to length 1; tau goes with the queries."""
        offsets, tau, size = (
            self.phase_offsets[:, None],
            self.tau[:, None, None],
            max(self.n_wave, self.head_size),
        )
        return to_length(upcast(q), offsets, tau, size), to_length(
            upcast(k), offsets, torch.ones_like(tau), size
        )

    def feature_flops(self) -> int:
        """Offset, square, sum and division for q and k, and tau."""
        return 9 * self.score_width


class PhasorAttention(SoftmaxAttention):
    """Attention between phasors: score_ij = tau / sqrt(W) * sum_w A_i A_j cos(p_i - p_j).

    Each of q and k is an amplitude A = softplus(.) and a phase per head and wave, both projected from x; position t
    turns the phase by omega t. As cos(x - y) = cos x cos y + sin x sin y, the score is a dot product of the 2W
    features [A cos p, A sin p]. Learned per head: tau, from 1, and W rates omega, from the geometric ladder
    10000^(-w/W) radians per token.

    Args:
        n_wave: W.
        n_embd, n_head, block_size, dropout, bias: as for SoftmaxAttention.
    """

    carries_position = True
    wave_parameters = ("omega", "tau")

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        bias: bool = False,
        n_wave: int = 16,
    ) -> None:
        require(n_wave >= 1, "n_wave", n_wave, ">= 1")
        super().__init__(n_embd, n_head, block_size, dropout, bias, 2 * n_wave)
        self.n_wave = n_wave
        self.omega = nn.Parameter(geometric_rates(n_wave).repeat(n_head, 1))
        self.tau = nn.Parameter(torch.ones(n_head))

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Split both into amplitudes and phases, turn the phases by omega t; tau / sqrt(W) goes with the queries."""
        positions = torch.arange(start, start + q.shape[2], device=q.device, dtype=self.omega.dtype)
        turn = positions[:, None] * self.omega[:, None]  # (H, T, W)
        scale = self.tau[:, None, None] * (self.n_wave**-0.5)
        return scale * _phasors(upcast(q), turn), _phasors(upcast(k), turn)

    def feature_flops(self) -> int:
        """Softplus, angle, sine, cosine and two products (seven in all) per wave of q and k; the turn; the scale."""
        return self.n_head * self.n_wave * (2 * 7 + 1 + 2)


def to_length(x: Tensor, shift: Tensor, length: Tensor, size: int) -> Tensor:
    """x + shift, scaled along the last axis to `length` and filled up with zeros to `size` features.

    What is shorter than 1e-6 counts as 1e-6. A length within 1e-20 of 0 counts as 1e-20.

    Args:
        x: (B, H, T, F).
        shift: (H, 1, F), or (H, 1, 1).
        length: (H, 1, 1).
        size: at least F. Fused attention wants as many features as channels; zeros change no dot product.
    """
    if torch.compiler.is_compiling():
        shifted, norms, length = _with_norms(x, shift, length)
        return F.pad(shifted * (length / norms), (0, size - x.shape[-1]))
    scaled: Tensor = _ToLength.apply(x, shift, length, size)  # type: ignore[no-untyped-call]
    return scaled


def _with_norms(x: Tensor, shift: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x + shift, its norms and the length, none of which is 0."""
    shifted = x + shift
    norms: Tensor = torch.linalg.vector_norm(shifted, dim=-1, keepdim=True).clamp_min(_LEAST_NORM)
    # In place of a constant, so that the derivative goes on through it.
    return (
        shifted,
        norms,
        length + torch.where(length.abs() < _LEAST_LENGTH, _LEAST_LENGTH - length.detach(), 0.0),
    )


class _ToLength(torch.autograd.Function):
    """`to_length` with its derivative written out: a third of the passes of its single operations.

    It keeps its result, which attention keeps anyway, and what x was is forgotten.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, length: Tensor, size: int) -> Tensor:
        shifted, norms, length = _with_norms(x, shift, length)
        # Heads inside tokens, as in the projection: fused attention answers in the layout of its queries.
        scaled = x.new_zeros(x.shape[0], x.shape[2], x.shape[1], size).transpose(1, 2)
        torch.mul(shifted, length / norms, out=scaled[..., : x.shape[-1]])
        ctx.save_for_backward(scaled, length, norms)
        ctx.n_features, ctx.shift_shape = x.shape[-1], shift.shape
        return scaled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        scaled, length, norms = ctx.saved_tensors
        grad, scaled = grad[..., : ctx.n_features], scaled[..., : ctx.n_features]
        along = (grad * scaled).sum(-1, keepdim=True).div_(length)  # the gradient's part along x
        # What stretches x has no effect, but on those too short to be scaled to `length`.
        removed = torch.where(norms > _LEAST_NORM, along / length, 0.0)
        x_grad = torch.addcmul(grad, scaled, removed, value=-1).mul_(length / norms)
        return x_grad, x_grad.sum_to_size(ctx.shift_shape), along.sum_to_size(length.shape), None


def _turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the pairs (x_d, x_{d + D/2}) of x (B, H, T, D) by angles given by their cosines and sines (T, D/2)."""
    a, b = x.chunk(2, dim=-1)
    return _joined(a * cosines - b * sines, a * sines + b * cosines)


def _phasors(x: Tensor, turn: Tensor) -> Tensor:
    """Projected amplitudes and phases (B, H, T, 2W) to [A cos p, A sin p], p turned by `turn` (H, T, W)."""
    amplitude, phase = x.chunk(2, dim=-1)
    amplitude, phase = F.softplus(amplitude), phase + turn
    return _joined(amplitude * torch.cos(phase), amplitude * torch.sin(phase))


def _joined(a: Tensor, b: Tensor) -> Tensor:
    """a and b (B, H, T, any) side by side along the last axis; in memory heads lie inside tokens.

    Fused attention answers in the layout of its queries, and this is the one that the output projection needs.
    """
    return torch.cat([a.transpose(1, 2), b.transpose(1, 2)], dim=-1).transpose(1, 2)
