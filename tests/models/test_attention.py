from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from spectral_exp.core.errors import SettingError
from spectral_exp.models.attention import (
    Attention,
    InterferenceAttention,
    PhasorAttention,
    SoftmaxAttention,
    to_length,
)
from spectral_exp.models.dot_product import (
    ALiBiAttention,
    DotProductAttention,
    RotaryAttention,
    alibi_slopes,
)
from spectral_exp.models.pure_wave import PureWaveAttention, mix_linear, mix_quadratic
from tests.models.tiny_models import ATTENTIONS, loud

C, H, T, W = 8, 2, 7, 3
D = C // H


def layer(kind: str, **settings: object) -> Attention:
    torch.manual_seed(0)
    module = loud(
        ATTENTIONS[kind](n_embd=C, n_head=H, block_size=10, dropout=0.3, bias=True, **settings)
    ).eval()
    assert isinstance(module, Attention)
    return module.requires_grad_(False)


def inputs() -> Tensor:
    return torch.randn(1, T, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def head(projected: Tensor, h: int, size: int) -> list[list[float]]:
    """One head's part of a projection (T, H * size), as plain numbers."""
    rows: list[list[float]] = projected[:, h * size : (h + 1) * size].tolist()
    return rows


def softmax_rows(scores: list[list[float]]) -> list[list[float]]:
    rows = []
    for i, row in enumerate(scores):
        exponentials = [math.exp(s) for s in row[: i + 1]]
        rows.append([e / sum(exponentials) for e in exponentials] + [0.0] * (len(row) - i - 1))
    return rows


def dot_product_score(
    module: Attention, h: int, i: int, j: int, q: list[float], k: list[float]
) -> float:
    return sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(D)


def alibi_score(module: Attention, h: int, i: int, j: int, q: list[float], k: list[float]) -> float:
    slope: float = 2.0 ** (-8 * (h + 1) / H)
    return dot_product_score(module, h, i, j, q, k) - slope * (i - j)


def rotary_score(
    module: Attention, h: int, i: int, j: int, q: list[float], k: list[float]
) -> float:
    # As complex numbers: the real part of q times conj(k), turned by the distance.
    total = 0.0
    for pair in range(D // 2):
        turn = (i - j) * 10000.0 ** (-2 * pair / D)
        a, b = complex(q[pair], q[pair + D // 2]), complex(k[pair], k[pair + D // 2])
        total += (a * b.conjugate() * complex(math.cos(turn), math.sin(turn))).real
    return total / math.sqrt(D)


def interference_score(
    module: Attention, h: int, i: int, j: int, q: list[float], k: list[float]
) -> float:
    assert isinstance(module, InterferenceAttention)
    offsets = module.phase_offsets[h].tolist()
    a = [x + o for x, o in zip(q, offsets, strict=True)]
    b = [x + o for x, o in zip(k, offsets, strict=True)]
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    agreement: float = sum(x * y for x, y in zip(a, b, strict=True)) / lengths
    return float(module.tau[h]) * agreement


def phasor_score(
    module: Attention, h: int, i: int, j: int, q: list[float], k: list[float]
) -> float:
    assert isinstance(module, PhasorAttention)
    total = 0.0
    for w in range(W):
        omega = float(module.omega[h, w])
        amplitudes = math.log1p(math.exp(q[w])) * math.log1p(math.exp(k[w]))
        total += amplitudes * math.cos((q[W + w] + omega * i) - (k[W + w] + omega * j))
    return float(module.tau[h]) * total / math.sqrt(W)


SOFTMAX_KINDS = {
    "dot_product": (dot_product_score, D),
    "no_positions": (dot_product_score, D),
    "alibi": (alibi_score, D),
    "rotary": (rotary_score, D),
    "interference": (interference_score, W),
    "phasor": (phasor_score, 2 * W),
}


@pytest.mark.parametrize("kind", SOFTMAX_KINDS)
def test_softmax_kinds_follow_their_formula(kind: str) -> None:
    score, size = SOFTMAX_KINDS[kind]
    module, x = layer(kind), inputs()
    assert isinstance(module, SoftmaxAttention)
    q, k, v = module.project(x)[0].split([H * size, H * size, C], dim=-1)
    mixed = []
    weights = module.weights(x)[0]
    for h in range(H):
        qs, ks = head(q, h, size), head(k, h, size)
        scores = [[score(module, h, i, j, qs[i], ks[j]) for j in range(T)] for i in range(T)]
        expected = torch.tensor(softmax_rows(scores), dtype=torch.float64)
        torch.testing.assert_close(weights[h], expected, rtol=1e-6, atol=1e-6)
        mixed.append(expected @ v[:, h * D : (h + 1) * D])
    torch.testing.assert_close(
        module(x)[0], module.output(torch.cat(mixed, -1)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["pure_wave", "pure_wave_linear"])
@pytest.mark.parametrize(
    ("frequencies", "feature_length"), [("projected", None), ("learned", None), ("learned", 4.0)]
)
def test_pure_wave_follows_its_formula(
    kind: str, frequencies: Literal["projected", "learned"], feature_length: float | None
) -> None:
    module, x = layer(kind, frequencies=frequencies, feature_length=feature_length), inputs()
    assert isinstance(module, PureWaveAttention)
    waves, v = module.waves(x)[0], module.values(x)[0]

    def feature(freq: list[float], phase: list[float], t: int) -> list[float]:
        wave = [math.sin(f * t + p) for f, p in zip(freq, phase, strict=True)]
        length = math.sqrt(sum(a * a for a in wave))
        scaled = [(feature_length or W**0.25) * a / length for a in wave]
        return [a + 1 if a > 0 else math.exp(a) for a in scaled]

    mixed = []
    for h in range(H):
        if module.omega is None:
            rows = head(waves, h, 4 * W)
        else:  # of q and k the phases alone, to the same frequencies
            omega = module.omega[h].tolist()
            rows = [[*omega, *row[:W], *omega, *row[W:]] for row in head(waves, h, 2 * W)]
        q = [feature(row[:W], row[W : 2 * W], t) for t, row in enumerate(rows)]
        k = [feature(row[2 * W : 3 * W], row[3 * W :], t) for t, row in enumerate(rows)]
        weights = torch.zeros(T, T, dtype=torch.float64)
        for i in range(T):
            products = [sum(a * b for a, b in zip(q[i], k[j], strict=True)) for j in range(i + 1)]
            weights[i, : i + 1] = torch.tensor(products) / sum(products)
        torch.testing.assert_close(module.weights(x)[0, h], weights, rtol=1e-6, atol=1e-6)
        mixed.append(weights @ v[:, h * D : (h + 1) * D])
    torch.testing.assert_close(
        module(x)[0], module.output(torch.cat(mixed, -1)), rtol=1e-6, atol=1e-6
    )


# Pure wave is not among them: its features see the absolute position.
@pytest.mark.parametrize("kind", SOFTMAX_KINDS)
def test_scores_depend_on_distance_alone(kind: str) -> None:
    module, x = layer(kind), inputs()
    # Rotary's tables are float32, so its turns differ in the seventh digit.
    torch.testing.assert_close(module(x, start=3), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 64])
def test_linear_mixing_equals_quadratic(chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.rand(2, 3, 7, size, generator=generator, dtype=torch.float64) for size in (4, 4, 5)
    )
    expected = mix_quadratic(q, k, v)
    mixed, sums = mix_linear(q, k, v, chunk_size)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(sums, k.transpose(-1, -2) @ v)
    first, before = mix_linear(q[:, :, :2], k[:, :, :2], v[:, :, :2], chunk_size)
    second, after = mix_linear(q[:, :, 2:], k[:, :, 2:], v[:, :, 2:], chunk_size, before)
    torch.testing.assert_close(torch.cat([first, second], 2), expected)
    torch.testing.assert_close(after, sums)


def test_linear_mixing_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.rand(1, 1, 5, size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in (2, 2, 3)
    )
    assert torch.autograd.gradcheck(lambda q, k, v: mix_linear(q, k, v, 2)[0], (q, k, v))


def test_linear_mode_makes_no_state_per_position() -> None:
    # A state per position would be T x W x (D + 1) numbers; the largest tensor kept is the T x 4W
    # projection.
    module = PureWaveAttention(32, 1, 512, n_wave=32, mode="linear", chunk_size=64)
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(torch.randn(1, 512, 32))
    assert largest <= 512 * 4 * 32


def test_modes_of_pure_wave_are_one_function_of_the_same_parameters() -> None:
    quadratic, linear = layer("pure_wave"), layer("pure_wave_linear")
    linear.load_state_dict(quadratic.state_dict())
    torch.testing.assert_close(linear(inputs()), quadratic(inputs()), rtol=1e-12, atol=1e-12)


def test_starting_values() -> None:
    interference = InterferenceAttention(C, H, 10, n_wave=9)
    assert interference.tau.tolist() == [3.0, 3.0]
    assert not interference.phase_offsets.any()
    phasor = PhasorAttention(C, H, 10, n_wave=4)
    assert phasor.tau.tolist() == [1.0, 1.0]
    assert phasor.omega.tolist() == [pytest.approx([1.0, 0.1, 0.01, 0.001])] * 2
    pure_wave = PureWaveAttention(C, H, 10, n_wave=4, frequencies="learned")
    assert pure_wave.omega is not None
    assert pure_wave.omega.tolist() == phasor.omega.tolist()


def test_the_kinds_that_carry_position() -> None:
    carrying = {kind for kind in ATTENTIONS if layer(kind).carries_position}
    assert ATTENTIONS.keys() - carrying == {"dot_product", "interference"}


@pytest.mark.parametrize(
    ("n_head", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [0.5 * h for h in range(1, 17)]),
    ],
)
def test_slopes_are_those_of_the_paper(n_head: int, exponents: list[float]) -> None:
    assert alibi_slopes(n_head).tolist() == pytest.approx([2**-e for e in exponents])
    module = ALiBiAttention(4 * n_head, n_head, 10)
    assert torch.equal(module.slopes, alibi_slopes(n_head))
    assert not module.state_dict().keys() - {"project.weight", "output.weight"}


def test_fixed_rates_are_where_learned_ones_start() -> None:
    fixed, learned = (layer("phasor", frequencies=kind) for kind in ("fixed", "learned"))
    assert isinstance(fixed, PhasorAttention)
    assert isinstance(learned, PhasorAttention)
    counts = [sum(p.numel() for p in module.parameters()) for module in (fixed, learned)]
    assert counts[1] - counts[0] == learned.omega.numel() == H * W
    assert "omega" not in fixed.state_dict()
    assert fixed.omega.tolist() == PhasorAttention(C, H, 10, n_wave=W).omega.tolist()
    learned.load_state_dict({**fixed.state_dict(), "omega": fixed.omega})
    assert torch.equal(fixed(inputs()), learned(inputs()))


def test_scaling_to_a_length_is_finite_at_zero() -> None:
    x = torch.zeros(1, 2, 3, 4, requires_grad=True)
    torch.autograd.backward(to_length(x, torch.zeros(2, 1, 4), torch.ones(2, 1, 1), 4).sum())
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_scaling_to_a_length_follows_its_formula_and_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    shift, length = (
        torch.rand(2, 1, n, generator=generator, dtype=torch.float64) + 0.5 for n in (4, 1)
    )
    scaled = to_length(x, shift, length, 6)
    expected = length * (x + shift) / (x + shift).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scaled[..., :4], expected)
    assert not scaled[..., 4:].any()
    inputs = tuple(tensor.requires_grad_() for tensor in (x, shift, length))
    assert torch.autograd.gradcheck(lambda x, shift, length: to_length(x, shift, length, 6), inputs)
    # Too short to be scaled to the length: the function is linear there, with a slope of a million.
    short = (1e-8 * x).detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a: to_length(a, torch.zeros(2, 1, 1).double(), length.detach(), 4),
        (short,),
        eps=1e-10,
        atol=1.0,
    )


def test_a_length_of_zero_still_has_its_gradient() -> None:
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda length: to_length(x, torch.zeros_like(length), length, 4), (length,)
    )
    assert to_length(x, torch.zeros_like(length), length, 4).abs().max() < 1e-19


