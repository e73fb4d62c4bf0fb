"""Diagnoses of trained models: the measured values, and the command."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from spectral_exp.commands.diagnose import attention_sums, diagnose, main
from spectral_exp.config.parts import build_dataset, build_model
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.train import main as train_main
from tests.conftest import NO_PLOTS, TINY

# Batch, heads, tokens of weights made by hand, and the queries of a window that count.
B, H, T = 3, 2, 10
QUERIES = B * (T - T // 2)


def measured(weights: torch.Tensor) -> list[list[float]]:
    """Entropy, own, previous, distance; each a mean per head."""
    return (attention_sums(weights.expand(B, H, T, T)) / QUERIES).tolist()


def test_equal_weights_have_entropy_one() -> None:
    equal = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    entropy, own, previous, distance = measured(equal)
    seen = range(T // 2 + 1, T + 1)
    share = sum(1 / n for n in seen) / len(seen)
    assert entropy == pytest.approx([1.0] * H)
    assert own == previous == pytest.approx([share] * H)
    assert distance == pytest.approx([sum((n - 1) / 2 for n in seen) / len(seen)] * H)


@pytest.mark.parametrize("back", [0, 1, 3])
def test_looking_at_one_token_has_entropy_zero(back: int) -> None:
    one = torch.zeros(T, T)
    for query in range(T):
        one[query, max(0, query - back)] = 1
    entropy, own, previous, distance = measured(one)
    assert entropy == [0.0] * H
    assert own == [float(back == 0)] * H
    assert previous == [float(back == 1)] * H
    assert distance == [float(back)] * H


def test_heads_are_separate_and_texts_are_averaged() -> None:
    weights = (
        torch.randn(B, H, T, T)
        .masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf)
        .softmax(-1)
    )
    entropy = attention_sums(weights)[0]
    by_hand = [
        sum(
            -sum(p * math.log(p) for p in weights[b, h, i, : i + 1].tolist()) / math.log(i + 1)
            for b in range(B)
            for i in range(T // 2, T)
        )
        for h in range(H)
    ]
    assert entropy.tolist() == pytest.approx(by_hand, rel=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model whose head is the embedding's table."""
    root = tmp_path_factory.mktemp("diagnose") / "run"
    options = (
        "+experiment=wave",
        *TINY,
        NO_PLOTS,
        "model.tie_weights=true",
        f"hydra.run.dir={root}",
    )
    assert train_main(list(options)) == 0
    return root


def test_the_loss_and_the_gradient_are_those_of_the_text_at_once(run: Path) -> None:
    found = diagnose(run, windows=5)
    config = read_json(run / "config.json")["config"]
    data, model = build_dataset(config), build_model(config, 256).eval()
    model.load_state_dict(
        torch.load(run / "checkpoints/checkpoint_best.pt", weights_only=True)["model_state_dict"]
    )
    fits = (len(data.val) - 1) // 16
    starts = [i * fits // 5 * 16 for i in range(5)]
    ids = torch.tensor([[int(token) for token in data.val[s : s + 17]] for s in starts])
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    assert (found.windows, found.block_size) == (5, 16)
    assert found.val_loss == pytest.approx(loss.item(), rel=1e-5)
    squares = {
        name: p.grad.square().sum().item()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    whole = sum(squares.values())
    embedding = sum(square for name, square in squares.items() if name.startswith("embedding."))
    assert found.gradient_shares["embedding"] == pytest.approx(embedding / whole, rel=1e-4)
    assert found.gradient_shares["head"] == 0, "tied: it counts as the embedding's"
    assert sum(found.gradient_shares.values()) == pytest.approx(1.0)
    assert found.metrics["wave_ratio"] == pytest.approx(
        model.embedding.metrics()["wave_ratio"].item()
    )
    weights = model.attention_weights(ids[:1, :-1], 1)[None]
    one = diagnose(run, windows=1).layers[1]
    assert one.entropy == pytest.approx((attention_sums(weights)[0] / 8).tolist(), rel=1e-5)


def test_the_number_of_windows_at_once_changes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = diagnose(run, windows=7)
    monkeypatch.setattr("spectral_exp.commands.diagnose._WEIGHTS_AT_ONCE", 1)
    one_by_one = diagnose(run, windows=7)
    for together, alone in zip(at_once.layers, one_by_one.layers, strict=True):
        assert together.entropy == pytest.approx(alone.entropy, rel=1e-5)
    assert at_once.val_loss == pytest.approx(one_by_one.val_loss, rel=1e-5)
    assert at_once.gradient_shares == pytest.approx(one_by_one.gradient_shares, rel=1e-3)


def test_the_command_prints_a_table_or_everything(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), str(run), "--windows", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("run: step 12, val_loss ") == 2
    assert "over 2 windows of 16 tokens" in printed
    assert printed.count("wave_ratio: 0.") == 2
    assert "gradient: embedding " in printed
    assert main([str(run), "--windows", "2", "--json"]) == 0
    (diagnosed,) = json.loads(capsys.readouterr().out)
    assert diagnosed["step"] == 12
    assert [len(layer["entropy"]) for layer in diagnosed["layers"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["RUN", "--windows", "0"], "--windows=0 must be >= 1"),
        (["RUN", "--checkpoint", "5"], "has no checkpoint 5; saved steps: "),
    ],
)
def test_mistakes_are_reported_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_another_text_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other, symlinks=True)
    record: dict[str, Any] = read_json(other / "config.json")
    record["config"]["data"]["n_tokens"] = 30000
    del record["crc32"]
    write_json_atomic(other / "config.json", record)
    assert main([str(other)]) == 2
    assert "was trained on other text" in capsys.readouterr().err
