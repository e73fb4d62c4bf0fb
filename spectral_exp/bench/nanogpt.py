"""nanoGPT's CPU recipe (Karpathy 2022) as a minimal loop, and the classic model on its batches.

Both models are GPT-2 without biases and dropout: 4 layers of 4 heads, 128 channels, 12 sequences of
64 characters per step.

Letters: B batch, T tokens, C channels, H heads.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_exp.losses.cross_entropy import CrossEntropy
from spectral_exp.models.dot_product import DotProductAttention
from spectral_exp.models.embedding import StandardEmbedding
from spectral_exp.models.gpt import GPT, MLP
from spectral_exp.optim.adamw import build_adamw

_VOCAB, _BLOCK, _BATCH, _LAYERS, _HEADS, _CHANNELS = 65, 64, 12, 4, 4, 128
_RATE, _BETAS, _DECAY, _CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        C = _CHANNELS
        self.norm_1, self.norm_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.attention = nn.Linear(C, 3 * C, bias=False)
        self.projection = nn.Linear(C, C, bias=False)
        self.wide, self.narrow = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, _HEADS, C // _HEADS).transpose(1, 2)
            for part in self.attention(self.norm_1(x)).split(C, 2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).contiguous().view(B, T, C))
        y: Tensor = x + self.narrow(F.gelu(self.wide(self.norm_2(x))))
        return y


class NanoGPT(nn.Module):
    """nanoGPT's model with its loss; the head shares the token table."""

    TOKENS_PER_STEP = _BATCH * _BLOCK

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(_VOCAB, _CHANNELS)
        self.positions = nn.Embedding(_BLOCK, _CHANNELS)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(_CHANNELS, bias=False)
        self.head = nn.Linear(_CHANNELS, _VOCAB, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of `targets` (B, T) given `ids` (B, T)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        loss: Tensor = F.cross_entropy(logits.view(-1, _VOCAB), targets.view(-1))
        return loss


class _Loop(ABC):
    """nanoGPT's loop with its batches and clipping."""

    def __init__(self, compiled: bool) -> None:
        torch.manual_seed(0)
        self.text = torch.randint(_VOCAB, (1_000_000,), generator=torch.Generator().manual_seed(0))
        self.model, self.optimizer = self.build()
        self.compute = torch.compile(self.model) if compiled else self.model

    @abstractmethod
    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the model and its optimizer."""

    @abstractmethod
    def batch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""

    def step(self) -> None:
        """Do one step without reading the loss, which nanoGPT reads only at intervals."""
        begins = torch.randint(len(self.text) - _BLOCK, (_BATCH,))
        x = torch.stack([self.text[i : i + _BLOCK] for i in begins])
        y = torch.stack([self.text[i + 1 : i + 1 + _BLOCK] for i in begins])
        self.batch_loss(x, y).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class NanoGPTTraining(_Loop):
    """nanoGPT's model and its AdamW, which is not fused on a CPU."""

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return nanoGPT's model and optimizer."""
        model = NanoGPT()
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": _DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return model, torch.optim.AdamW(groups, lr=_RATE, betas=_BETAS)

    def batch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return cast("Tensor", self.compute(x, y))


class OurTraining(_Loop):
    """The classic model, AdamW and cross-entropy in the same loop on the same batches."""

    loss = CrossEntropy()

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the classic model and its optimizer."""
        model = GPT(
            _VOCAB, _BLOCK, _LAYERS, _HEADS, _CHANNELS, StandardEmbedding, DotProductAttention,
            functools.partial(MLP, activation="gelu"), tie_weights=True,
        )  # fmt: skip
        groups = model.parameter_groups()
        return model, build_adamw(groups, _RATE, _BETAS, weight_decay=_DECAY)

    def batch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        loss: Tensor = self.loss(self.compute(x), y)[0]
        return loss
