"""Limits of what an evaluation says: its standard error, and text that was trained on."""

from __future__ import annotations

import math

FEW_TOKENS = 10_000
"""Evaluations of fewer tokens are remarked on: their relative standard error is above 1 %."""

NOTABLE_REPEATS = 0.01
"""Texts are remarked on from this share of passages that stand in the training text too."""


def rough_relative_error(tokens: int) -> float:
    """Return the relative standard error of a mean loss, if tokens were independent.

    The loss of a single token varies about as much as its mean. Tokens of one text depend on each
    other, so that the error is rather larger.
    """
    return 1 / math.sqrt(tokens)
