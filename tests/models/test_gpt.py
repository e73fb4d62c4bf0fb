from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.models.gpt import MLP
from spectral_exp.models.wave import WaveEmbedding
from tests.models.tiny_models import ATTENTIONS, EMBEDDINGS, GRID, build, loud, random_ids

whole_grid = pytest.mark.parametrize(("embedding", "attention", "mlp"), GRID)
each_attention = pytest.mark.parametrize("attention", ATTENTIONS)


@whole_grid
def test_no_token_sees_the_future(embedding: str, attention: str, mlp: str) -> None:
    model, ids = build(embedding, attention, mlp), random_ids()
    loud(model)
    logits = model(ids)
    for t in (0, 4, 9):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 11
        after = model(changed)
        assert torch.equal(after[:, :t], logits[:, :t])
        assert (after[:, t:] != logits[:, t:]).any(-1).all()


@whole_grid
def test_decoding_with_a_cache_equals_the_full_forward_pass(
    embedding: str, attention: str, mlp: str
) -> None:
    model, ids = build(embedding, attention, mlp), random_ids()
    loud(model)
    cache = model.new_cache(2)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in torch.split(ids, [4, 3, 1, 1, 1], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=1e-9, atol=1e-9)
    assert cache.length == 10


@whole_grid
def test_every_parameter_learns(embedding: str, attention: str, mlp: str) -> None:
    model, ids = build(embedding, attention, mlp, bias=True), random_ids()
    loud(model)
    torch.autograd.backward(F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@whole_grid
def test_bfloat16_autocast_stays_close_and_trains(embedding: str, attention: str, mlp: str) -> None:
    model, ids = build(embedding, attention, mlp), random_ids()
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids.roll(-1, 1).flatten())
    torch.autograd.backward(loss)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits.float(), exact, rtol=0, atol=0.05 * float(exact.detach().abs().max())
    )
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@whole_grid
def test_parameter_groups_hold_each_parameter_once(
    embedding: str, attention: str, mlp: str
) -> None:
    for tie_weights in (False, True):
        model = build(embedding, attention, mlp, bias=True, tie_weights=tie_weights)
        groups = model.parameter_groups()
        grouped = [id(p) for group in groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())
        by_role = {group["role"]: group for group in groups}
        assert ("head" in by_role) is not tie_weights
        assert any(p is model.embedding.table.weight for p in by_role["embedding"]["params"])
        assert all(p.ndim < 2 for p in by_role["vector"]["params"])
        assert all(p.ndim == 2 for p in by_role["hidden"]["params"])
        for role, group in by_role.items():
            assert group.get("weight_decay") == (0.0 if role in ("wave", "vector") else None)


def test_wave_parameters_have_their_own_role() -> None:
    model = build("wave", "phasor")
    (wave,) = [group["params"] for group in model.parameter_groups() if group["role"] == "wave"]
    names = {name for name, p in model.named_parameters() if any(p is q for q in wave)}
    own = {"base_freqs", "phases", "harmonic_amps", "position_rates", "wave_ratio"}
    assert names == {f"embedding.{n}" for n in own} | {
        f"blocks.{i}.attention.{n}" for i in (0, 1) for n in ("omega", "tau")
    }


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_attention
def test_components_sum_up_to_all_parameters(embedding: str, attention: str) -> None:
    for tie_weights in (False, True):
        model = build(embedding, attention, tie_weights=tie_weights)
        counts = model.parameters_by_component()
        total = counts.pop("total")
        assert total == sum(counts.values()) == sum(p.numel() for p in model.parameters())
        assert list(counts) == ["embedding", "attention", "mlp", "norm", "head"]
        assert counts["head"] == (0 if tie_weights else 11 * 8)
        assert counts["norm"] == 5 * 8


def test_flops_of_the_classic_model_follow_from_its_matrices() -> None:
    model = build()
    C, T, V, layers = 8, 10, 11, 2
    matrices = 4 * C * C + 8 * C * C
    elementwise = layers * 4 * C + C  # gelu; position added
    assert model.flops_per_token() == layers * (2 * matrices + 4 * T * C) + 2 * C * V + elementwise


def test_linear_time_attention_is_cheaper_at_length() -> None:
    def flops(attention: str, block_size: int) -> int:
        return build(attention=attention, block_size=block_size).flops_per_token()

    assert flops("pure_wave_linear", 4096) == flops("pure_wave_linear", 1024)
    assert flops("pure_wave", 4096) > 3 * flops("pure_wave", 1024)


