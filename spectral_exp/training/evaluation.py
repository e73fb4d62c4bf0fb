"""Cross-entropy over fixed windows of the validation text, in nats per token and bits per byte.

Tensor letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_exp.distributed.ranks import Ranks


@dataclass(frozen=True)
class Evaluation:
    """The result of one validation.

    Attributes:
        val_loss: mean cross-entropy, nats per token.
        val_bpb: bits per byte of text; comparable between tokenizers.
        standard_error_bpb: standard error of `val_bpb`, with tokens taken as independent.
        tokens: number of predicted tokens.
    """

    val_loss: float
    val_bpb: float
    standard_error_bpb: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(val_loss); infinite if that overflows."""
        return perplexity(self.val_loss)

    def metrics(self) -> dict[str, float]:
        """Return the entries for the metrics file."""
        return {"val_loss": self.val_loss, "perplexity": self.perplexity, "val_bpb": self.val_bpb}


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite if that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def evaluate(
    model: nn.Module,
    windows: Iterable[tuple[Tensor, Tensor, int]],
    device: torch.device,
    forward: Callable[[Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate a model without drawing random numbers.

    Args:
        model: set to evaluation mode during the call, and back to its mode afterwards.
        windows: inputs (B, T), targets (B, T) and the number of bytes of the targets.
        device: the device of the model.
        forward: inputs (B, T) -> logits (B, T, V), for example under autocast; by default `model`.
        ranks: the processes that share the windows; by default this process evaluates all.
    """
    was_training = model.training
    model.eval()
    ranks = ranks or Ranks()
    # float64, because a long validation adds millions of small numbers.
    sums = torch.zeros(2, dtype=torch.float64)
    rows: list[Tensor] = []
    tokens = n_bytes = 0
    try:
        for i, (x, y, window_bytes) in enumerate(windows):
            tokens += y.numel()
            n_bytes += window_bytes
            if not ranks.batches_here(i):
                rows.append(torch.zeros_like(sums))
                continue
            logits = (forward or model)(x.to(device))
            nats = F.cross_entropy(
                logits.flatten(0, 1).float(), y.to(device).flatten(), reduction="none"
            )
            # Summed on the CPU: not every accelerator has float64.
            nats = nats.cpu().double()
            rows.append(torch.stack([nats.sum(), nats.square().sum()]))
        for _ in range(ranks.missing_batches(len(rows))):
            (forward or model)(x.to(device))
    finally:
        model.train(was_training)
    # Added in order, so that the result does not depend on the number of processes.
    for row in ranks.add_rows(torch.stack(rows)):
        sums += row
    total, squares = sums.tolist()
    mean = total / tokens
    variance = max(squares / tokens - mean**2, 0.0)
    nats_to_bpb = tokens / n_bytes / math.log(2)
    return Evaluation(mean, mean * nats_to_bpb, math.sqrt(variance / tokens) * nats_to_bpb, tokens)
