"""A classic transformer of any size on random tokens, whose state is saved and loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral_exp.bench.stacks import CLASSIC, Sizes, build

_LAYERS = 4
_HEADS = 8
_VOCABULARY = 2048
_TOKENS = 128


class Training:
    """A float32 model of about 50 weight tensors with its AdamW after one step.

    Args:
        size_mb: approximate size of weights and moments, in 10^6 bytes.
    """

    def __init__(self, size_mb: int) -> None:
        n_parameters = size_mb * 1e6 / 12
        a, b = 12 * _LAYERS, 2 * _VOCABULARY + _TOKENS  # n = a C^2 + b C for C channels
        channels = (math.sqrt(b * b + 4 * a * n_parameters) - b) / (2 * a)
        n_embd = max(1, round(channels / _HEADS)) * _HEADS
        sizes = Sizes(_VOCABULARY, n_embd, _LAYERS, _HEADS, _TOKENS)
        self.model, _, self._loss = build(CLASSIC, sizes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, foreach=False)
        self._ids = torch.randint(_VOCABULARY, (1, _TOKENS + 1))
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
        loss, _ = self._loss(self.model(self._ids[:, :-1]), self._ids[:, 1:])
        loss.backward()
        start = time.perf_counter()
        if fence is not None:
            fence()
        waited_s = time.perf_counter() - start
        self.optimizer.step()
        self.optimizer.zero_grad()
        return waited_s
