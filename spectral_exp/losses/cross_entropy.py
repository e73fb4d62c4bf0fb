"""Plain cross-entropy, and the contract of a loss.

The logits are read through `spectral_exp.losses.softmax` in pieces, so a large vocabulary costs no second copy.
"""

from __future__ import annotations

from torch import Tensor, nn

from spectral_exp.losses.softmax import cross_entropy


class Loss(nn.Module):
    """Logits (B, T, V) and targets (B, T) to the scalar to differentiate, and detached parts by name.

    `loss` among the parts is always the plain cross-entropy, the mean over all tokens in nats. A loss that draws no
    random numbers says so by `uses_randomness`; for any other one the generators are seeded at each step.
    """

    uses_randomness: bool = True

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to differentiate, and the parts to log."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Plain cross-entropy; it has no settings."""

    uses_randomness = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over all tokens in nats, twice: to differentiate, and as the part `loss`."""
        loss = cross_entropy(logits, targets)
        return loss, {"loss": loss.detach()}
