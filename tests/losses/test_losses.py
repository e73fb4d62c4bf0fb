from __future__ import annotations

import cmath
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_exp.core.errors import SettingError
from spectral_exp.losses import QFE, softmax
from spectral_exp.losses.cross_entropy import CrossEntropy
from spectral_exp.losses.qfe import coherence


def batch(
    V: int = 5, T: int = 6, B: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, T, V, generator=generator, dtype=dtype)
    return logits, torch.randint(V, (B, T), generator=generator)


def slow_coherence(predicted: Tensor, actual: Tensor, threshold: float) -> float:
    """By angles, frequency by frequency, in plain numbers."""
    B, T, channels = predicted.shape
    terms = []
    for b in range(B):
        for c in range(channels):
            for frequency in range(T // 2 + 1):
                turns = [cmath.exp(-2j * math.pi * frequency * t / T) for t in range(T)]
                P = sum(float(predicted[b, t, c]) * turns[t] for t in range(T))
                Y = sum(float(actual[b, t, c]) * turns[t] for t in range(T))
                if abs(P) > threshold and abs(Y) > threshold:
                    terms.append(abs(P) * abs(Y) * (1 - math.cos(cmath.phase(P) - cmath.phase(Y))))
    return sum(terms) / max(len(terms), 1)


def test_cross_entropy_is_the_mean_in_nats() -> None:
    logits, targets = batch()
    loss, parts = CrossEntropy()(logits, targets)
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(loss, expected)
    assert list(parts) == ["loss"]
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize("T", [6, 7, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.01, 1.5])
def test_qfe_follows_its_formula(T: int, threshold: float) -> None:
    logits, targets = batch(T=T)
    loss, parts = QFE(5, coherence_weight=0.3, temperature=0.7, amplitude_threshold=threshold)(
        logits, targets
    )
    expected = slow_coherence(
        (logits / 0.7).softmax(-1), F.one_hot(targets, 5), max(threshold, 1e-9)
    )
    assert parts["coherence"].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(parts["loss"], CrossEntropy()(logits, targets)[0])
    torch.testing.assert_close(loss, parts["loss"] + 0.3 * parts["coherence"])


def matrix(qfe: QFE) -> Tensor:
    """The sketch as the matrix (V, P) that it is, in float64."""
    signs, P = qfe.state_dict()["signs"], qfe.projected_size
    dense = torch.zeros(len(signs), P, dtype=torch.float64)
    for token, sign in enumerate(signs.tolist()):
        dense[token, token % P] = sign
    return dense


@pytest.mark.parametrize(("V", "P"), [(12, 4), (13, 4), (9, 8)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_large_vocabularies_are_projected(V: int, P: int, temperature: float) -> None:
    logits, targets = batch(V=V)
    qfe = QFE(V, projection_dim=P, seed=3, temperature=temperature)
    _, parts = qfe(logits, targets)
    dense = matrix(qfe)
    assert set(dense.sum(1).abs().tolist()) == {1.0}
    predicted = (logits / temperature).softmax(-1)
    expected = slow_coherence(predicted @ dense, F.one_hot(targets, V).double() @ dense, 0.01)
    assert parts["coherence"].item() == pytest.approx(expected)


def test_the_projection_keeps_inner_products_on_average_and_follows_its_seed() -> None:
    state = torch.get_rng_state()
    dense = [matrix(QFE(40, projection_dim=8, seed=seed)) for seed in range(400)]
    assert torch.equal(torch.get_rng_state(), state)
    x, y = torch.rand(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = torch.stack([(x @ m) @ (y @ m) for m in dense])
    assert products.mean().item() == pytest.approx(float(x @ y), abs=3 * products.std().item() / 20)
    assert torch.equal(matrix(QFE(3000, seed=1)), matrix(QFE(3000, seed=1)))
    assert not torch.equal(matrix(QFE(3000, seed=1)), matrix(QFE(3000, seed=2)))
    assert "signs" not in QFE(256).state_dict()


def test_a_saved_projection_is_restored() -> None:
    logits, targets = batch(V=12)
    saved, other = QFE(12, projection_dim=4, seed=1), QFE(12, projection_dim=4, seed=2)
    assert saved(logits, targets)[0] != other(logits, targets)[0]
    other.load_state_dict(saved.state_dict())
    assert saved(logits, targets)[0] == other(logits, targets)[0]


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), QFE(5), QFE(5, projection_dim=3), QFE(5, temperature=2.0)]
)
def test_pieces_are_no_part_of_the_result(
    loss: CrossEntropy | QFE, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets = batch()
    results = []
    for piece in (2**20, 12, 1):
        monkeypatch.setattr(softmax, "_CPU_PIECE", piece)
        x = logits.clone().requires_grad_()
        value, _ = loss(x, targets)
        value.backward()
        results.append((value.detach(), x.grad))
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert grad is not None
        torch.testing.assert_close(grad, results[0][1], rtol=1e-14, atol=1e-17)


def test_a_step_keeps_nothing_of_the_size_of_the_logits() -> None:
    logits, targets = batch(V=500)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != logits.data_ptr():
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        QFE(500, projection_dim=8)(logits.requires_grad_(), targets)
    assert max(kept) < logits.numel() / 10


def test_perfect_predictions_are_coherent() -> None:
    _, targets = batch()
    _, parts = QFE(5)(100 * F.one_hot(targets, 5).double(), targets)
    assert parts["coherence"].item() == pytest.approx(0, abs=1e-12)


def test_no_counted_frequency_gives_zero_without_nan() -> None:
    logits, targets = batch()
    logits.requires_grad_()
    loss, parts = QFE(5, amplitude_threshold=1e6)(logits, targets)
    loss.backward()
    assert parts["coherence"].item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_equal_predictions_have_a_finite_gradient(threshold: float) -> None:
    # Uniform probabilities are zero at every frequency but the lowest, where a root has no slope.
    _, targets = batch(dtype=torch.float32)
    logits = torch.zeros(2, 6, 5, requires_grad=True)
    QFE(5, amplitude_threshold=threshold)(logits, targets)[0].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_gradient_is_right() -> None:
    logits, targets = batch(T=5)
    for loss in (CrossEntropy(), QFE(5), QFE(5, temperature=0.7), QFE(5, 3.0, projection_dim=3),
                 QFE(5, 3.0, 0.7, projection_dim=2)):  # fmt: skip
        assert torch.autograd.gradcheck(
            lambda x, loss=loss: loss(x, targets)[0], (logits.requires_grad_(),)
        )


@pytest.mark.parametrize("T", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_gradient_of_coherence_is_right_at_every_length(T: int, threshold: float) -> None:
    predicted, actual = torch.randn(
        2, 3, T, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda x: coherence(x, actual, threshold), (predicted.requires_grad_(),)
    )


def test_the_coherence_weight_changes_the_trained_model() -> None:
    logits, targets = batch()
    gradients = []
    for weight in (0.0, 0.5):
        x = logits.clone().requires_grad_()
        QFE(5, coherence_weight=weight)(x, targets)[0].backward()
        gradients.append(x.grad)
    reference = logits.clone().requires_grad_()
    CrossEntropy()(reference, targets)[0].backward()
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert reference.grad is not None
    torch.testing.assert_close(gradients[0], reference.grad)
    assert (gradients[1] - reference.grad).abs().max() > 1e-3


@pytest.mark.parametrize("loss", [CrossEntropy(), QFE(5), QFE(5, projection_dim=3)])
def test_half_precision_logits_are_widened(loss: CrossEntropy | QFE) -> None:
    logits, targets = batch(dtype=torch.float32)
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, parts = loss(half, targets)
    expected, expected_parts = loss(half.float(), targets)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert all(torch.equal(parts[name], expected_parts[name]) for name in parts)


@pytest.mark.parametrize("loss", [CrossEntropy(), QFE(5)])
def test_parts_are_detached_scalars(loss: CrossEntropy | QFE) -> None:
    logits, targets = batch()
    value, parts = loss(logits.requires_grad_(), targets)
    assert value.requires_grad
    assert all(part.ndim == 0 and not part.requires_grad for part in parts.values())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("vocab_size", 0),
        ("coherence_weight", -0.1),
        ("temperature", 0.0),
        ("projection_dim", 0),
        ("amplitude_threshold", -1.0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be"):
        QFE(**{"vocab_size": 5, setting: value})  # type: ignore[arg-type]
