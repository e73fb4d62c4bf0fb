from __future__ import annotations

import cmath
import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spectral_exp.core.errors import SettingError
from spectral_exp.optim import rgd as rgd_module
from spectral_exp.optim.gate import gated_directions, resonance_strength_at
from spectral_exp.optim.rgd import RGD, build_rgd

SHAPES = [(4, 6), (5, 7), (3,), (), (3, 2, 4), (1, 1), (6, 1)]


def parameters(
    shapes: list[tuple[int, ...]] | None = None, dtype: torch.dtype = torch.float64
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in shapes or SHAPES
    ]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)


def gated_direction(
    parameter: Tensor, direction: Tensor, alpha: float, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """The gated direction of one parameter, and its mean rho."""
    strength = torch.tensor([alpha], dtype=torch.float64)
    gated, means = gated_directions(
        parameter[None], direction[None], strength, 1 - strength, both_axes
    )
    return gated[0], means[0]


def train(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], first: int, last: int
) -> None:
    for step in range(first, last + 1):
        set_gradients(params, step)
        optimizer.step()


def dft2(x: list[list[float]]) -> list[list[complex]]:
    R, C = len(x), len(x[0])
    return [
        [
            sum(
                x[r][c] * cmath.exp(-2j * math.pi * (a * r / R + b * c / C))
                for r in range(R)
                for c in range(C)
            )
            for b in range(C)
        ]
        for a in range(R)
    ]


