"""Norms, gated MLPs, the soft-cap and rotary settings follow slow formulas in float64, with every
attention, and change nothing while they are off."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_exp.core.errors import SettingError
from spectral_exp.losses import QFE, CrossEntropy
from spectral_exp.losses import softmax as softmax_module
from spectral_exp.models import MLP, LayerNorm, RMSNorm, RotaryAttention, SwiGLU
from spectral_exp.models.attention import Attention, SoftmaxAttention
from spectral_exp.models.pure_wave import PureWaveAttention
from spectral_exp.runs.renamed import update_names
from tests.conftest import compose
from tests.models.tiny_models import ATTENTIONS, build, loud

C, H, T, W = 8, 2, 7, 3
EPS = 1e-6
each_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def random(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_ids() -> Tensor:
    return torch.randint(11, (2, 10), generator=torch.Generator().manual_seed(1))


def modern(attention: str) -> Any:
    """A model with every switch on."""
    gated: Any = SwiGLU
    model = build(
        "standard",
        attention,
        gated,
        norm=RMSNorm,
        embedding_norm=True,
        qk_norm=True,
        logit_softcap=5.0,
        bias=True,
    )
    return loud(model)


def rms_norm(values: list[float], gains: list[float]) -> list[float]:
    scale = math.sqrt(sum(x * x for x in values) / len(values) + EPS)
    return [g * x / scale for g, x in zip(gains, values, strict=True)]


class Given(nn.Module):
    """Stands for a linear map, with a fixed result."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result, self.weight = result, torch.empty(0, dtype=result.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.result


# --- queries and keys -----------------------------------------------------------------------------


