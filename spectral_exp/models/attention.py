"""Causal multi-head attention: the common interface, and softmax attention between waves.

Each variant computes its own queries and keys from x, then calls PyTorch's fused attention once.

Letters: B batch, T tokens, S tokens seen so far, C channels (`n_embd`), H heads (`n_head`), D = C/H
head size, W waves (`n_wave`), F features of a query or key.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spectral_exp.core.errors import SettingError, require
from spectral_exp.models.norms import RMSNorm
from spectral_exp.models.precision import full_precision, upcast

_MIN_NORM = 1e-6
_MIN_LENGTH = 1e-20


def geometric_rates(n: int, dtype: torch.dtype | None = None, base: float = 10000.0) -> Tensor:
    """Rates base^(-w/n) in radians per token for w = 0..n-1, shape (n) (Vaswani et al. 2017)."""
    w = torch.arange(n, dtype=dtype or torch.get_default_dtype())
    return torch.pow(base, -w / n)


class LayerState:
    """Memory of one attention layer for incremental decoding."""


class KeyValues(LayerState):
    """Keys (B, H, S, F) and values (B, H, S, D) so far, in buffers of `capacity` tokens."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.batch_size, self.capacity, self.length = batch_size, capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k (B, H, T, F) and v (B, H, T, D) and return all keys and values so far."""
        if self.keys is None or self.values is None:
            # Allocated on first use, since autocast decides the precision of the keys.
            self.keys = k.new_empty(self.batch_size, k.shape[1], self.capacity, k.shape[-1])
            self.values = v.new_empty(self.batch_size, v.shape[1], self.capacity, v.shape[-1])
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module, ABC):
    """Base class of causal attention layers, which map x (B, T, C) to (B, T, C).

    Subclasses set `output`, the projection back to C, and implement the four abstract methods.
    `carries_position` is true if attention itself encodes positions, so that the embedding needs no
    position table. `wave_parameters` names the module's own wave parameters, which are exempt from
    weight decay.
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
        """Mix tokens x (B, T, C) from position `start`, including the tokens held in `state`."""

    @abstractmethod
    def weights(self, x: Tensor) -> Tensor:
        """Return the mixing weights (B, H, T, T); row i holds the weights of tokens j <= i."""

    @abstractmethod
    def new_state(self, batch_size: int) -> LayerState:
        """Return an empty memory for `batch_size` sequences."""

    @abstractmethod
    def flops_per_token(self) -> int:
        """Return the operations per token of a forward pass over a full block.

        Every query is counted against all T keys, without a discount for the causal half.
        """

    def normalize_queries_and_keys(self) -> None:
        """Add a normalization of the queries and keys of each head, with learned gains.

        Raises:
            SettingError: this kind of attention has none.
        """
        kind = type(self).__name__
        raise SettingError("qk_norm", "true", f"false with {kind}, which does not support it")

    def _heads(self, x: Tensor) -> Tensor:
        """Reshape (B, T, H * any) to (B, H, T, any)."""
        return x.reshape(x.shape[0], x.shape[1], self.n_head, -1).transpose(1, 2)


class SoftmaxAttention(Attention):
    """Base class of attention whose weights are the softmax of a dot product.

    Subclasses define the queries and keys. `keeps_projection` is false if the derivative of
    `queries_and_keys` needs only its results; the memory of the projections is then freed before
    the backward pass.

    Args:
        n_embd: C.
        n_head: H; must divide C.
        block_size: the longest sequence.
        dropout: probability of dropping a mixing weight, and a channel of the result.
        bias: whether the linear maps have biases.
        score_size: projected numbers per head of a query, and of a key.
    """

    keeps_projection: bool = True

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, dropout: float, bias: bool, score_size: int
    ) -> None:
        super().__init__(n_embd, n_head, block_size)
        self.dropout, self.scale, self.head_size = dropout, 1.0, n_embd // n_head
        self.score_size, self.score_width = score_size, n_head * score_size
        self.project = nn.Linear(n_embd, 2 * self.score_width + n_embd, bias=bias)
        self.output = nn.Linear(n_embd, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None

    def normalize_queries_and_keys(self) -> None:
        """Scale the projections to root mean square 1 per head, before any position."""
        self.query_norm, self.key_norm = RMSNorm(self.score_size), RMSNorm(self.score_size)

    @abstractmethod
    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Map projections (B, H, T, F) to queries and keys (B, H, T, F).

        Their dot product times `scale` is the score.
        """

    def feature_flops(self) -> int:
        """Return the operations per token between the projections and the queries and keys."""
        return 0

    def score_bias(self, T: int, S: int) -> Tensor | None:
        """Return what is added to the scores (1, H, T, S) of T queries at the end of S tokens.

        None adds nothing. Otherwise it is -infinity for tokens in the future.
        """
        return None

    def forward(self, x: Tensor, start: int = 0, state: LayerState | None = None) -> Tensor:
        """Mix tokens x (B, T, C) from position `start`, including the tokens held in `state`."""
        q, k, v = self._queries_keys_values(x, start)
        if isinstance(state, KeyValues):
            k, v = state.append(k, v)
        T, S = q.shape[2], k.shape[2]
        mask = self._mask(T, S, q)
        dropout = self.dropout if self.training else 0.0
        # Fused kernels need as many features as channels. Zeros change no dot product.
        features, channels = q.shape[-1], v.shape[-1]
        if features < channels:
            q, k = F.pad(q, (0, channels - features)), F.pad(k, (0, channels - features))
        elif features > channels:
            v = F.pad(v, (0, features - channels))
        y = F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=bool(mask is None and T == S), scale=self.scale
        )[..., :channels]
        mixed: Tensor = self.residual_dropout(self.output(y.transpose(1, 2).flatten(2)))
        return mixed

    def weights(self, x: Tensor) -> Tensor:
        """Return the mixing weights (B, H, T, T); row i holds the weights of tokens j <= i."""
        q, k, _ = self._queries_keys_values(x, 0)
        scores = self.scale * (upcast(q) @ upcast(k).transpose(-1, -2))
        bias = self.score_bias(*scores.shape[-2:])
        if bias is not None:
            scores = scores + bias.to(scores)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1)

    def new_state(self, batch_size: int) -> LayerState:
        """Return an empty memory for `batch_size` sequences."""
        return KeyValues(batch_size, self.block_size)

    def flops_per_token(self) -> int:
        """Count the linear maps, T scores, T values, and the features."""
        linear = 2 * self.n_embd * (2 * self.score_width + self.n_embd) + 2 * self.n_embd**2
        return (
            linear + 2 * self.block_size * (self.score_width + self.n_embd) + self.feature_flops()
        )

    def _mask(self, T: int, S: int, q: Tensor) -> Tensor | None:
        """Return the mask of T queries at the end of S tokens, or None if a causal one is enough.

        Only a later chunk of several tokens needs an explicit one: a single token sees all before
        it.
        """
        bias = self.score_bias(T, S)
        if bias is not None:
            return bias.to(q)
        if 1 < T < S:
            return torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        return None

    def _queries_keys_values(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x).split([self.score_width, self.score_width, self.n_embd], dim=-1)
        if not self.keeps_projection and torch.is_grad_enabled():
            v = v.clone()  # a view would keep all projections alive
        v = self._heads(v)
        q, k = self._heads(q), self._heads(k)
        with full_precision(x):
            if self.query_norm is not None and self.key_norm is not None:
                q, k = self.query_norm(upcast(q)), self.key_norm(upcast(k))
            q, k = self.queries_and_keys(q, k, start)
        return q.to(v.dtype), k.to(v.dtype), v


