"""Embeddings of token ids: the common interface and the classic table.

Letters: B batch, T tokens, C channels (`n_embd`), V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Embedding(nn.Module, ABC):
    """Base class of embeddings, which map ids (B, T) to vectors (B, T, C).

    Subclasses set `table`, the plain token table (V, C) that a tied output head shares, and
    implement `forward` and `flops_per_token`. `wave_parameters` names the module's own wave
    parameters, which are exempt from weight decay.
    """

    wave_parameters: tuple[str, ...] = ()
    table: nn.Embedding

    @abstractmethod
    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Return the vectors (B, T, C) of `ids` (B, T), which begin at position `start`."""

    @abstractmethod
    def flops_per_token(self) -> int:
        """Return the operations per token of the forward pass."""

    def metrics(self) -> dict[str, Tensor]:
        """Return values to log, as detached 0-dimensional tensors by name."""
        return {}


class StandardEmbedding(Embedding):
    """Learned token vectors plus, if `position_table` is true, learned position vectors."""

    def __init__(
        self, vocab_size: int, block_size: int, n_embd: int, position_table: bool = True
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, n_embd)
        self.positions = nn.Embedding(block_size, n_embd) if position_table else None

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Return the vectors (B, T, C) of `ids` (B, T), which begin at position `start`."""
        x: Tensor = self.table(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + ids.shape[1], device=ids.device))
        return x

    def flops_per_token(self) -> int:
        """Count one addition per channel if there is a position table; a lookup costs nothing."""
        return self.table.embedding_dim if self.positions is not None else 0
