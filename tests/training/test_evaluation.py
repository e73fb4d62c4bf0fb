from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from spectral_exp.training.evaluation import evaluate


class Table(nn.Module):
    """Bigram logits: the next token depends only on the current one."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
        self.drop = nn.Dropout(0.9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.drop(self.logits[ids])  # type: ignore[no-any-return]


def test_matches_the_direct_formula_and_counts_bytes() -> None:
    model = Table().train()
    generator = torch.Generator().manual_seed(1)
    windows = [
        (
            torch.randint(5, (b, 7), generator=generator),
            torch.randint(5, (b, 7), generator=generator),
            10 + torch.arange(b),
        )
        for b in (3, 1)
    ]
    before = torch.get_rng_state()
    found = evaluate(model, windows, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    nats = [
        -math.log(torch.softmax(model.logits[a].double(), 0)[b].item())
        for x, y, _ in windows
        for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    ]
    n_bytes, mean = 10 + 11 + 12 + 10, sum(nats) / 28
    spread = math.sqrt(sum((n - mean) ** 2 for n in nats) / 28)
    assert found.tokens == 28
    assert found.loss == pytest.approx(mean, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(mean), rel=1e-6)
    assert found.bpb == pytest.approx(sum(nats) / math.log(2) / n_bytes, rel=1e-6)
    assert found.token_error_bpb == pytest.approx(
        spread / math.sqrt(28) * 28 / n_bytes / math.log(2), rel=1e-5
    )
    # By the definition of the error of a ratio of two sums over windows.
    whole, sizes = sum(nats), [10, 11, 12, 10]
    parts = [sum(nats[7 * i : 7 * i + 7]) for i in range(4)]
    deviations = [part - whole / n_bytes * size for part, size in zip(parts, sizes, strict=True)]
    error = math.sqrt(4 / 3 * sum(d**2 for d in deviations)) / n_bytes / math.log(2)
    assert found.windows == 4
    assert found.window_error_bpb == pytest.approx(error, rel=1e-6)
