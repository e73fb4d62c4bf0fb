"""Cross-entropy over fixed windows of a text, in nats per token and bits per byte.

Tensor letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_exp.distributed.ranks import Ranks


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation on the validation text, or on the test text.

    Attributes:
        loss: mean cross-entropy, nats per token.
        bpb: bits per byte of text; comparable between tokenizers.
        token_error_bpb: standard error of `bpb`, with tokens taken as independent.
        tokens: number of predicted tokens.
        windows: number of windows.
        window_error_bpb: standard error of `bpb`, with windows taken as independent; None for a
            single window.
    """

    loss: float
    bpb: float
    token_error_bpb: float
    tokens: int
    windows: int = 1
    window_error_bpb: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        return perplexity(self.loss)

    def metrics(self) -> dict[str, float]:
        """Return the entries for the metrics file."""
        return {"val_loss": self.loss, "perplexity": self.perplexity, "val_bpb": self.bpb}

    def test_metrics(self) -> dict[str, float]:
        """Return the entries of a test for the results."""
        error = self.window_error_bpb
        return {
            "test_loss": self.loss,
            "test_perplexity": self.perplexity,
            "test_bpb": self.bpb,
            **({} if error is None else {"test_standard_error_bpb": error}),
            "test_windows": self.windows,
        }


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite if that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def evaluate(
    model: nn.Module,
    windows: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    forward: Callable[[Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Evaluate a model without drawing random numbers.

    Args:
        model: set to evaluation mode during the call, and back to its mode afterwards.
        windows: inputs (B, T), targets (B, T) and the bytes of the targets of each window (B,).
        device: the device of the model.
        forward: inputs (B, T) -> logits (B, T, V), for example under autocast; by default `model`.
        ranks: the processes that share the windows; by default this process evaluates all.
    """
    was_training = model.training
    model.eval()
    ranks = ranks or Ranks()
    # float64, because a long validation adds millions of small numbers.
    sums = torch.zeros(5, dtype=torch.float64)
    rows: list[Tensor] = []
    tokens = n_bytes = n_windows = 0
    try:
        for i, (x, y, window_bytes) in enumerate(windows):
            tokens += y.numel()
            n_bytes += int(window_bytes.sum())
            n_windows += len(y)
            if not ranks.batches_here(i):
                rows.append(torch.zeros_like(sums))
                continue
            logits = (forward or model)(x.to(device))
            nats = F.cross_entropy(
                logits.flatten(0, 1).float(), y.to(device).flatten(), reduction="none"
            )
            # Summed on the CPU: not every accelerator has float64.
            nats = nats.cpu().double()
            rows.append(_sum_windows(nats, window_bytes.double()))
        for _ in range(ranks.missing_batches(len(rows))):
            (forward or model)(x.to(device))
    finally:
        model.train(was_training)
    # Added in order, so that the result does not depend on the number of processes.
    for row in ranks.add_rows(torch.stack(rows)):
        sums += row
    total, squares, *window_squares = sums.tolist()
    mean = total / tokens
    variance = max(squares / tokens - mean**2, 0.0)
    nats_to_bpb = tokens / n_bytes / math.log(2)
    return Evaluation(
        loss=mean,
        bpb=mean * nats_to_bpb,
        token_error_bpb=math.sqrt(variance / tokens) * nats_to_bpb,
        tokens=tokens,
        windows=n_windows,
        window_error_bpb=_window_error(total, n_bytes, n_windows, window_squares),
    )


def _sum_windows(nats: Tensor, window_bytes: Tensor) -> Tensor:
    """Return sums over the tokens of a batch, and over its windows, for `evaluate`.

    These are the sums of nats and of their squares over tokens, and over windows the sums of
    nats^2, nats * bytes and bytes^2.
    """
    per_window = nats.view(len(window_bytes), -1).sum(1)
    return torch.stack(
        [
            nats.sum(),
            nats.square().sum(),
            per_window.square().sum(),
            (per_window * window_bytes).sum(),
            window_bytes.square().sum(),
        ]
    )


def _window_error(
    nats: float, n_bytes: int, n_windows: int, squares: Sequence[float]
) -> float | None:
    """Return the standard error, in bits per byte, of a ratio of two sums over windows."""
    if n_windows < 2:
        return None
    ratio = nats / n_bytes
    of_nats, of_both, of_bytes = squares
    spread = max(of_nats - 2 * ratio * of_both + ratio**2 * of_bytes, 0.0)
    return math.sqrt(n_windows / (n_windows - 1) * spread) / n_bytes / math.log(2)