def slow_gate(
    parameter: Tensor, direction: Tensor, alpha: float
) -> tuple[list[list[float]], float]:
    """The filtered update and the mean of rho over all frequencies, by full complex transforms in
    plain numbers."""
    P, U = dft2(parameter.tolist()), dft2(direction.tolist())
    R, C = len(P), len(P[0])
    p_max, u_max = (max(abs(z) for row in spectrum for z in row) for spectrum in (P, U))
    rho = [
        [math.sqrt(abs(P[a][b]) / p_max * abs(U[a][b]) / u_max) for b in range(C)] for a in range(R)
    ]
    gated = [[(alpha * rho[a][b] + 1 - alpha) * U[a][b] for b in range(C)] for a in range(R)]
    update = [
        [
            sum(
                gated[a][b] * cmath.exp(2j * math.pi * (a * r / R + b * c / C))
                for a in range(R)
                for b in range(C)
            ).real
            / (R * C)
            for c in range(C)
        ]
        for r in range(R)
    ]
    return update, sum(map(sum, rho)) / (R * C)


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (4, 5), (1, 6), (6, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_gate_follows_its_formula(shape: tuple[int, int], alpha: float) -> None:
    parameter, direction = (p.detach() for p in parameters([shape, shape]))
    gated, mean = gated_direction(parameter, direction, alpha)
    expected, expected_mean = slow_gate(parameter, direction, alpha)
    torch.testing.assert_close(gated, torch.tensor(expected, dtype=torch.float64))
    assert mean.item() == pytest.approx(expected_mean)


def test_along_channels_each_row_is_gated_by_itself() -> None:
    parameter, direction = (p.detach() for p in parameters([(3, 6), (3, 6)]))
    gated, mean = gated_direction(parameter, direction, 0.5, both_axes=False)
    rows = [slow_gate(parameter[r : r + 1], direction[r : r + 1], 0.5) for r in range(3)]
    torch.testing.assert_close(
        gated, torch.tensor([row[0][0] for row in rows], dtype=torch.float64)
    )
    assert mean.item() == pytest.approx(sum(row[1] for row in rows) / 3)


def test_a_step_follows_its_formula() -> None:
    lr, betas, eps, decay, strength, warmup = 0.01, (0.9, 0.99), 1e-8, 0.1, 0.8, 4
    params = parameters([(3, 4), (5,)])
    optimizer = RGD(params, lr, betas, eps, decay, strength, warmup)
    expected = [p.detach().clone() for p in params]
    means, squares = (
        [torch.zeros_like(p) for p in expected],
        [torch.zeros_like(p) for p in expected],
    )
    for step in range(1, 7):
        set_gradients(params, step)
        rhos = []
        for i, p in enumerate(params):
            assert p.grad is not None
            means[i] = betas[0] * means[i] + (1 - betas[0]) * p.grad
            squares[i] = betas[1] * squares[i] + (1 - betas[1]) * p.grad**2
            update = means[i] / (1 - betas[0] ** step)
            update = update / ((squares[i] / (1 - betas[1] ** step)).sqrt() + eps)
            if p.ndim == 2:
                gated, rho = slow_gate(expected[i], update, strength * min(1, step / warmup))
                update = torch.tensor(gated, dtype=torch.float64)
                rhos.append(rho)
            expected[i] = expected[i] * (1 - lr * decay) - lr * update
        optimizer.step()
        for p, e in zip(params, expected, strict=True):
            torch.testing.assert_close(p.detach(), e)
        assert optimizer.metrics()["resonance"].item() == pytest.approx(sum(rhos) / len(rhos))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_resonance_it_is_adamw_to_round_off(dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    train(RGD(ours, **settings, resonance_strength=0.0), ours, 1, 20)
    train(torch.optim.AdamW(theirs, **settings), theirs, 1, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            a, b, rtol=20 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps
        )


def test_without_resonance_it_is_fused_adamw_bit_for_bit() -> None:
    ours, theirs = parameters(), parameters()
    train(RGD(ours, weight_decay=0.1, resonance_strength=0.0), ours, 1, 20)
    train(torch.optim.AdamW(theirs, betas=(0.9, 0.99), weight_decay=0.1, fused=True), theirs, 1, 20)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_transform_at_alpha_zero_changes_nothing_either() -> None:
    parameter, direction = (p.detach() for p in parameters([(5, 8), (5, 8)]))
    torch.testing.assert_close(
        gated_direction(parameter, direction, 0.0)[0], direction, rtol=1e-14, atol=1e-14
    )


def test_the_gate_never_enlarges_an_update() -> None:
    parameter, direction = (p.detach() for p in parameters([(8, 9), (8, 9)]))
    norms = [
        gated_direction(parameter, direction, alpha)[0].norm().item()
        for alpha in (0.0, 0.3, 0.6, 1.0)
    ]
    assert norms == sorted(norms, reverse=True)


def test_runs_are_deterministic() -> None:
    one, two = parameters(), parameters()
    train(RGD(one), one, 1, 5)
    train(RGD(two), two, 1, 5)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate_every", [1, 3])
def test_a_saved_state_continues_bit_for_bit(dtype: torch.dtype, gate_every: int) -> None:
    params = parameters(dtype=dtype)
    optimizer = RGD(params, lr=0.05, warmup_steps=6, gate_every=gate_every)
    train(optimizer, params, 1, 4)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "params": [p.detach() for p in params]}, file)
    train(optimizer, params, 5, 8)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed_params = [nn.Parameter(p) for p in saved["params"]]
    resumed = RGD(resumed_params, lr=0.05, warmup_steps=6, gate_every=gate_every)
    resumed.load_state_dict(saved["optimizer"])
    train(resumed, resumed_params, 5, 8)
    assert all(torch.equal(a, b) for a, b in zip(params, resumed_params, strict=True))
    assert torch.equal(optimizer.metrics()["resonance"], resumed.metrics()["resonance"])


def test_a_resumed_optimizer_knows_the_last_resonance() -> None:
    """The next gated step may be far away."""
    params = parameters()
    optimizer = RGD(params, lr=0.05, gate_every=4)
    train(optimizer, params, 1, 5)
    resumed = RGD(parameters(), lr=0.05, gate_every=4)
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(optimizer.metrics()["resonance"], resumed.metrics()["resonance"])
    before = RGD(parameters())
    before.load_state_dict(RGD(parameters()).state_dict())
    assert before.metrics() == {}


def test_it_finds_the_minimum_of_a_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    y = x @ torch.randn(6, 4, generator=generator)
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    optimizer = RGD(layer.parameters(), lr=0.05, weight_decay=0.0, warmup_steps=50)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss.item() < 1e-4


