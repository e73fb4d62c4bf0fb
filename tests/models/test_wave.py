from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from spectral_exp.core.errors import SettingError
from spectral_exp.models.embedding import StandardEmbedding
from spectral_exp.models.wave import WaveEmbedding, at_positions, resonance, wave_packets
from tests.models.tiny_models import loud, random_ids

V, C, W, M = 11, 8, 3, 2


def embedding(**settings: object) -> WaveEmbedding:
    torch.manual_seed(0)
    return WaveEmbedding(V, 10, C, **{"n_wave": W, "n_harmonic": M, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("n_tokens", [4, 13])  # fewer than the vocabulary has, and more
def test_the_embedding_follows_its_formula(start: int, n_tokens: int) -> None:
    module, ids = embedding(bias=True), random_ids(rows=1, tokens=n_tokens)
    loud(module)
    state = {name: value.tolist() for name, value in module.state_dict().items()}
    r = 1 / (1 + math.exp(-state["wave_ratio"]))
    rows = []
    for column, v in enumerate(ids[0].tolist()):
        t = start + column
        waves = [
            (
                state["harmonic_amps"][v][w][m - 1],
                2 * math.pi * m * state["base_freqs"][v][w]
                + state["phases"][v][w]
                + state["position_rates"][w] * t,
            )
            for w in range(W)
            for m in range(1, M + 1)
        ]
        packet = [a * math.sin(theta) for a, theta in waves] + [
            a * math.cos(theta) for a, theta in waves
        ]
        weight, bias = state["to_channels.weight"], state["to_channels.bias"]
        wave = [
            sum(x * y for x, y in zip(row, packet, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        x = [r * a + (1 - r) * b for a, b in zip(wave, state["table.weight"][v], strict=True)]
        mean = sum(x) / C
        variance = sum((a - mean) ** 2 for a in x) / C
        gains = zip(x, state["norm.weight"], state["norm.bias"], strict=True)
        rows.append(
            [(a - mean) / math.sqrt(variance + 1e-5) * gain + shift for a, gain, shift in gains]
        )
    expected = torch.tensor([rows], dtype=torch.float64)
    torch.testing.assert_close(module(ids, start), expected, rtol=1e-9, atol=1e-9)


def test_starting_values() -> None:
    module = WaveEmbedding(4000, 10, C, n_wave=16, n_harmonic=4)
    freqs = module.base_freqs.detach()
    torch.testing.assert_close(freqs.mean(0), torch.linspace(0.5, 5.0, 16), rtol=0, atol=0.02)
    assert (freqs - torch.linspace(0.5, 5.0, 16)).std().item() == pytest.approx(0.1, rel=0.05)
    phases = module.phases.detach()
    assert 0 <= phases.min() < 0.01
    assert 6.27 < phases.max() < 2 * math.pi
    assert module.harmonic_amps.std().item() == pytest.approx(0.5 / 8, rel=0.05)
    lengths = wave_packets(freqs, phases, module.harmonic_amps).norm(dim=-1)
    assert lengths.mean().item() == pytest.approx(0.5, rel=0.05)
    assert (module.base_freqs.shape, module.harmonic_amps.shape) == ((4000, 16), (4000, 16, 4))
    assert (module.phases.shape, module.position_rates.shape) == ((4000, 16), (16,))


def test_packets_have_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 3, W), (1, 3, W), (1, 3, W, M), (W,)]
    tensors = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    )
    assert torch.autograd.gradcheck(
        lambda f, p, a, g: at_positions(wave_packets(f, p, a), g, torch.arange(3)), tensors
    )


def test_a_learned_ratio_ignores_progress() -> None:
    module = embedding(ratio_start=0.3)
    module.set_progress(0.7)
    assert module.metrics()["wave_ratio"].item() == pytest.approx(0.3)
    assert module.wave_ratio.requires_grad


def test_a_scheduled_ratio_is_a_function_of_progress_alone() -> None:
    module, ids = embedding(wave_ratio="scheduled"), random_ids()
    assert "wave_ratio" not in dict(module.named_parameters())
    seen: dict[float, torch.Tensor] = {}
    for fraction in (0.0, 0.25, 1.0, 0.25, 0.0):
        module.set_progress(fraction)
        ratio, x = module.metrics()["wave_ratio"], module(ids)
        assert ratio.item() == pytest.approx(0.5 + 0.4 * fraction, abs=1e-7)
        if fraction in seen:
            assert torch.equal(seen[fraction], x)
        seen[fraction] = x
    assert not torch.equal(seen[0.0], seen[1.0])


def test_a_scheduled_ratio_is_saved() -> None:
    trained, loaded = embedding(wave_ratio="scheduled"), embedding(wave_ratio="scheduled")
    trained.set_progress(1.0)
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(loaded(random_ids()), trained(random_ids()))


def test_phases_stay_in_float32_under_autocast() -> None:
    module, ids = embedding(), random_ids()
    exact = module(ids, start=1000)
    with torch.autocast("cpu", torch.bfloat16):
        x = module(ids, start=1000)
    # Only the linear map runs in bfloat16; phases of hundreds of radians in bfloat16 would be
    # noise.
    torch.testing.assert_close(x.float(), exact, rtol=0, atol=0.03)


def test_resonance() -> None:
    h = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    expected = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) + 0.1 * math.sin(x) for x in h.tolist()]
    torch.testing.assert_close(resonance(h), torch.tensor(expected, dtype=torch.float64))


def test_resonance_has_the_right_gradient() -> None:
    h = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for x in (h, h.T):  # in any layout
        assert torch.autograd.gradcheck(resonance, (x.detach().requires_grad_(),))
        x = x.detach().requires_grad_()
        weights = torch.rand(x.shape, dtype=torch.float64)
        (ours,) = torch.autograd.grad((weights * resonance(x)).sum(), x)
        (direct,) = torch.autograd.grad((weights * (F.gelu(x) + 0.1 * x.sin())).sum(), x)
        torch.testing.assert_close(ours, direct, rtol=1e-13, atol=1e-15)


def test_the_standard_embedding_adds_positions_if_requested() -> None:
    torch.manual_seed(0)
    with_table, without = (
        StandardEmbedding(V, 10, C, position_table=True),
        StandardEmbedding(V, 10, C, False),
    )
    ids = torch.tensor([[3, 3]])
    assert with_table.positions is not None
    expected = with_table.table.weight[3] + with_table.positions.weight[4:6]
    torch.testing.assert_close(with_table(ids, start=4)[0], expected)
    assert torch.equal(without(ids)[0, 0], without(ids)[0, 1])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_wave", 0),
        ("n_harmonic", 0),
        ("wave_ratio", "fixed"),
        ("ratio_start", 0.0),
        ("ratio_end", 1.0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be"):
        embedding(**{setting: value})
