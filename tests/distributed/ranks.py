"""Real processes that train together over gloo, and the small model that they train."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from spectral_exp.distributed.world import end_process
from spectral_exp.losses import CrossEntropy
from spectral_exp.models.attention import InterferenceAttention
from spectral_exp.models.gpt import GPT, MLP
from spectral_exp.models.wave import WaveEmbedding

VOCABULARY, BLOCK = 61, 16


def spawn(size: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Run `work(rank, folder, *arguments)` in `size` processes, which form one group."""
    rendezvous = folder / f"rendezvous-{size}"
    torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
        _join, (size, rendezvous, work, folder, arguments), size
    )


def _join(
    rank: int,
    size: int,
    rendezvous: Path,
    work: Callable[..., None],
    folder: Path,
    arguments: Sequence[Any],
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        work(rank, folder, *arguments)
    finally:
        dist.destroy_process_group()
    end_process(0)


def small_model(*, tie_weights: bool = False, is_odd: bool = False) -> GPT:
    """A wave model with a parameter of no dimension, and rows that no number of ranks divides.

    The parts of its parameters fill the vectors of the processor, unless it `is_odd`: at the end of
    a tensor torch's fused kernels round in another way.
    """
    torch.manual_seed(0)
    n_embd, n_wave = (20, 3) if is_odd else (64, 64)
    return GPT(
        vocab_size=VOCABULARY,
        block_size=BLOCK,
        n_layer=2,
        n_head=2,
        n_embd=n_embd,
        embedding=functools.partial(WaveEmbedding, n_wave=n_wave),
        attention=functools.partial(InterferenceAttention, n_wave=n_wave),
        mlp=functools.partial(MLP, activation="resonance"),
        tie_weights=tie_weights,
    )


def batch(step: int, micro_step: int) -> tuple[Tensor, Tensor]:
    """The micro-batch `micro_step` of a step, counted over all processes."""
    generator = torch.Generator().manual_seed(1000 * step + micro_step)
    ids = torch.randint(0, VOCABULARY, (2, BLOCK + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def backward(model: nn.Module, step: int, micro_steps: Sequence[int], n: int) -> list[float]:
    """Add up the gradients of some of the `n` micro-batches of a step; return their losses."""
    losses = []
    for micro_step in micro_steps:
        x, y = batch(step, micro_step)
        loss = CrossEntropy()(model(x), y)[0]
        (loss / n).backward()
        losses.append(loss.item())
    return losses
