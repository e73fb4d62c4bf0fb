"""Histograms of a model count every value once, with fixed bins, and leave the model as it is."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.config.parts import build_model
from spectral_exp.core.series import FloatArray
from spectral_exp.monitoring import histograms
from spectral_exp.monitoring.histograms import (
    Histogram,
    count_equal_bins,
    count_octaves,
    model_histograms,
)
from spectral_exp.runs.spectra import FAMILIES, OCTAVES
from tests.conftest import TINY, compose

# With another optimizer or loss, the model is the same.
EXPERIMENTS = [
    pytest.param(name, marks=pytest.mark.slow if re.search("_(rgd|qfe)$", name) else ())
    for name in sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
]


def count_all(model: nn.Module, n_tokens: int = 12) -> dict[str, Histogram]:
    found: dict[str, Histogram] = {}
    for _, count in model_histograms(model, -1, range(n_tokens)):
        found |= count()
    return found


def reference(values: FloatArray, edges: FloatArray) -> tuple[list[int], int]:
    """Counts by comparison with every edge, and NaNs."""
    counts = [0] * (len(edges) - 1)
    numbers = values[~np.isnan(values)]
    for number in numbers.tolist():
        counts[int(np.clip(np.sum(number >= edges) - 1, 0, len(counts) - 1))] += 1
    return counts, int(np.isnan(values).sum())


_FLOATS = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))


@settings(max_examples=60, deadline=None)
@given(_FLOATS, st.integers(1, 7))
def test_octaves_are_counted_as_by_comparison_with_the_edges(values: Any, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "_CPU_PIECE", piece)
        found = count_octaves([torch.from_numpy(values[::2]), torch.from_numpy(values)], OCTAVES)
    both = np.abs(np.concatenate([values[::2], values]).astype(np.float64))
    assert (found.counts.tolist(), found.n_nan) == reference(both, OCTAVES.edges)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats()),
    st.sampled_from(["frequencies", "attention_entropy"]),
)
def test_equal_bins_are_counted_as_by_comparison_with_the_edges(values: Any, family: str) -> None:
    edges = FAMILIES[family].bins.edges
    # At an edge that has no exact number, the comparison and the division may differ.
    values = values[~np.isclose(values[:, None], edges[1:-1], rtol=1e-12).any(axis=1)]
    found = count_equal_bins(values, family)
    assert (found.counts.tolist(), found.n_nan) == reference(values, edges)


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.5, -3.0, 0.0, 2.0**-50, float("inf"), float("nan")], dtype=torch.float64),
        torch.tensor([1.5, -3.0, 0.0, 2.0**-50, float("inf"), float("nan")], dtype=torch.bfloat16),
        torch.tensor([1.5, -3.0, 0.0, 2.0**-9, float("inf"), float("nan")], dtype=torch.float16),
        torch.tensor([[1.5, 9.0], [-3.0, 9.0], [0.0, 9.0]]).T[0],
        torch.tensor([1.5j, -3.0, 0.0]),
        torch.tensor([0.0, 1.5, -3.0, 0.0]).to_sparse(),
    ],
    ids=["float64", "bfloat16", "float16", "strided", "complex", "sparse"],
)
def test_every_kind_of_tensor_can_be_counted(values: torch.Tensor) -> None:
    found = count_octaves([values], OCTAVES)
    dense = (values.coalesce().values() if values.is_sparse else values).abs().double().numpy()
    assert (found.counts.tolist(), found.n_nan) == reference(dense, OCTAVES.edges)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_records_what_it_has_and_is_left_as_it_was(experiment: str) -> None:
    config = compose(f"+experiment={experiment}", *TINY, "model.dropout=0.2")
    model: Any = build_model(config, 256)
    ids = torch.randint(256, (2, 12))
    loss: Any = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    loss.backward()
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state(), torch.get_num_threads()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found = count_all(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.get_num_threads() == before[2]
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert all(torch.equal(model.get_parameter(n).grad, g) for n, g in gradients.items())

    has_waves = hasattr(model.embedding, "base_freqs")
    waves = {"frequencies", "phases", "amplitudes"} if has_waves else set()
    parts = {"embedding", "attention", "mlp", "head"}
    assert found.keys() == {
        *waves,
        *(f"attention_entropy/layer_2/head_{head}" for head in (1, 2)),
        *(f"weights/{part}" for part in parts),
        *(f"gradients/{part}" for part in parts | waves),
    }
    totals = {name: int(each.counts.sum()) + each.n_nan for name, each in found.items()}
    matrices = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    of_weights = sum(total for name, total in totals.items() if name.startswith("weights/"))
    assert of_weights + sum(totals[name] for name in waves) == matrices
    of_gradients = sum(total for name, total in totals.items() if name.startswith("gradients/"))
    assert of_gradients == matrices
    assert all(totals[name] == 11 for name in totals if name.startswith("attention_entropy"))
    if waves:
        expected = np.histogram(
            np.mod(model.embedding.phases.detach().double().numpy(), 2 * np.pi), 36, (0, 2 * np.pi)
        )[0]
        assert found["phases"].counts.tolist() == expected.tolist()


class Mixing(nn.Module):
    """A model whose attention has given weights."""

    n_layer = 1

    def __init__(self, weights: FloatArray) -> None:
        super().__init__()
        self.weights = torch.from_numpy(weights)

    def attention_weights(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        return self.weights


def test_entropies_lie_between_one_token_and_equal_weights() -> None:
    equal = np.tril(np.ones((6, 6)))
    single = np.eye(6)
    broken = np.where(np.eye(6), np.nan, np.tril(equal))
    endless = np.where(np.eye(6), np.inf, np.tril(equal))
    found = count_all(Mixing(np.stack([equal, single, broken, endless])), n_tokens=6)
    first, second, third, fourth = found.values()
    assert list(found) == [f"attention_entropy/layer_1/head_{head}" for head in (1, 2, 3, 4)]
    assert (first.counts[-1], first.counts.sum(), first.n_nan) == (5, 5, 0)
    assert (second.counts[0], second.counts.sum(), second.n_nan) == (5, 5, 0)
    for unknown in (third, fourth):
        assert (unknown.counts.sum(), unknown.n_nan) == (0, 5)
    (everywhere,) = count_all(Mixing(np.ones((1, 6, 6))), n_tokens=6).values()
    assert everywhere.counts[-1] == 5


def test_any_model_is_grouped_by_its_modules() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 3), nn.LayerNorm(3))
    assert count_all(model).keys() == {"weights/0", "weights/1"}
    model(torch.tensor([1, 1, 2])).sum().backward()
    found = count_all(model)
    assert found.keys() == {"weights/0", "weights/1", "gradients/0", "gradients/1"}
    assert found["gradients/0"].counts.sum() == 8  # the rows of two tokens
    assert found["weights/1"].counts.sum() == 12
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(13)))
    assert {name: int(h.counts.sum()) for name, h in count_all(deep).items()} == {"weights/all": 52}
    assert count_all(nn.LayerNorm(3)) == {}


def test_values_out_of_range_count_in_the_end_bins_and_nan_apart() -> None:
    model = nn.Linear(1, 1)
    model.base_freqs = torch.tensor([[-3.0, 0.0, 7.99, 8.0, torch.inf, torch.nan]])
    model.phases = torch.tensor([[-0.1, 0.0, 6.2, 6.3, torch.inf, torch.nan]])
    found = count_all(model)
    assert found["frequencies"].counts[[0, -1]].tolist() == [2, 3]
    assert found["phases"].counts[[0, -1]].tolist() == [2, 2]
    assert (found["frequencies"].n_nan, found["phases"].n_nan) == (1, 2)


def test_waves_that_are_no_parameters_are_counted_without_warnings() -> None:
    model = nn.Linear(2, 2)
    model.base_freqs = 2 * model.weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_all(model).keys() == {"frequencies", "weights/weight"}
