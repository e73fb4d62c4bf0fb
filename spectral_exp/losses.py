"""What training minimises: plain cross-entropy, or with the coherence term of Quantum Field Entanglement (QFE).

Letters: B batch, T tokens, V vocabulary, P projected dimensions, K = T // 2 + 1 frequencies.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_exp.errors import require


class Loss(nn.Module):
    """Logits (B, T, V) and targets (B, T) to the scalar to differentiate, and detached parts by name.

    `loss` among the parts is always the plain cross-entropy, the mean over all tokens in nats.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to differentiate, and the parts to log."""
        raise NotImplementedError

    def set_progress(self, fraction: float) -> None:
        """Follow the run, `fraction` of whose steps are done; a loss without a schedule ignores it."""


class CrossEntropy(Loss):
    """Plain cross-entropy; it has no settings."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over all tokens in nats, twice: to differentiate, and as the part `loss`."""
        loss = cross_entropy(logits, targets)
        return loss, {"loss": loss.detach()}


class QFE(Loss):
    """Cross-entropy + coherence_weight * coherence.

    Coherence compares predicted probabilities with one-hot targets as signals along the sequence: see `coherence`.
    With many tokens both are first projected to `projection_dim` dimensions by one random matrix, which is part of
    the state dict.

    Args:
        vocab_size: V.
        coherence_weight: >= 0.
        temperature: > 0, divides the logits before the softmax of the coherence term.
        projection_dim: P; vocabularies larger than this are projected.
        amplitude_threshold: >= 0; frequencies at which either magnitude does not exceed it do not count.
        seed: of the random matrix.
    """

    projection: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        coherence_weight: float = 0.05,
        temperature: float = 1.0,
        projection_dim: int = 256,
        amplitude_threshold: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(vocab_size >= 1, "vocab_size", vocab_size, ">= 1")
        require(0 <= coherence_weight < math.inf, "coherence_weight", coherence_weight, ">= 0")
        require(0 < temperature < math.inf, "temperature", temperature, "> 0")
        require(projection_dim >= 1, "projection_dim", projection_dim, ">= 1")
        require(0 <= amplitude_threshold < math.inf, "amplitude_threshold", amplitude_threshold, ">= 0")
        self.vocab_size, self.coherence_weight, self.temperature = vocab_size, coherence_weight, temperature
        self.amplitude_threshold = amplitude_threshold
        projection = None
        if vocab_size > projection_dim:
            generator = torch.Generator().manual_seed(seed)
            # Entries of variance 1/P keep lengths the same on average (Johnson & Lindenstrauss 1984).
            projection = torch.randn(vocab_size, projection_dim, generator=generator, device="cpu")
            projection /= math.sqrt(projection_dim)
        self.register_buffer("projection", projection)

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the parts `loss` (plain cross-entropy) and `coherence`."""
        loss = cross_entropy(logits, targets)
        with torch.autocast(logits.device.type, enabled=False):
            predicted = (_full(logits) / self.temperature).softmax(-1)
            if self.projection is None:
                actual = F.one_hot(targets, self.vocab_size).to(predicted.dtype)
            else:
                projection = self.projection.to(predicted.dtype)
                predicted, actual = predicted @ projection, projection[targets]
            penalty = coherence(predicted, actual, self.amplitude_threshold)
        return loss + self.coherence_weight * penalty, {"loss": loss.detach(), "coherence": penalty.detach()}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of `logits` (B, T, V) at `targets` (B, T), in nats, computed in float32 at least."""
    loss: Tensor = F.cross_entropy(_full(logits).flatten(0, 1), targets.flatten())
    return loss


def coherence(predicted: Tensor, actual: Tensor, threshold: float) -> Tensor:
    """The mean of |P| |Y| (1 - cos(arg P - arg Y)), P and Y the spectra of both signals (B, T, any) along T.

    |P| |Y| cos(arg P - arg Y) is the real part of P times the conjugate of Y: no angle is needed, and nothing is
    singular at zero. The mean is over those frequencies (K per signal) and signals at which both magnitudes exceed
    `threshold`, and 0 where none does.
    """
    P, Y = torch.fft.rfft(predicted, dim=1), torch.fft.rfft(actual, dim=1)
    p_power, y_power = P.real.square() + P.imag.square(), Y.real.square() + Y.imag.square()
    power = p_power * y_power
    counted = (p_power > threshold**2) & (y_power > threshold**2) & (power > 0)
    # The root has no slope at zero; what does not count is replaced before it, so that no NaN enters the gradient.
    magnitudes = torch.where(counted, power, 1.0).sqrt()
    products = P.real * Y.real + P.imag * Y.imag
    total = torch.where(counted, magnitudes - products, 0.0).sum()
    mean: Tensor = total / counted.sum().clamp_min(1)
    return mean


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