class InterferenceAttention(SoftmaxAttention):
    """Attention with scores tau <q, k> between unit-length waves.

    q and k are W numbers per head: a linear map of x plus a learned phase offset per head and wave.
    tau is learned per head and starts at sqrt(W); dividing by sqrt(W) instead would make all
    weights nearly equal.

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
        """Add the phase offsets, normalize to length 1, and multiply the queries by tau."""
        offsets, tau, size = (
            self.phase_offsets[:, None],
            self.tau[:, None, None],
            max(self.n_wave, self.head_size),
        )
        return to_length(upcast(q), offsets, tau, size), to_length(
            upcast(k), offsets, torch.ones_like(tau), size
        )

    def feature_flops(self) -> int:
        """Count offset, square, sum and division for q and k, and tau."""
        return 9 * self.score_width


class PhasorAttention(SoftmaxAttention):
    """Attention between phasors: score_ij = tau / sqrt(W) * sum_w A_i A_j cos(p_i - p_j).

    q and k each consist of an amplitude A = softplus(.) and a phase p per head and wave, both
    projected from x; position t advances the phase by omega t. Since cos(x - y) = cos x cos y + sin
    x sin y, the score is a dot product of the 2W features [A cos p, A sin p]. Each head learns tau,
    which starts at 1, and has W rates omega, which are or start at 10000^(-w/W) radians per token.

    Args:
        n_wave: W.
        frequencies: "learned", W rates per head, or "fixed".
        n_embd, n_head, block_size, dropout, bias: as for SoftmaxAttention.
    """

    carries_position = True
    wave_parameters = ("omega", "tau")
    omega: Tensor

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        bias: bool = False,
        n_wave: int = 16,
        frequencies: Literal["learned", "fixed"] = "learned",
    ) -> None:
        require(n_wave >= 1, "n_wave", n_wave, ">= 1")
        allowed = "learned or fixed"
        require(frequencies in ("learned", "fixed"), "frequencies", frequencies, allowed)
        super().__init__(n_embd, n_head, block_size, dropout, bias, 2 * n_wave)
        self.n_wave = n_wave
        rates = geometric_rates(n_wave).repeat(n_head, 1)
        if frequencies == "learned":
            self.omega = nn.Parameter(rates)
        else:
            self.register_buffer("omega", rates, persistent=False)
        self.tau = nn.Parameter(torch.ones(n_head))

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Compute phasor features at each position and multiply the queries by tau / sqrt(W)."""
        positions = torch.arange(start, start + q.shape[2], device=q.device, dtype=self.omega.dtype)
        shift = positions[:, None] * self.omega[:, None]  # (H, T, W)
        scale = self.tau[:, None, None] * (self.n_wave**-0.5)
        return scale * _phasors(upcast(q), shift), _phasors(upcast(k), shift)

    def feature_flops(self) -> int:
        """Count seven operations per wave of q and k, one for the phase shift, two for the scale.

        The seven are softplus, angle, sine, cosine and two products.
        """
        return self.n_head * self.n_wave * (2 * 7 + 1 + 2)


