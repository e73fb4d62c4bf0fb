"""Cross-entropy with the coherence term of Quantum Field Entanglement (QFE).

Letters: B batch, T tokens, V vocabulary, P projected dimensions, K = T // 2 + 1 frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spectral_exp.core.errors import require
from spectral_exp.losses.cross_entropy import Loss, add_z_loss, check_z_loss
from spectral_exp.losses.softmax import cross_entropy_and_probabilities, sketch_targets


class QFE(Loss):
    """Cross-entropy + coherence_weight * coherence.

    `coherence` compares predicted probabilities with one-hot targets as signals along the sequence.
    A vocabulary larger than `projection_dim` is first projected by a count sketch, which adds token
    v with a random sign to dimension v mod P. The signs are part of the state dict. Like a dense
    random matrix the sketch preserves inner products on average (Charikar, Chen & Farach-Colton
    2002), at the cost of one pass instead of V x P products per token.

    Args:
        vocab_size: V.
        coherence_weight: >= 0.
        temperature: > 0, divides the logits before the softmax of the coherence term.
        projection_dim: P; larger vocabularies are projected to it.
        amplitude_threshold: >= 0; a frequency counts only if both magnitudes exceed it.
        seed: seed of the random signs.
        z_loss: as of `CrossEntropy`.
    """

    uses_randomness = False
    signs: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        coherence_weight: float = 0.05,
        temperature: float = 1.0,
        projection_dim: int = 256,
        amplitude_threshold: float = 0.01,
        seed: int = 0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_loss = check_z_loss(z_loss)
        require(vocab_size >= 1, "vocab_size", vocab_size, ">= 1")
        require(0 <= coherence_weight < math.inf, "coherence_weight", coherence_weight, ">= 0")
        require(0 < temperature < math.inf, "temperature", temperature, "> 0")
        require(projection_dim >= 1, "projection_dim", projection_dim, ">= 1")
        require(
            0 <= amplitude_threshold < math.inf, "amplitude_threshold", amplitude_threshold, ">= 0"
        )
        self.vocab_size, self.coherence_weight, self.temperature = (
            vocab_size,
            coherence_weight,
            temperature,
        )
        self.amplitude_threshold, self.projected_size = (
            amplitude_threshold,
            min(projection_dim, vocab_size),
        )
        signs = None
        if vocab_size > projection_dim:
            generator = torch.Generator().manual_seed(seed)
            signs = 1.0 - 2.0 * torch.randint(2, (vocab_size,), generator=generator, device="cpu")
        self.register_buffer("signs", signs)

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum, and the parts `loss` (plain cross-entropy) and `coherence`."""
        loss, predicted = cross_entropy_and_probabilities(
            logits, targets, self.temperature, self.projected_size, self.signs
        )
        with torch.autocast(logits.device.type, enabled=False):
            actual = sketch_targets(targets, self.projected_size, self.signs, predicted.dtype)
            penalty = coherence(predicted, actual, self.amplitude_threshold)
        parts = {"loss": loss.detach(), "coherence": penalty.detach()}
        return add_z_loss(loss + self.coherence_weight * penalty, parts, logits, self.z_loss)


def coherence(predicted: Tensor, actual: Tensor, threshold: float) -> Tensor:
    """Return the mean of |P| |Y| (1 - cos(arg P - arg Y)).

    P and Y are the spectra of both signals (B, T, any) along T. |P| |Y| cos(arg P - arg Y) is the
    real part of P times the conjugate of Y, so no angle is computed and nothing is singular at
    zero. The mean is over the frequencies (K per signal) and signals at which both magnitudes
    exceed `threshold`, and 0 if there are none. It is differentiable once, and only by `predicted`.
    """
    mean: Tensor = _Coherence.apply(predicted, actual, threshold)  # type: ignore[no-untyped-call]
    return mean


class _Coherence(torch.autograd.Function):
    """`coherence` with an explicit derivative, which the forward pass computes and saves.

    With P the spectrum of a signal x, P_k = sum_t x_t exp(-i w_k t), and G_k the derivative by the
    real part of P_k plus i times that by its imaginary part, the derivative by x_t is the real part
    of sum_k G_k exp(i w_k t).
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, actual: Tensor, threshold: float) -> Tensor:
        P, Y = torch.fft.rfft(predicted, dim=1), torch.fft.rfft(actual, dim=1)
        p_power, y_power = _power(P), _power(Y)
        power = p_power * y_power
        counted = (p_power > threshold**2) & (y_power > threshold**2) & (power > 0)
        magnitudes = power.sqrt_()
        products = _sum_of_pairs(torch.view_as_real(P) * torch.view_as_real(Y))
        n_counted = counted.sum().clamp_min(1)
        mean = (magnitudes - products).mul_(counted).sum() / n_counted
        if ctx.needs_input_grad[0]:
            # Magnitudes that do not count are replaced before the division, since they may be zero.
            ratio = y_power.div_(magnitudes.masked_fill_(~counted, 1.0)).mul_(counted)
            gradient = P.mul_(ratio).sub_(Y.mul_(counted))
            # The inverse transform adds the mirror image of each frequency except 0 and T / 2.
            T = predicted.shape[1]
            gradient[:, 1 : (T + 1) // 2].mul_(0.5)
            ctx.save_for_backward(
                torch.fft.irfft(gradient, n=T, dim=1, norm="forward").div_(n_counted)
            )
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (by_predicted,) = ctx.saved_tensors
        return grad * by_predicted, None, None


def _power(spectra: Tensor) -> Tensor:
    """Return the squared magnitudes of complex numbers."""
    return _sum_of_pairs(torch.view_as_real(spectra).square())


def _sum_of_pairs(x: Tensor) -> Tensor:
    """Return the sums along a last axis of length 2, several times as fast as `sum`."""
    first, second = x.unbind(-1)
    return first + second
