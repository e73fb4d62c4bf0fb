"""A transformer of any size on random tokens, and the interface of checkpoint contenders.

Letters: B batch, T tokens, C channels, H heads, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

_LAYERS = 4
_HEADS = 8
_VOCABULARY = 2048
_TOKENS = 128


class Contender(Protocol):
    """A tool that saves checkpoints.

    Attributes:
        name: name in the table.
        background: whether `save` returns before the checkpoint is durable.
        note: remark on the comparison.
    """

    name: str
    background: bool
    note: str

    def save(self) -> None:
        """Start a save; the next forward and backward pass may run after it returns."""

    def fence(self) -> None:
        """Wait until the state may be changed."""

    def busy(self) -> bool:
        """Whether a save is in progress in the background."""

    def wait(self) -> float:
        """Wait until the save has ended; return the `perf_counter` time at which it was durable."""

    def close(self) -> None:
        """Release all resources."""


class MakeContender(Protocol):
    """Factory of a contender."""

    def __call__(self, folder: Path, training: Training) -> Contender:
        """Return a contender that saves `training` below `folder`."""


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        self.wide = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        heads = self.attention(self.norm_1(x)).view(B, T, 3, _HEADS, C // _HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, C / H) each
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(B, T, C))
        y: Tensor = x + self.narrow(functional.gelu(self.wide(self.norm_2(x))))
        return y


class _Transformer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_VOCABULARY, channels)
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(channels)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the mean cross-entropy of ids (B, T) given the preceding ones."""
        logits = self.norm(self.blocks(self.embedding(ids))) @ self.embedding.weight.T
        loss: Tensor = functional.cross_entropy(
            logits[:, :-1].reshape(-1, _VOCABULARY), ids[:, 1:].reshape(-1)
        )
        return loss


class Training:
    """A float32 model of about 50 weight tensors with its AdamW after one step.

    Args:
        size_mb: approximate size of weights and moments, in 10^6 bytes.
    """

    def __init__(self, size_mb: int) -> None:
        torch.manual_seed(0)
        n_parameters = size_mb * 1e6 / 12
        a, b = 12 * _LAYERS, _VOCABULARY  # n = a C^2 + b C
        channels = (math.sqrt(b * b + 4 * a * n_parameters) - b) / (2 * a)
        self.model = _Transformer(max(1, round(channels / _HEADS)) * _HEADS)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, foreach=False)
        self._ids = torch.randint(_VOCABULARY, (1, _TOKENS))
        # Expanded gradients take no memory; freed gradients would distort the memory measurements.
        for parameter in self.model.parameters():
            parameter.grad = torch.full((1,), 1e-3).expand_as(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """Return the state to save."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the state."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.state_dict().values(), *moments]

    @property
    def n_bytes(self) -> int:
        """Size of the state in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def step(self, fence: Callable[[], None] | None = None) -> float:
        """Do one training step, calling `fence` before the update; return its wait in seconds."""
        self.model(self._ids).backward()
        start = time.perf_counter()
        if fence is not None:
            fence()
        waited_s = time.perf_counter() - start
        self.optimizer.step()
        self.optimizer.zero_grad()
        return waited_s
