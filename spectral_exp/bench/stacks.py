"""Model stacks that the benches compare: classic, and wave with each optimizer and loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from spectral_exp.losses import QFE
from spectral_exp.losses.cross_entropy import CrossEntropy, Loss
from spectral_exp.models.attention import InterferenceAttention
from spectral_exp.models.dot_product import DotProductAttention
from spectral_exp.models.embedding import StandardEmbedding
from spectral_exp.models.gpt import GPT, MLP
from spectral_exp.models.wave import WaveEmbedding
from spectral_exp.optim.adamw import build_adamw
from spectral_exp.optim.rgd import build_rgd

CLASSIC = "classic + AdamW"
WAVE = "wave + AdamW"
WAVE_RGD = "wave + RGD"
WAVE_RGD_QFE = "wave + RGD + QFE"
STACKS = (CLASSIC, WAVE, WAVE_RGD, WAVE_RGD_QFE)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; a head has 64 channels by default and 3/4 as many waves as channels."""

    vocab_size: int
    n_embd: int = 384
    n_layer: int = 6
    n_head: int = 6
    block_size: int = 256

    @property
    def n_wave(self) -> int:
        """Number of waves of a head and of the embedding."""
        return self.n_embd // self.n_head * 3 // 4


def build(stack: str, sizes: Sizes, seed: int = 0) -> tuple[GPT, torch.optim.Optimizer, Loss]:
    """Build model, optimizer and loss of a stack, with weights drawn from `seed`."""
    W = sizes.n_wave
    parts: Mapping[str, Callable[..., nn.Module]] = (
        {"embedding": StandardEmbedding, "attention": DotProductAttention, "mlp": MLP}
        if stack == CLASSIC
        else {
            "embedding": functools.partial(WaveEmbedding, n_wave=W),
            "attention": functools.partial(InterferenceAttention, n_wave=W),
            "mlp": functools.partial(MLP, activation="resonance"),
        }
    )
    torch.manual_seed(seed)
    model = GPT(
        sizes.vocab_size, sizes.block_size, sizes.n_layer, sizes.n_head, sizes.n_embd,
        **parts,  # type: ignore[arg-type]
    )  # fmt: skip
    build_optimizer = build_rgd if stack in (WAVE_RGD, WAVE_RGD_QFE) else build_adamw
    loss = QFE(sizes.vocab_size) if stack == WAVE_RGD_QFE else CrossEntropy()
    return model, build_optimizer(model.parameter_groups()), loss


class TrainingStep:
    """Training step of a stack on random tokens: forward, loss, backward, clipping and update."""

    def __init__(self, stack: str, sizes: Sizes, n_tokens: int) -> None:
        self.model, self.optimizer, self.loss = build(stack, sizes)
        n_sequences = max(1, n_tokens // sizes.block_size)
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(
            sizes.vocab_size, (n_sequences, sizes.block_size + 1), generator=generator
        )

    def __call__(self) -> None:
        """Do one step."""
        loss, _ = self.loss(self.model(self.ids[:, :-1]), self.ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