def updates(
    role: str, gate: str, shape: tuple[int, ...] = (4, 6)
) -> tuple[Tensor, dict[str, Tensor]]:
    params = parameters([shape])
    before = params[0].detach().clone()
    groups = [{"params": params, "role": role}]
    optimizer = RGD(groups, lr=1.0, weight_decay=0.0, warmup_steps=0, gate_embeddings=gate)  # type: ignore[arg-type]
    train(optimizer, params, 1, 1)
    return before - params[0].detach(), optimizer.metrics()


@pytest.mark.parametrize("role", ["embedding", "head", "wave"])
def test_tables_are_gated_as_configured(role: str) -> None:
    plain, without_metrics = updates(role, "none")
    torch.testing.assert_close(plain.abs(), torch.ones(4, 6).double(), rtol=1e-6, atol=1e-6)
    assert without_metrics == {}
    before = parameters([(4, 6)])[0].detach()
    for gate, both_axes in (("channels", False), ("both", True)):
        update, metrics = updates(role, gate)
        expected, rho = gated_direction(before, plain, 0.3, both_axes)
        torch.testing.assert_close(update, expected)
        torch.testing.assert_close(metrics["resonance"], rho)


@pytest.mark.parametrize("role", ["hidden", "vector"])
def test_other_matrices_are_always_gated(role: str) -> None:
    assert torch.equal(updates(role, "none")[0], updates(role, "both")[0])
    assert "resonance" in updates(role, "none")[1]


def test_more_dimensions_are_flattened_after_the_first() -> None:
    cube, direction = (p.detach() for p in parameters([(3, 2, 4), (3, 2, 4)]))
    gated, rho = gated_direction(cube, direction, 0.7)
    flat, flat_rho = gated_direction(cube.reshape(3, 8), direction.reshape(3, 8), 0.7)
    assert torch.equal(gated, flat.reshape(3, 2, 4))
    assert torch.equal(rho, flat_rho)


