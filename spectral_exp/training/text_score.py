"""The score of a trained model on a text: nats per token and bits per byte, with a standard error.

Tensor letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text.

    Attributes:
        loss: mean cross-entropy, nats per token.
        bpb: bits per byte of text; comparable between tokenizers.
        standard_error_bpb: standard error of `bpb`, with windows taken as independent; None for a
            single window.
        windows, tokens, bytes: what was predicted.
    """

    loss: float
    bpb: float
    standard_error_bpb: float | None
    windows: int
    tokens: int
    bytes: int


@torch.no_grad()
def score_text(
    forward: Callable[[Tensor], Tensor],
    windows: Iterable[tuple[Tensor, Tensor, Tensor]],
    token_bytes: Tensor,
    device: torch.device,
) -> TextScore:
    """Return the score of a model in evaluation mode.

    Args:
        forward: inputs (B, T) -> logits (B, T, V).
        windows: inputs (B, T), targets (B, T), and whether each target counts (B, T).
        token_bytes: (V,) bytes of each id.
        device: the device of the model.
    """
    nats: list[Tensor] = []
    n_bytes: list[Tensor] = []
    tokens = 0
    for x, y, counts in windows:
        logits = forward(x.to(device)).flatten(0, 1).float()
        each = F.cross_entropy(logits, y.to(device).flatten(), reduction="none")
        # Summed on the CPU: not every accelerator has float64.
        nats.append((each.cpu().double().view_as(y) * counts).sum(1))
        n_bytes.append((token_bytes[y] * counts).sum(1))
        tokens += int(counts.sum())
    of_windows, size = torch.cat(nats), torch.cat(n_bytes)
    total, n_windows = int(size.sum()), len(size)
    if total == 0:
        return TextScore(math.nan, math.nan, None, n_windows, tokens, 0)
    per_byte = float(of_windows.sum()) / total
    # Standard error of a ratio of two sums over windows.
    spread = float((of_windows - per_byte * size).square().sum())
    error = math.sqrt(n_windows / (n_windows - 1) * spread) / total if n_windows > 1 else None
    return TextScore(
        loss=float(of_windows.sum()) / tokens,
        bpb=per_byte / math.log(2),
        standard_error_bpb=None if error is None else error / math.log(2),
        windows=n_windows,
        tokens=tokens,
        bytes=total,
    )