@whole_grid
def test_construction_is_a_function_of_the_seed(embedding: str, attention: str, mlp: str) -> None:
    one, same, other = (
        build(embedding, attention, mlp, seed=seed).state_dict() for seed in (7, 7, 8)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_initialization_scales_residual_projections_with_depth() -> None:
    model = build(n_embd=128, n_layer=8, vocab_size=256, bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("output.weight"):
            assert parameter.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
        elif name.endswith("bias"):
            assert not parameter.any()


def test_wave_and_table_start_equally_loud() -> None:
    model = build("wave", vocab_size=500, n_embd=128)
    embedding = model.embedding
    assert isinstance(embedding, WaveEmbedding)
    recorded = []
    embedding.to_channels.register_forward_hook(
        lambda module, args, output: recorded.append(output)
    )
    ids = torch.arange(500)[None]
    embedding(ids)
    assert recorded[0].std().item() == pytest.approx(embedding.table(ids).std().item(), rel=0.1)


def test_a_tied_head_shares_the_token_table() -> None:
    for embedding in EMBEDDINGS:
        model = build(embedding, tie_weights=True)
        assert model.head.weight is model.embedding.table.weight


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_attention
def test_order_matters(embedding: str, attention: str) -> None:
    # Whatever carries position: swapping two earlier tokens must change what follows.
    model = build(embedding, attention, n_layer=1)
    loud(model)
    one, two = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    matters = bool((model(one)[0, -1] - model(two)[0, -1]).abs().max() > 1e-6)
    # Nothing carries it here but the causal mask, which acts from the second layer on.
    assert matters is not (attention == "no_positions" and embedding == "standard")
    if not matters:
        deeper = loud(build(embedding, attention))
        assert (deeper(one)[0, -1] - deeper(two)[0, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_attention
def test_attention_weights_are_causal_and_sum_to_one(embedding: str, attention: str) -> None:
    model = build(embedding, attention, dropout=0.5)
    loud(model)
    model.train()
    for layer in (0, 1):
        weights = model.attention_weights(random_ids(rows=1, tokens=7), layer)
        assert weights.shape == (2, 7, 7)
        assert not weights.requires_grad
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7).double())
        assert (weights >= 0).all()
        assert not weights.triu(1).any()
        assert torch.equal(weights, model.attention_weights(random_ids(rows=1, tokens=7), layer))
    assert model.training


def test_dropout_acts_in_training_only() -> None:
    model, ids = build(dropout=0.5), random_ids()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_only_the_wave_embedding_has_metrics() -> None:
    assert build().metrics() == {}
    ratio = build("wave").metrics()["wave_ratio"]
    assert ratio.ndim == 0
    assert not ratio.requires_grad
    assert ratio.item() == 0.5


def test_sizes_shared_by_the_configuration_are_kept() -> None:
    model = build(n_wave=5, n_harmonic=3)
    assert (model.n_wave, model.n_harmonic) == (5, 3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("vocab_size", 0),
        ("block_size", 0),
        ("n_layer", 0),
        ("n_layer", 10**9),
        ("n_head", 0),
        ("n_embd", 0),
        ("n_embd", 9),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("n_wave", 0),
        ("n_harmonic", 0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be") as error:
        build(seed=0, **{setting: value})
    assert error.value.setting == setting


@pytest.mark.parametrize(
    ("setting", "value"), [("activation", "relu"), ("expansion", 0), ("n_hidden", 0)]
)
def test_wrong_mlp_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{setting}="):
        MLP(8, **{setting: value})  # type: ignore[arg-type]


def test_the_hidden_size_can_be_a_multiple_or_a_number() -> None:
    assert MLP(8).n_hidden == 32
    assert MLP(8, expansion=2).n_hidden == 16
    assert MLP(8, n_hidden=13).hidden.weight.shape == (13, 8)


def test_the_resonance_mlp_adds_a_sine() -> None:
    plain, resonant = MLP(4).double(), MLP(4, activation="resonance").double()
    resonant.load_state_dict(plain.state_dict())
    x = 3 * torch.randn(5, 4, dtype=torch.float64)
    h = plain.hidden(x)
    torch.testing.assert_close(resonant(x), plain.output(F.gelu(h) + 0.1 * h.sin()))


def test_misuse_is_reported_in_one_line() -> None:
    model = build()
    with pytest.raises(UserError, match="11 tokens exceed block_size=10"):
        model(random_ids(tokens=11))
    cache = model.new_cache(1)
    with pytest.raises(UserError, match="holds 1 sequences"):
        model(random_ids(rows=2), cache=cache)
    model(random_ids(rows=1, tokens=8), cache=cache)
    with pytest.raises(UserError, match="11 tokens exceed"):
        model(random_ids(rows=1, tokens=3), cache=cache)
    with pytest.raises(SettingError, match="layer=2 must be"):
        model.attention_weights(random_ids(rows=1), 2)
    with pytest.raises(UserError, match="attention_weights takes"):
        model.attention_weights(random_ids(rows=2), 0)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_attention
def test_a_model_can_be_built_without_memory(embedding: str, attention: str) -> None:
    with torch.device("meta"):
        model = build(embedding, attention)
    real = build(embedding, attention)
    assert model.parameters_by_component() == real.parameters_by_component()
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.slow
def test_compiling_breaks_no_graph_and_progress_compiles_nothing_anew() -> None:
    scheduled = functools.partial(WaveEmbedding, n_wave=3, n_harmonic=2, wave_ratio="scheduled")
    for attention in ATTENTIONS:
        model, ids = build(scheduled, attention, "resonance"), random_ids()
        assert isinstance(model.embedding, WaveEmbedding)
        graphs: list[object] = []

        def note(
            graph: torch.fx.GraphModule, inputs: list[Tensor], graphs: list[object] = graphs
        ) -> Any:
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(model, fullgraph=True, backend=note)
        for fraction in (0.0, 0.5, 1.0):
            model.embedding.set_progress(fraction)
            torch.testing.assert_close(compiled(ids), model(ids))
        assert len(graphs) == 1
