"""Cross-entropy, and the common interface of losses.

`spectral_exp.losses.softmax` reads the logits in pieces, so a large vocabulary needs no second
copy.
"""

from __future__ import annotations

from torch import Tensor, nn

from spectral_exp.losses.softmax import cross_entropy


class Loss(nn.Module):
    """Base class of losses of logits (B, T, V) and targets (B, T).

    The part `loss` is always the plain cross-entropy, the mean over all tokens in nats. A loss that
    draws no random numbers sets `uses_randomness` to False; otherwise the generators are seeded at
    each step.
    """

    uses_randomness: bool = True

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to differentiate, and the detached parts to log by name."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Plain cross-entropy, without settings."""

    uses_randomness = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over all tokens in nats, and the same as the part `loss`."""
        loss = cross_entropy(logits, targets)
        return loss, {"loss": loss.detach()}
