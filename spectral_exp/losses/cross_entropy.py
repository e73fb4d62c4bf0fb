"""Cross-entropy, and the common interface of losses.

`spectral_exp.losses.softmax` reads the logits in pieces, so a large vocabulary needs no second
copy.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from spectral_exp.core.errors import require
from spectral_exp.losses.softmax import cross_entropy, squared_log_sums


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
    """Cross-entropy + z_loss * mean of log(Z)^2, Z the sum of the exponentials of a token's logits.

    The second term keeps the logits from drifting (Chowdhery et al. 2022).

    Args:
        z_loss: its weight, >= 0.
    """

    uses_randomness = False

    def __init__(self, z_loss: float = 0.0) -> None:
        super().__init__()
        self.z_loss = check_z_loss(z_loss)

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the parts `loss` (plain cross-entropy, in nats) and `z_loss`."""
        loss = cross_entropy(logits, targets)
        return add_z_loss(loss, {"loss": loss.detach()}, logits, self.z_loss)


def check_z_loss(z_loss: float) -> float:
    """Return the weight of the term. Raises SettingError if it is negative or not finite."""
    require(0 <= z_loss < math.inf, "z_loss", z_loss, "a finite number >= 0")
    return z_loss


def add_z_loss(
    total: Tensor, parts: dict[str, Tensor], logits: Tensor, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a loss and its parts with the term of `weight`; unchanged if that is 0."""
    if weight == 0:
        return total, parts
    term = squared_log_sums(logits)
    return total + weight * term, {**parts, "z_loss": term.detach()}
