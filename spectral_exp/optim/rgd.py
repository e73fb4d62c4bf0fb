"""Resonant Gradient Descent (RGD): AdamW whose update passes a filter in the frequency domain.

The filter lets pass what parameter and update have in common. With F a real FFT, P the parameter, U Adam's direction
m_hat / (sqrt(v_hat) + eps):

    rho = sqrt(|F P| / max|F P| * |F U| / max|F U|)
    the update is F^-1((alpha rho + 1 - alpha) F U), alpha = resonance_strength * min(1, step / warmup_steps)

The first half of this module is that mathematics in pure functions, the second the bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from spectral_exp.errors import require
from spectral_exp.optim.adamw import Parameters, check_adam

Gate: TypeAlias = Literal["none", "channels", "both"]
GATES = ("none", "channels", "both")

# Roles whose first axis runs over tokens, which have no meaningful order.
TABLE_ROLES = ("embedding", "head", "wave")


def adam_directions(
    means: list[Tensor], squares: list[Tensor], steps: list[int], betas: tuple[float, float], eps: float
) -> list[Tensor]:
    """U = m_hat / (sqrt(v_hat) + eps) of each parameter, from its running means after `steps` steps."""
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, [(1 - betas[1] ** step) ** 0.5 for step in steps])
    torch._foreach_add_(denominators, eps)
    directions = torch._foreach_div(means, [1 - betas[0] ** step for step in steps])
    torch._foreach_div_(directions, denominators)
    return list(directions)


def resonance_strength_at(step: int, strength: float, warmup_steps: int) -> float:
    """alpha at `step` (from 1): `strength`, approached linearly over the first `warmup_steps`."""
    return strength * min(1.0, step / warmup_steps) if warmup_steps > 0 else strength


def resonance(parameter: Tensor, direction: Tensor, both_axes: bool = True) -> tuple[Tensor, Tensor]:
    """The resonance rho of two matrices, and the spectrum of `direction`.

    A zero matrix resonates with nothing: rho is 0.

    Args:
        parameter: P (R, C).
        direction: U (R, C).
        both_axes: transform along both axes; or, when false, along C alone, each row being a signal with a maximum of
            its own.

    Returns:
        rho, and F U, both on the half spectrum (R, C // 2 + 1): the other half mirrors it, with the same maximum.
    """
    axes = (-2, -1) if both_axes else (-1,)
    spectrum = torch.fft.rfftn(direction, dim=axes)
    rho = _relative_power(torch.fft.rfftn(parameter, dim=axes), axes)
    # The fourth root of a product of squares spares two square roots per bin.
    rho.mul_(_relative_power(spectrum, axes)).pow_(0.25)
    return rho, spectrum


def gated_direction(
    parameter: Tensor, direction: Tensor, alpha: float, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """F^-1((alpha rho + 1 - alpha) F U) in the shape of `direction`, and the mean of rho over all frequencies.

    Parameters of more than two dimensions count as a matrix of their first by all others. Half precisions are
    transformed in float32.
    """
    matrix, update = _matrix(parameter), _matrix(direction)
    rho, spectrum = resonance(matrix, update, both_axes)
    mean = _mean_of_half(rho, matrix.shape[1])
    spectrum.mul_(rho.mul_(alpha).add_(1 - alpha))
    axes = (-2, -1) if both_axes else (-1,)
    sizes = [matrix.shape[axis] for axis in axes]
    gated = torch.fft.irfftn(spectrum, s=sizes, dim=axes)
    return gated.reshape(direction.shape).to(direction.dtype), mean


def _matrix(x: Tensor) -> Tensor:
    x = x.flatten(1)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _relative_power(spectrum: Tensor, axes: tuple[int, ...]) -> Tensor:
    """|spectrum|^2 divided by its maximum along `axes`; zeros where all is zero."""
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
    peak = power.amax(dim=axes, keepdim=True)
    return power.div_(peak.clamp_min_(torch.finfo(power.dtype).tiny))


def _mean_of_half(rho: Tensor, width: int) -> Tensor:
    """The mean over the whole spectrum of `width` columns, of which `rho` holds the first half.

    All columns stand for two, but the first, and the last of an even width.
    """
    total = 2 * rho.sum() - rho[:, 0].sum()
    if width % 2 == 0:
        total -= rho[:, -1].sum()
    return total / (rho.shape[0] * width)


class RGD(torch.optim.Optimizer):
    """Resonant Gradient Descent: see the module. Parameters of fewer than two dimensions get plain AdamW.

    Args:
        params: parameters or groups of them; a group's own settings take precedence. A group's "role" (default
            "hidden") says what it holds: "embedding", "head" and "wave" are gated as `gate_embeddings` says, all
            other matrices along both axes.
        lr: learning rate, >= 0.
        betas: decay of the mean and of the mean square of gradients, each >= 0 and < 1.
        eps: > 0, added to the root of the mean square.
        weight_decay: >= 0, decoupled from the gradient.
        resonance_strength: between 0 (AdamW, nothing is transformed) and 1.
        warmup_steps: steps over which the strength grows from 0, >= 0.
        gate_embeddings: "none" leaves tables ungated; "channels" gates each token's vector by itself; "both" treats a
            table as any matrix.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        resonance_strength: float = 0.3,
        warmup_steps: int = 500,
        gate_embeddings: Gate = "none",
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "resonance_strength": resonance_strength,
            "warmup_steps": warmup_steps,
            "gate_embeddings": gate_embeddings,
        }
        self._resonance: Tensor | None = None
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checking its settings and those it takes over."""
        group = {**self.defaults, **param_group}
        check_adam("lr", group["lr"], group["betas"], group["eps"], group["weight_decay"])
        strength, warmup, gate = group["resonance_strength"], group["warmup_steps"], group["gate_embeddings"]
        require(0 <= strength <= 1, "resonance_strength", strength, "between 0 and 1")
        require(warmup >= 0, "warmup_steps", warmup, ">= 0")
        require(gate in GATES, "gate_embeddings", gate, "one of " + ", ".join(GATES))
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        means_of_rho = [rho for group in self.param_groups for rho in self._update(group)]
        self._resonance = torch.stack(means_of_rho).mean() if means_of_rho else None
        return loss

    def metrics(self) -> dict[str, Tensor]:
        """The mean of rho over the gated parameters in the last step, as `resonance`; {} where none was gated."""
        return {} if self._resonance is None else {"resonance": self._resonance}

    def _update(self, group: dict[str, Any]) -> list[Tensor]:
        """Update one group; returns the mean rho of each gated parameter."""
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return []
        means, squares, steps = self._advance(parameters, group["betas"])
        directions = adam_directions(means, squares, steps, group["betas"], group["eps"])
        rhos = []
        table = group.get("role", "hidden") in TABLE_ROLES
        gate = group["gate_embeddings"] if table else "both"
        if gate != "none" and group["resonance_strength"] > 0:
            for i, parameter in enumerate(parameters):
                if parameter.ndim >= 2:
                    alpha = resonance_strength_at(steps[i], group["resonance_strength"], group["warmup_steps"])
                    directions[i], rho = gated_direction(parameter, directions[i], alpha, gate == "both")
                    rhos.append(rho)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])
        return rhos

    def _advance(
        self, parameters: list[Tensor], betas: tuple[float, float]
    ) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """Count a step of each parameter and move its running means on by its gradient."""
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["step"] += 1
        states = [self.state[parameter] for parameter in parameters]
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_lerp_(means, grads, 1 - betas[0])
        torch._foreach_mul_(squares, betas[1])
        torch._foreach_addcmul_(squares, grads, grads, 1 - betas[1])
        return means, squares, [s["step"] for s in states]


def rgd(
    params: Parameters,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    resonance_strength: float = 0.3,
    warmup_steps: int = 500,
    gate_embeddings: Gate = "none",
) -> RGD:
    """RGD with its learning rate under the name configurations use; the settings are those of the class."""
    check_adam("learning_rate", learning_rate, betas, eps, weight_decay)
    return RGD(
        params,
        lr=learning_rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        resonance_strength=resonance_strength,
        warmup_steps=warmup_steps,
        gate_embeddings=gate_embeddings,
    )
