"""Models small enough to test every combination of parts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectral_exp.models.attention import (
    Attention,
    InterferenceAttention,
    PhasorAttention,
)
from spectral_exp.models.dot_product import (
    ALiBiAttention,
    DotProductAttention,
    NoPositionAttention,
    RotaryAttention,
)
from spectral_exp.models.embedding import Embedding, StandardEmbedding
from spectral_exp.models.gpt import GPT, MLP
from spectral_exp.models.pure_wave import PureWaveAttention
from spectral_exp.models.wave import WaveEmbedding

EMBEDDINGS: dict[str, Callable[..., Embedding]] = {
    "standard": StandardEmbedding,
    "wave": functools.partial(WaveEmbedding, n_wave=3, n_harmonic=2),
}
ATTENTIONS: dict[str, Callable[..., Attention]] = {
    "dot_product": DotProductAttention,
    "no_positions": NoPositionAttention,
    "alibi": ALiBiAttention,
    "rotary": RotaryAttention,
    "interference": functools.partial(InterferenceAttention, n_wave=3),
    "phasor": functools.partial(PhasorAttention, n_wave=3),
    "pure_wave": functools.partial(PureWaveAttention, n_wave=3),
    "pure_wave_linear": functools.partial(PureWaveAttention, n_wave=3, mode="linear", chunk_size=4),
}
MLPS: dict[str, Callable[..., MLP]] = {
    "gelu": functools.partial(MLP, activation="gelu"),
    "resonance": functools.partial(MLP, activation="resonance"),
}
GRID = list(itertools.product(EMBEDDINGS, ATTENTIONS, MLPS))


def build(
    embedding: str | Callable[..., Embedding] = "standard",
    attention: str | Callable[..., Attention] = "dot_product",
    mlp: str | Callable[..., MLP] = "gelu",
    seed: int = 0,
    **settings: Any,
) -> GPT:
    """A tiny float32 model in evaluation mode; parts are given by name or as factories."""
    sizes = {"vocab_size": 11, "block_size": 10, "n_layer": 2, "n_head": 2, "n_embd": 8}
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "embedding": EMBEDDINGS[embedding] if isinstance(embedding, str) else embedding,
        "attention": ATTENTIONS[attention] if isinstance(attention, str) else attention,
        "mlp": MLPS[mlp] if isinstance(mlp, str) else mlp,
    }
    return GPT(**{**sizes, **parts, **settings}).eval()


def loud(module: nn.Module, seed: int = 1) -> nn.Module:
    """`module` in float64, its parameters moved by noise, so that no effect hides behind small or
    equal weights."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.4
            )
    return module


def random_ids(rows: int = 2, tokens: int = 10, vocab_size: int = 11, seed: int = 2) -> Tensor:
    """Token ids (rows, tokens)."""
    return torch.randint(vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))