def to_length(x: Tensor, shift: Tensor, length: Tensor, size: int) -> Tensor:
    """Scale x + shift to `length` along the last axis and pad it with zeros to `size` features.

    Norms below 1e-6 count as 1e-6. A length within 1e-20 of 0 counts as 1e-20.

    Args:
        x: (B, H, T, F).
        shift: (H, 1, F), or (H, 1, 1).
        length: (H, 1, 1).
        size: at least F. Fused attention needs as many features as channels; zeros change no dot
            product.
    """
    if torch.compiler.is_compiling():
        shifted, norms, length = _nonzero_norms(x, shift, length)
        return F.pad(shifted * (length / norms), (0, size - x.shape[-1]))
    scaled: Tensor = _ToLength.apply(x, shift, length, size)  # type: ignore[no-untyped-call]
    return scaled


def _nonzero_norms(x: Tensor, shift: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x + shift, its norms bounded away from 0, and the length bounded away from 0."""
    shifted = x + shift
    norms: Tensor = torch.linalg.vector_norm(shifted, dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    # Adding a correction, rather than assigning a constant, keeps the derivative by `length`.
    correction = torch.where(length.abs() < _MIN_LENGTH, _MIN_LENGTH - length.detach(), 0.0)
    return shifted, norms, length + correction


class _ToLength(torch.autograd.Function):
    """`to_length` with an explicit derivative, in a third of the memory passes of autograd's.

    It saves only its result, which attention keeps anyway, and not x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, length: Tensor, size: int) -> Tensor:
        shifted, norms, length = _nonzero_norms(x, shift, length)
        # Heads inside tokens, as in the projection: fused attention returns the layout of its
        # queries.
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
        # Stretching x changes the result only if its norm is below the minimum.
        removed = torch.where(norms > _MIN_NORM, along / length, 0.0)
        x_grad = torch.addcmul(grad, scaled, removed, value=-1).mul_(length / norms)
        return x_grad, x_grad.sum_to_size(ctx.shift_shape), along.sum_to_size(length.shape), None


def _phasors(x: Tensor, shift: Tensor) -> Tensor:
    """Map amplitudes and phases (B, H, T, 2W) to [A cos p, A sin p] with p shifted by `shift`."""
    amplitude, phase = x.chunk(2, dim=-1)
    amplitude, phase = F.softplus(amplitude), phase + shift
    return concatenate_heads(amplitude * torch.cos(phase), amplitude * torch.sin(phase))


def concatenate_heads(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate a and b (B, H, T, any) along the last axis, with heads inside tokens in memory.

    Fused attention returns the layout of its queries, and the output projection needs this one.
    """
    return torch.cat([a.transpose(1, 2), b.transpose(1, 2)], dim=-1).transpose(1, 2)
