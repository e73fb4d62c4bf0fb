"""Normalizations of vectors (..., C), as parts of a model and of queries and keys."""

from __future__ import annotations

from torch import nn

_RMS_EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1, times learned gains (Ba et al. 2016).

    Args:
        n_embd: C.
        bias: whether offsets are learned too.
    """

    def __init__(self, n_embd: int, bias: bool = False) -> None:
        super().__init__(n_embd, bias=bias)


class RMSNorm(nn.RMSNorm):
    """Root mean square 1, times learned gains (Zhang and Sennrich 2019).

    Args:
        n_embd: C.
        bias: ignored, accepted for the common interface.
    """

    def __init__(self, n_embd: int, bias: bool = False) -> None:
        super().__init__(n_embd, eps=_RMS_EPS)