@pytest.mark.parametrize("kind", [InterferenceAttention, RotaryAttention])
def test_the_backward_pass_needs_no_more_memory_than_that_of_dot_products(
    kind: type[Attention],
) -> None:
    """Queries, keys and values once each, although they come from one projection that is no longer
    needed."""
    settings = {"n_wave": 12} if kind is InterferenceAttention else {}

    def kept_bytes(layer: Attention) -> int:
        parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
        kept: dict[int, Tensor] = {}  # alive, so that no address is given twice

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        x = torch.randn(2, 64, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(x)
        return sum(kept[address].untyped_storage().nbytes() for address in kept.keys() - parameters)

    few_more = 2 * 2 * 4 * 64 * 4 + 4096  # the norms of queries and keys; small tables
    assert (
        kept_bytes(kind(64, 4, 64, **settings))
        <= kept_bytes(DotProductAttention(64, 4, 64)) + few_more
    )


def test_phases_stay_in_float32_under_autocast() -> None:
    # A frequency rounded to bfloat16 would turn the wave by radians after some thousand tokens.
    torch.manual_seed(0)
    module = PureWaveAttention(C, H, 4096, n_wave=W)
    with torch.no_grad():
        module.waves.weight.mul_(50)
    x = torch.randn(1, 5, C)
    exact = module.weights(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.weights(x), exact)
        far = module(x, start=4000)
    torch.testing.assert_close(far.float(), module(x, start=4000), rtol=0.05, atol=0.002)


@pytest.mark.parametrize("kind", [InterferenceAttention, PhasorAttention, PureWaveAttention])
def test_wrong_wave_counts_are_named(kind: type[Attention]) -> None:
    with pytest.raises(SettingError, match="n_wave=0 must be >= 1"):
        kind(8, 2, 10, n_wave=0)  # type: ignore[call-arg]


def test_other_wrong_settings_are_named() -> None:
    with pytest.raises(SettingError, match="mode=cubic must be quadratic or linear"):
        PureWaveAttention(8, 2, 10, mode="cubic")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="chunk_size=0 must be >= 1"):
        PureWaveAttention(8, 2, 10, chunk_size=0)
    with pytest.raises(SettingError, match="frequencies=fixed must be projected or learned"):
        PureWaveAttention(8, 2, 10, frequencies="fixed")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="frequencies=projected must be learned or fixed"):
        PhasorAttention(8, 2, 10, frequencies="projected")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="feature_length=0 must be a finite number > 0, or null"):
        PureWaveAttention(8, 2, 10, feature_length=0)
    with pytest.raises(SettingError, match="n_embd=6 must be"):
        RotaryAttention(6, 2, 10)
    with pytest.raises(SettingError, match="n_embd=7 must be a multiple of n_head=2"):
        DotProductAttention(7, 2, 10)
