"""Cross-entropy and sketched probabilities from one softmax, which is never stored.

With a large vocabulary the logits are the largest tensor of a training step. This module reads them
a few rows at a time, in at least float32: forward saves one number per token, and backward
recomputes the softmax and writes it as the gradient.

The sketch of a vector over V tokens has P dimensions: token v is added with the sign s_v to
dimension v mod P. Without signs the vector is not sketched and P = V.

Letters: N tokens of a batch, n rows of one piece, V vocabulary, P dimensions of the sketch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers per piece: enough to make the cost of calls negligible, few enough to fit a CPU's cache.
_CPU_PIECE = 2**19
_GPU_PIECE = 2**26


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of `logits` (..., V) at `targets` (...), in nats."""
    with torch.autocast(logits.device.type, enabled=False):
        return _apply(logits, targets, None, 0, None)[0]


def squared_log_sums(logits: Tensor) -> Tensor:
    """Return the mean square of log(sum(exp(logits))) over all tokens of `logits` (..., V)."""
    with torch.autocast(logits.device.type, enabled=False):
        mean: Tensor = _SquaredLogSums.apply(logits.flatten(0, -2))  # type: ignore[no-untyped-call]
    return mean


def cross_entropy_and_probabilities(
    logits: Tensor, targets: Tensor, temperature: float, size: int, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and the sketch (..., P) of softmax(logits / temperature).

    Args:
        logits: (..., V).
        targets: ids (...).
        temperature: > 0.
        size: P; V if `signs` is None.
        signs: signs (V) of the sketch; None returns the probabilities themselves.
    """
    with torch.autocast(logits.device.type, enabled=False):
        loss, predicted = _apply(logits, targets, temperature, size, signs)
    return loss, predicted.reshape(*targets.shape, size)


def sketch_targets(targets: Tensor, size: int, signs: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the sketch (..., P) of the one-hot vectors of `targets` (...)."""
    signs_of_targets = (
        torch.ones_like(targets, dtype=dtype) if signs is None else signs.to(dtype)[targets]
    )
    zeros = torch.zeros(*targets.shape, size, dtype=dtype, device=targets.device)
    return zeros.scatter_(-1, (targets % size)[..., None], signs_of_targets[..., None])


def _apply(
    logits: Tensor, targets: Tensor, temperature: float | None, size: int, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.flatten(0, -2), targets.flatten(), temperature, size, signs
    )
    return result


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits (N, V) and, with a temperature, their sketch (N, P)."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float | None,
        size: int,
        signs: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        dtype = _wide(logits.dtype)
        log_sums = torch.empty(len(logits), 1, dtype=dtype, device=logits.device)
        sketch = (
            None
            if temperature is None
            else torch.empty(len(logits), size, dtype=dtype, device=logits.device)
        )
        for rows, buffer in _pieces(logits):
            x = logits[rows].to(dtype)
            peaks = x.amax(-1, keepdim=True)
            exponentials = torch.sub(x, peaks, out=buffer).exp_()
            sums = exponentials.sum(-1, keepdim=True)
            log_sums[rows] = peaks + sums.log()
            if sketch is not None:
                if temperature is not None and temperature != 1:
                    exponentials = torch.sub(x, peaks, out=buffer).div_(temperature).exp_()
                    sums = exponentials.sum(-1, keepdim=True)
                sketch[rows] = _sketch(exponentials, size, signs) / sums
        losses = log_sums - logits.gather(1, targets[:, None]).to(dtype)
        ctx.save_for_backward(logits, targets, log_sums, sketch, signs)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return losses.mean(), sketch

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, loss_grad: Tensor | None, sketch_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        logits, targets, log_sums, sketch, signs = ctx.saved_tensors
        size = logits.shape[1]
        per_token = log_sums.new_zeros(()) if loss_grad is None else loss_grad / len(logits)
        if sketch_grad is not None:
            # The derivative of a softmax p is p (g - <p, g>); the sketch preserves the inner
            # product.
            means = (sketch * sketch_grad).sum(-1, keepdim=True)
        grad = torch.empty_like(logits)
        for rows, buffer in _pieces(logits):
            x = logits[rows].to(log_sums.dtype)
            out = grad[rows] if grad.dtype == x.dtype else buffer
            torch.sub(x, log_sums[rows], out=out).exp_()
            if sketch_grad is None:
                out.mul_(per_token)
            elif ctx.temperature == 1:
                out.mul_(_unsketch(sketch_grad[rows], size, signs, means[rows] - per_token))
            else:
                other = x.div(ctx.temperature).softmax(-1)
                slopes = _unsketch(sketch_grad[rows], size, signs, means[rows])
                out.mul_(per_token).addcmul_(other, slopes, value=1 / ctx.temperature)
            out[torch.arange(len(x), device=x.device), targets[rows]] -= per_token
            if out is buffer:
                grad[rows] = buffer
        return grad, None, None, None, None


class _SquaredLogSums(torch.autograd.Function):
    """Mean square of the logarithms of the sums of exponentials of logits (N, V)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        log_sums = torch.empty(len(logits), 1, dtype=_wide(logits.dtype), device=logits.device)
        for rows, _ in _pieces(logits):
            log_sums[rows] = logits[rows].to(log_sums.dtype).logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, log_sums)
        return log_sums.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_grad: Tensor) -> Tensor:
        logits, log_sums = ctx.saved_tensors
        # The derivative of a logarithm of a sum of exponentials is the softmax.
        slopes = log_sums * (2 * mean_grad / len(logits))
        grad = torch.empty_like(logits)
        for rows, buffer in _pieces(logits):
            softmax = torch.sub(logits[rows].to(log_sums.dtype), log_sums[rows], out=buffer).exp_()
            grad[rows] = softmax.mul_(slopes[rows])
        return grad


def _sketch(x: Tensor, size: int, signs: Tensor | None) -> Tensor:
    """Return the sketch (n, P) of `x` (n, V), which is overwritten."""
    if signs is None:
        return x
    x.mul_(signs)
    whole = x.shape[1] // size * size
    sketch = x[:, :whole].view(len(x), -1, size).sum(1)
    sketch[:, : x.shape[1] - whole] += x[:, whole:]
    return sketch


def _unsketch(grad: Tensor, size: int, signs: Tensor | None, means: Tensor) -> Tensor:
    """Return the gradient (n, V) before the sketch from that after it (n, P), less `means`."""
    if signs is None:
        return grad - means
    repeated = grad.repeat(1, -(-size // grad.shape[1]))[:, :size]
    return repeated.mul_(signs).sub_(means)


def _pieces(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the rows of `logits` (N, V), each with a buffer (n, V) in shared memory."""
    n_tokens, size = logits.shape
    rows = max(1, (_CPU_PIECE if logits.device.type == "cpu" else _GPU_PIECE) // size)
    buffer = torch.empty(min(rows, n_tokens), size, dtype=_wide(logits.dtype), device=logits.device)
    for begin in range(0, n_tokens, rows):
        end = min(begin + rows, n_tokens)
        yield slice(begin, end), buffer[: end - begin]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