def test_half_precision_is_transformed_in_float32() -> None:
    parameter, direction = (p.detach() for p in parameters([(8, 8), (8, 8)], torch.bfloat16))
    gated, rho = gated_direction(parameter, direction, 0.5)
    exact, exact_rho = gated_direction(parameter.float(), direction.float(), 0.5)
    assert (gated.dtype, rho.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(gated, exact.bfloat16())
    assert torch.equal(rho, exact_rho)


def test_zeros_give_no_nan() -> None:
    zero, other = torch.zeros(4, 6), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    gated, rho = gated_direction(zero, other, 0.3)
    torch.testing.assert_close(gated, 0.7 * other)
    assert rho.item() == 0
    gated, rho = gated_direction(other, zero, 0.3)
    assert not gated.any()
    assert rho.item() == 0


def test_the_size_of_parameter_and_update_does_not_matter_to_resonance() -> None:
    parameter, direction = (p.detach() for p in parameters([(4, 6), (4, 6)], torch.float32))
    rho = gated_direction(parameter, direction, 0.3)[1]
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(
            gated_direction(scale * parameter, direction / scale, 0.3)[1], rho
        )


def test_the_strength_warms_up() -> None:
    steps = [torch.tensor(float(step)) for step in range(1, 7)]
    alphas = resonance_strength_at(torch.stack(steps), 0.4, 4)
    assert alphas.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert resonance_strength_at(steps[0], 0.4, 0).item() == 0.4


def test_gating_every_few_steps_follows_its_formula() -> None:
    lr, decay, strength, warmup, interval = 0.01, 0.1, 0.8, 4, 3
    params = parameters([(3, 4)])
    optimizer = RGD(params, lr, (0.9, 0.99), 1e-8, decay, strength, warmup, gate_every=interval)
    expected = params[0].detach().clone()
    mean, square, pending = (torch.zeros_like(expected) for _ in range(3))
    for step in range(1, 8):
        set_gradients(params, step)
        assert params[0].grad is not None
        mean = 0.9 * mean + 0.1 * params[0].grad
        square = 0.99 * square + 0.01 * params[0].grad ** 2
        direction = mean / (1 - 0.9**step) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
        alpha = strength * min(1, step / warmup)
        expected = expected * (1 - lr * decay) - lr * (1 - alpha) * direction
        pending = pending + lr * alpha * direction
        optimizer.step()
        if step % interval == 0:
            update, rho = slow_gate(expected, pending, 1.0)
            expected = expected - torch.tensor(update, dtype=torch.float64)
            pending = torch.zeros_like(expected)
            assert optimizer.metrics()["resonance"].item() == pytest.approx(rho)
        torch.testing.assert_close(params[0].detach(), expected)


def test_without_strength_the_interval_means_nothing() -> None:
    every, third = parameters(), parameters()
    train(RGD(every, resonance_strength=0.0), every, 1, 5)
    train(RGD(third, resonance_strength=0.0, gate_every=3), third, 1, 5)
    assert all(torch.equal(a, b) for a, b in zip(every, third, strict=True))


def test_an_interval_shortened_to_one_leaves_nothing_ungated() -> None:
    params = parameters([(4, 6)])
    optimizer = RGD(params, gate_every=3)
    train(optimizer, params, 1, 2)
    assert optimizer.state[params[0]]["pending"].any()
    optimizer.param_groups[0]["gate_every"] = 1
    train(optimizer, params, 3, 3)
    assert optimizer.state[params[0]].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_groups_have_their_own_settings_and_parameters_their_own_steps() -> None:
    gated, plain = parameters([(4, 6), (4, 6)])
    groups: list[dict[str, Any]] = [
        {"params": [gated]},
        {"params": [plain], "resonance_strength": 0.0, "lr": 0.5},
    ]
    optimizer = RGD(groups, lr=0.1, weight_decay=0.0)
    before = plain.detach().clone()
    set_gradients([gated], 1)
    optimizer.step()
    assert torch.equal(plain, before)
    set_gradients([gated, plain], 2)
    optimizer.step()
    torch.testing.assert_close(
        (plain.detach() - before).abs(), torch.full((4, 6), 0.5).double(), rtol=1e-6, atol=1e-6
    )
    assert optimizer.state[gated]["step"] == 2
    assert optimizer.state[plain]["step"] == 1


@pytest.mark.parametrize("gate_every", [1, 3])
def test_matrices_gated_together_are_gated_as_if_alone(
    gate_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = [(4, 6), (5, 7), (4, 6), (4, 6), (3, 2, 4)]
    found = []
    for most in (1, 2 * 24, 10**6):
        monkeypatch.setattr(rgd_module, "_CPU_BATCH", most)
        params = parameters(shapes)
        params[2].data = params[2].data.t().contiguous().t()  # of another layout in memory
        optimizer = RGD(params, lr=0.05, warmup_steps=3, gate_every=gate_every)
        set_gradients(params, 1)
        params[3].grad = None  # a step behind the others of its shape
        optimizer.step()
        train(optimizer, params, 2, 5)
        found.append([*params, optimizer.metrics()["resonance"]])
    for together in found[1:]:
        torch.testing.assert_close(together, found[0])


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fail if the host reads the value of a tensor, or a shape that depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gate_every", [1, 2])
def test_a_step_never_asks_for_a_value(gate_every: int) -> None:
    params = parameters()
    groups: list[dict[str, Any]] = [{"params": params[:3]}, {"params": params[3:], "role": "head"}]
    optimizer = RGD(groups, warmup_steps=4, gate_embeddings="channels", gate_every=gate_every)
    with NoWaiting():  # type: ignore[no-untyped-call]
        train(optimizer, params, 1, 6)
        if gate_every == 1:
            set_gradients(params, 7)
            optimizer.step_if(torch.tensor(True))
    with pytest.raises(AssertionError), NoWaiting():  # type: ignore[no-untyped-call]
        params[0].sum().item()


def test_the_learning_rate_may_be_a_tensor() -> None:
    given, as_tensor = parameters(), parameters()
    train(RGD(given, lr=0.01, weight_decay=0.1, warmup_steps=2), given, 1, 5)
    rate = torch.tensor(0.01, dtype=torch.float64)
    train(RGD(as_tensor, lr=rate, weight_decay=0.1, warmup_steps=2), as_tensor, 1, 5)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(given, as_tensor, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_step_left_out_on_the_device_changes_nothing(dtype: torch.dtype) -> None:
    plain, masked = parameters(dtype=dtype), parameters(dtype=dtype)
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 5}
    ours, skipping = RGD(plain, **settings), RGD(masked, **settings)
    assert skipping.can_step_conditionally
    for step in range(1, 5):
        if step in (1, 3):
            before = copy.deepcopy([*masked, skipping.state_dict()["state"], skipping.metrics()])
            for p in masked:
                p.grad = torch.full_like(p, math.nan)
            skipping.step_if(torch.tensor(False))
            for was, p in zip(before, masked, strict=False):
                assert torch.equal(was, p)
            if step == 3:
                torch.testing.assert_close(
                    before[len(masked) :], [skipping.state_dict()["state"], skipping.metrics()]
                )
            else:
                assert skipping.metrics()["resonance"].isnan()
        set_gradients(plain, step)
        set_gradients(masked, step)
        ours.step()
        skipping.step_if(torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(plain, masked, strict=True))
    assert torch.equal(ours.metrics()["resonance"], skipping.metrics()["resonance"])


def test_between_the_steps_of_an_interval_nothing_is_left_out_on_the_device() -> None:
    assert not RGD(parameters(), gate_every=2).can_step_conditionally
    assert not RGD([nn.Parameter(torch.zeros(2, 2, device="meta"))]).can_step_conditionally


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
def test_a_captured_step_is_the_step() -> None:
    found = []
    for captured in (False, True):
        params = [nn.Parameter(p.detach().float().cuda()) for p in parameters()]
        rate = torch.tensor(0.05, device="cuda")
        optimizer = RGD(params, lr=rate, weight_decay=0.1, warmup_steps=5)  # type: ignore[arg-type]
        set_gradients(params, 1)
        optimizer.step()
        gradients = [p.grad for p in params if p.grad is not None]
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step()
        for step in range(2, 6):
            rate.mul_(0.9)
            set_gradients(params, step)
            for p, gradient in zip(params, gradients, strict=True):
                assert p.grad is not None
                p.grad = gradient.copy_(p.grad)  # a graph reads where it was captured
            if captured:
                graph.replay()
            else:
                optimizer.step()
        found.append([*(p.detach() for p in params), optimizer.metrics()["resonance"]])
    torch.testing.assert_close(found[1], found[0])


def test_without_gradients_nothing_happens() -> None:
    params = parameters()
    optimizer = RGD(params)
    optimizer.step()
    assert optimizer.metrics() == {}
    assert all(torch.equal(a, b) for a, b in zip(params, parameters(), strict=True))


def test_a_closure_is_evaluated_with_gradients() -> None:
    (p,) = parameters([(2, 3)])
    optimizer = RGD([p])

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        torch.autograd.backward(loss)
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(parameters([(2, 3)])[0].square().sum().item())
    assert p.grad is not None


def test_a_copy_goes_on_like_the_original() -> None:
    params = parameters()
    optimizer = RGD(params)
    train(optimizer, params, 1, 2)
    copied, copied_params = copy.deepcopy((optimizer, params))
    train(optimizer, params, 3, 4)
    train(copied, copied_params, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(params, copied_params, strict=True))
    assert torch.equal(optimizer.metrics()["resonance"], copied.metrics()["resonance"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("betas", (0.9, 1.0)),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("resonance_strength", 1.1),
        ("resonance_strength", -0.1),
        ("warmup_steps", -5),
        ("gate_embeddings", "rows"),
        ("gate_every", 0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{setting}="):
        build_rgd(parameters(), **{setting: value})  # type: ignore[arg-type]


def test_the_factory_passes_every_setting() -> None:
    optimizer = build_rgd(parameters(), 0.02, (0.8, 0.9), 1e-7, 0.03, 0.4, 50, "both", 2)
    (group,) = optimizer.param_groups
    del group["params"]
    assert group == {
        "lr": 0.02,
        "betas": (0.8, 0.9),
        "eps": 1e-7,
        "weight_decay": 0.03,
        "resonance_strength": 0.4,
        "warmup_steps": 50,
        "gate_embeddings": "both",
        "gate_every": 2,
    }