@each_attention
def test_qk_norm_scales_each_head_of_queries_and_keys(attention: str) -> None:
    """The layer equals one without the norm whose projections were normalized by hand."""
    torch.manual_seed(0)
    module: Any = ATTENTIONS[attention](n_embd=C, n_head=H, block_size=10)
    module.normalize_queries_and_keys()
    module = loud(module).eval().requires_grad_(False)
    x = random(1, T, C)
    name = "waves" if isinstance(module, PureWaveAttention) else "project"
    projected: Tensor = getattr(module, name)(x)
    expected = projected.clone()
    gains = {"query": module.query_norm.weight.tolist(), "key": module.key_norm.weight.tolist()}
    size = len(gains["query"])
    assert len(set(gains["query"] + gains["key"])) > 2
    for t in range(T):
        for h in range(H):
            if isinstance(module, SoftmaxAttention):  # all queries, then all keys
                starts = {"query": h * size, "key": (H + h) * size}
            else:  # queries and keys of one head, then of the next
                starts = {"query": 2 * h * size, "key": (2 * h + 1) * size}
            for part, begin in starts.items():
                values = projected[0, t, begin : begin + size].tolist()
                row = torch.tensor(rms_norm(values, gains[part]), dtype=torch.float64)
                expected[0, t, begin : begin + size] = row
    normalized, weights = module(x), module.weights(x)
    module.query_norm = module.key_norm = None
    setattr(module, name, Given(expected))
    torch.testing.assert_close(normalized, module(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights, module.weights(x), rtol=1e-9, atol=1e-9)


def test_an_attention_without_the_norm_says_so() -> None:
    class Plain(Attention):
        output = nn.Linear(C, C)
        forward = weights = new_state = flops_per_token = None  # type: ignore[assignment]

    with pytest.raises(SettingError, match="qk_norm=true must be false with Plain"):
        build(
            attention=lambda n_embd, n_head, block_size, **_: Plain(n_embd, n_head, block_size),
            qk_norm=True,
        )


# --- rotary positions -----------------------------------------------------------------------------


@pytest.mark.parametrize("frequencies", ["fixed", "learned"])
@pytest.mark.parametrize("base", [10000.0, 2.0, 5e5])
def test_pairs_of_channels_turn_by_their_rates(base: float, frequencies: Any) -> None:
    size, start = 6, 2
    module = RotaryAttention(2 * size, 2, 10, base=base, frequencies=frequencies).double()
    q, k = random(1, 2, 5, size), random(1, 2, 5, size, seed=4)
    for given, turned in zip((q, k), module.queries_and_keys(q, k, start), strict=True):
        for t in range(5):
            for pair in range(size // 2):
                rate = base ** (-2 * pair / size)
                if module.rates is not None:
                    rate = float(module.rates.detach()[pair])
                    assert math.isclose(rate, base ** (-2 * pair / size), rel_tol=1e-6)
                a = given[0, :, t, pair] + 1j * given[0, :, t, pair + size // 2]
                angle = torch.tensor((start + t) * rate, dtype=torch.float64)
                b = a * torch.complex(angle.cos(), angle.sin())
                found = turned[0, :, t, pair] + 1j * turned[0, :, t, pair + size // 2]
                # The tables of fixed rates are float32.
                torch.testing.assert_close(found, b, rtol=0, atol=1e-6)


def test_learned_rates_are_wave_parameters_and_start_as_fixed_ones() -> None:
    fixed, ids = build(attention="rotary"), random_ids()
    learned = build(attention=lambda **k: RotaryAttention(**k, frequencies="learned"))
    torch.testing.assert_close(learned(ids), fixed(ids), rtol=1e-4, atol=1e-6)
    (wave,) = (group for group in learned.parameter_groups() if group["role"] == "wave")
    assert [tuple(p.shape) for p in wave["params"]] == [(2,), (2,)]
    assert wave["weight_decay"] == 0


# --- MLPs and norms -------------------------------------------------------------------------------


def test_gated_and_squared_activations_follow_their_formulas() -> None:
    x = random(1, 3, C)
    gated: Any = loud(SwiGLU(C, bias=True))
    squared: Any = loud(MLP(C, bias=True, activation="relu2"))
    assert gated.n_hidden == round(8 * C / 3)
    for t in range(3):
        g, h = gated.gate(x)[0, t].tolist(), gated.hidden(x)[0, t].tolist()
        product = [a / (1 + math.exp(-a)) * b for a, b in zip(g, h, strict=True)]
        expected = gated.output(torch.tensor(product, dtype=torch.float64))
        torch.testing.assert_close(gated(x)[0, t], expected, rtol=1e-9, atol=1e-9)
        h = squared.hidden(x)[0, t].tolist()
        expected = squared.output(torch.tensor([max(a, 0) ** 2 for a in h], dtype=torch.float64))
        torch.testing.assert_close(squared(x)[0, t], expected, rtol=1e-9, atol=1e-9)


def test_swiglu_has_about_as_many_weights_as_gelu() -> None:
    counts = [sum(p.numel() for p in mlp(384).parameters()) for mlp in (MLP, SwiGLU)]
    assert counts[0] == counts[1]
    assert SwiGLU(C, n_hidden=5).n_hidden == 5


def test_norms_follow_their_formulas() -> None:
    x, gains = random(2, C), random(C, seed=5)
    rms, layer = RMSNorm(C).double(), LayerNorm(C, bias=False).double()
    with torch.no_grad():
        rms.weight.copy_(gains)
        layer.weight.copy_(gains)
    for row, by_rms, by_layer in zip(x.tolist(), rms(x), layer(x), strict=True):
        expected = torch.tensor(rms_norm(row, gains.tolist()), dtype=torch.float64)
        torch.testing.assert_close(by_rms, expected)
        mean = sum(row) / C
        variance = sum((value - mean) ** 2 for value in row) / C
        centred = [(value - mean) / math.sqrt(variance + 1e-5) for value in row]
        torch.testing.assert_close(by_layer, gains * torch.tensor(centred, dtype=torch.float64))


# --- the whole model ------------------------------------------------------------------------------


def test_the_embedding_is_normalized_and_the_logits_are_bounded() -> None:
    ids = random_ids()
    plain: Any = loud(build())
    switched: Any = loud(build(embedding_norm=True, logit_softcap=0.5))
    switched.load_state_dict(plain.state_dict(), strict=False)
    rows = switched.embedding_norm(plain.embedding(ids))
    plain.embedding.forward = lambda ids, start=0: rows
    logits = plain(ids)
    torch.testing.assert_close(switched(ids), 0.5 * torch.tanh(logits / 0.5))
    assert logits.abs().max() > 0.5
    torch.testing.assert_close(
        switched.attention_weights(ids[:1], 1),
        plain_weights(plain, rows[:1]),
    )


def plain_weights(model: Any, rows: Tensor) -> Tensor:
    x = model.blocks[0](rows)
    weights: Tensor = model.blocks[1].attention.weights(model.blocks[1].attention_norm(x))[0]
    return weights


@each_attention
def test_every_switch_works_with_every_attention(attention: str) -> None:
    model, ids = modern(attention), random_ids()
    logits = model(ids)
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    assert torch.equal(model(changed)[:, :4], logits[:, :4])
    assert (model(changed)[:, 4:] != logits[:, 4:]).any(-1).all()
    cache = model.new_cache(2)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in torch.split(ids, [4, 3, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), logits.detach(), rtol=1e-9, atol=1e-9)
    torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    grouped = [p for group in model.parameter_groups() for p in group["params"]]
    assert len(grouped) == len({*map(id, grouped)}) == len(list(model.parameters()))
    counts = model.parameters_by_component()
    assert counts["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("attention", "settings"),
    [
        ("alibi", {}),
        ("no_positions", {}),
        *(
            (kind, {"frequencies": f})
            for kind in ("rotary", "phasor")
            for f in ("fixed", "learned")
        ),
    ],
)
def test_weights_serve_sequences_eight_times_as_long(
    attention: str, settings: dict[str, Any]
) -> None:
    def make(block_size: int) -> Any:
        factory = functools.partial(ATTENTIONS[attention], **settings)
        return build("standard", factory, block_size=block_size, embedding_norm=True, qk_norm=True)

    short, long = loud(make(10)), make(80).double()
    long.load_state_dict(short.state_dict())
    ids = torch.randint(11, (2, 80), generator=torch.Generator().manual_seed(1))
    whole = long(ids)
    assert whole.isfinite().all()
    # Rotary's tables are float32 in both.
    torch.testing.assert_close(whole[:, :10], short(ids[:, :10]), rtol=1e-9, atol=1e-9)
    cache = long.new_cache(2)
    with torch.no_grad():
        pieces = [long(piece, cache=cache) for piece in torch.split(ids, [70, 7, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_softcap_is_named(value: float) -> None:
    with pytest.raises(SettingError, match="logit_softcap"):
        build(logit_softcap=value)
    with pytest.raises(SettingError, match="base"):
        RotaryAttention(C, H, 10, base=value)


# --- the z-loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [3, 2**19])
def test_the_z_loss_and_its_gradient(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(softmax_module, "_CPU_PIECE", piece)
    targets = torch.tensor([[0, 3, 4], [1, 1, 2]])
    for make in (CrossEntropy, lambda **k: QFE(5, **k)):
        grads = []
        for weight in (0.0, 0.3):
            logits = (3 * random(2, 3, 5)).requires_grad_()
            total, parts = make(z_loss=weight)(logits, targets)
            torch.autograd.backward(total)
            assert logits.grad is not None
            grads.append((total.item(), logits.grad))
        assert "z_loss" in parts
        again = logits.detach().clone().requires_grad_()
        term = torch.logsumexp(again, -1).square().mean()
        torch.autograd.backward(0.3 * term)
        assert again.grad is not None
        torch.testing.assert_close(parts["z_loss"], term.detach())
        assert math.isclose(grads[1][0], grads[0][0] + 0.3 * term.item(), rel_tol=1e-12)
        torch.testing.assert_close(grads[1][1], grads[0][1] + again.grad)
        assert torch.equal(parts["loss"], CrossEntropy()(logits, targets)[0].detach())
    with pytest.raises(SettingError, match="z_loss"):
        CrossEntropy(z_loss=-0.1)


# --- configurations -------------------------------------------------------------------------------


def test_switches_that_are_off_leave_no_trace_in_a_record() -> None:
    """So that runs of older versions continue, and belong to the groups of new ones."""
    config = update_names(compose("+experiment=classic_rotary"))
    off = {"norm", "embedding_norm", "qk_norm", "logit_softcap"}
    assert not off & config["model"].keys()
    assert not {"base", "frequencies"} & config["model"]["attention"].keys()
    assert "z_loss" not in config["loss"]
    learned = "model.attention.frequencies=learned"
    changed = update_names(
        compose("+experiment=classic_rotary", learned, "model.qk_norm=true", "loss.z_loss=0.1")
    )
    assert changed["model"]["attention"]["frequencies"] == "learned"
    assert changed["model"]["qk_norm"] is True
    assert changed["loss"]["z_loss"] == 0.1
    # Settings of Muon are recorded only where they mean something.
    config = update_names(compose("+experiment=wave_rgd"))["optimizer"]
    assert not {"direction", "momentum", "nesterov", "ns_steps", "rate_scale"} & config.keys()
    on_muon = update_names(compose("+experiment=wave_rgd", "optimizer.direction=muon"))
    assert on_muon["optimizer"].items() >= {"direction": "muon", "ns_steps": 5}.items()
    # The same names may mean something else to another part.
    other = {"_target_": "spectral_exp.models.Other", "base": 10000.0, "qk_norm": False}
    assert update_names({"model": other}) == {"model": other}


def test_the_modern_experiment_has_all_of_them() -> None:
    config = update_names(compose("+experiment=classic_modern"))["model"]
    assert config["norm"]["_target_"].endswith("RMSNorm")
    assert config["mlp"]["_target_"].endswith("SwiGLU")
    assert config["attention"]["_target_"].endswith("RotaryAttention")
    assert config["embedding_norm"] is config["qk_norm"] is True
