"""What turns token ids into vectors: the contract of every embedding, and the classic table.

Letters: B batch, T tokens, C channels (`n_embd`), V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Embedding(nn.Module, ABC):
    """What GPT asks of an embedding: ids (B, T) to vectors (B, T, C).

    Subclasses set `table`, the plain token table (V, C) that a tied output head shares, and implement `forward` and
    `flops_per_token`. `wave_parameters` names those of a module's own parameters that describe waves; they are
    exempt from weight decay.
    """

    wave_parameters: tuple[str, ...] = ()
    table: nn.Embedding

    @abstractmethod
    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Vectors (B, T, C) of `ids` (B, T), whose first column stands at position `start`."""

    @abstractmethod
    def flops_per_token(self) -> int:
        """Operations per token in the forward pass."""

    def metrics(self) -> dict[str, Tensor]:
        """Values worth logging: name to a detached 0-dim tensor."""
        return {}


class StandardEmbedding(Embedding):
    """A table of learned token vectors plus, where attention carries no position itself, one of positions."""

    def __init__(
        self, vocab_size: int, block_size: int, n_embd: int, position_table: bool = True
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, n_embd)
        self.positions = nn.Embedding(block_size, n_embd) if position_table else None

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Vectors (B, T, C) of `ids` (B, T), whose first column stands at position `start`."""
        x: Tensor = self.table(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + ids.shape[1], device=ids.device))
        return x

    def flops_per_token(self) -> int:
        """One addition per channel where there is a position table; looking up costs nothing."""
        return self.table.embedding_dim if self.positions is not None else 0
