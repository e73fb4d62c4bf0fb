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
from torch.optim.adamw import adamw

from spectral_exp.errors import require
from spectral_exp.optim.adamw import FUSED_DEVICES, Parameters, check_adam
from spectral_exp.optim.eager import EagerOptimizer

Gate: TypeAlias = Literal["none", "channels", "both"]
GATES = ("none", "channels", "both")

# Roles whose first axis runs over tokens, which have no meaningful order.
TABLE_ROLES = ("embedding", "head", "wave")


def resonance_strength_at(step: Tensor, strength: float, warmup_steps: int) -> Tensor | float:
    """alpha at `step` (from 1): `strength`, approached linearly over the first `warmup_steps`."""
    if warmup_steps == 0:
        return strength
    if step.device.type == "cpu":
        return strength * min(1.0, step.item() / warmup_steps)
    # On a GPU nothing waits for the step's value, and a captured graph follows it.
    return strength * (step.double() / warmup_steps).clamp(max=1.0)


def gated_direction(
    parameter: Tensor, direction: Tensor, alpha: Tensor | float, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """F^-1((alpha rho + 1 - alpha) F U) in the shape of `direction`, and the mean of rho over all frequencies.

    Parameters of more than two dimensions count as a matrix of their first by all others. Half precisions are
    transformed in float32. A zero matrix resonates with nothing: rho is 0.

    Args:
        parameter: P.
        direction: U.
        alpha: the strength of the gate, between 0 and 1.
        both_axes: transform along both axes; or, when false, along all but the first, each row being a signal with a
            maximum of its own.
    """
    matrix, update = _matrix(parameter), _matrix(direction)
    width = matrix.shape[1]
    spectrum = _spectrum(update, both_axes)
    rho = _resonance(_spectrum(matrix, both_axes), spectrum, (-2, -1) if both_axes else (-2,))
    mean = _mean_of_half(rho, width)
    gate = rho.mul_(alpha).add_(1 - alpha)
    # Part by part: as a factor of complex numbers, the gate would be copied into complex ones first.
    for part in torch.view_as_real(spectrum).unbind(-1):
        part.mul_(gate)
    gated = _inverse(spectrum, width, both_axes)
    return gated.reshape(direction.shape).to(direction.dtype), mean


def _matrix(x: Tensor) -> Tensor:
    x = x.flatten(1)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _spectrum(matrix: Tensor, both_axes: bool) -> Tensor:
    """Half the spectrum of `matrix` (R, C), as (C // 2 + 1, R): the other half mirrors it, with the same maximum.

    Two one-dimensional transforms instead of one of two dimensions leave the result transposed in memory, as the
    transform along the first axis wrote it, which spares a copy there and on the way back.
    """
    rows = torch.fft.rfft(matrix)
    spectrum: Tensor = torch.fft.fft(rows, dim=0) if both_axes else rows
    return spectrum.t()


def _inverse(spectrum: Tensor, width: int, both_axes: bool) -> Tensor:
    """The matrix (R, C) of a half spectrum (C // 2 + 1, R)."""
    columns = torch.fft.ifft(spectrum, dim=1) if both_axes else spectrum
    # Rows of 2^n numbers would make the last transform, which runs across them, miss the cache at every step.
    K, R = columns.shape
    padded = columns.new_empty(K, R + 8)[:, :R].copy_(columns)
    matrix: Tensor = torch.fft.irfft(padded.t(), n=width)
    return matrix


def _resonance(parameter: Tensor, direction: Tensor, axes: tuple[int, ...]) -> Tensor:
    """rho of the half spectra of parameter and direction; maxima are taken along `axes`.

    The fourth root of the product of both powers, each divided by its maximum: one root instead of two magnitudes and
    another. It is taken as 1 / sqrt(1 / sqrt(x)), faster than a power of 1/4; 0 stays 0, by way of infinity.
    """
    rho = _relative_power(parameter, axes)
    return rho.mul_(_relative_power(direction, axes)).rsqrt_().rsqrt_()


def _relative_power(spectrum: Tensor, axes: tuple[int, ...]) -> Tensor:
    """|spectrum|^2 divided by its maximum along `axes`; zeros where all is zero."""
    real, imag = torch.view_as_real(spectrum).unbind(-1)
    power = real.square().addcmul_(imag, imag)
    peak = power.amax(dim=axes, keepdim=True)
    return power.div_(peak.clamp_min_(torch.finfo(power.dtype).tiny))


def _mean_of_half(rho: Tensor, width: int) -> Tensor:
    """The mean over the whole spectrum of `width` columns, of which `rho` (C // 2 + 1, R) holds the first half.

    All stand for two, but the first, and the last of an even width.
    """
    total = 2 * rho.sum() - rho[0].sum()
    if width % 2 == 0:
        total -= rho[-1].sum()
    return total / (rho.shape[1] * width)


class RGD(EagerOptimizer):
    """Resonant Gradient Descent: see the module. Parameters of fewer than two dimensions get plain AdamW.

    With `gate_every` = k > 1 the transforms are paid for every k-th step only. The part (1 - alpha) U, which no filter
    touches, is applied in every step; the part alpha U is added up, and every k-th step the sum passes the filter
    and is applied. With k = 1 this is the definition.

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
        gate_every: k, >= 1.
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
        gate_every: int = 1,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "resonance_strength": resonance_strength,
            "warmup_steps": warmup_steps,
            "gate_embeddings": gate_embeddings,
            "gate_every": gate_every,
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
        require(group["gate_every"] >= 1, "gate_every", group["gate_every"], ">= 1")
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
        if means_of_rho:
            self._resonance = torch.stack(means_of_rho).mean()
        return loss

    def metrics(self) -> dict[str, Tensor]:
        """The mean of rho over the gated parameters when last gated, as `resonance`; {} where none was gated."""
        return {} if self._resonance is None else {"resonance": self._resonance}

    def _update(self, group: dict[str, Any]) -> list[Tensor]:
        """Update one group; returns the mean rho of each parameter gated now."""
        table = group.get("role", "hidden") in TABLE_ROLES
        gate = group["gate_embeddings"] if table else "both"
        gates = gate != "none" and group["resonance_strength"] > 0
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            self._prepare(parameter)
        gated = [p for p in parameters if gates and p.ndim >= 2]
        self._adamw(parameters if not gates else [p for p in parameters if p.ndim < 2], group)
        # One after the other, so that a matrix and its spectra stay in the cache.
        rhos = [self._gated_update(p, group, both_axes=gate == "both") for p in gated]
        return [rho for rho in rhos if rho is not None]

    def _gated_update(self, parameter: Tensor, group: dict[str, Any], both_axes: bool) -> Tensor | None:
        """Update one matrix through the gate; returns the mean rho if the gate was applied now."""
        state, lr, interval = self.state[parameter], group["lr"], group["gate_every"]
        # AdamW without decay that starts at zero, with the rate -1, arrives at U.
        direction = torch.zeros_like(parameter)
        self._adamw([parameter], {**group, "lr": -1.0, "weight_decay": 0.0}, moved=[direction])
        alpha = resonance_strength_at(state["step"], group["resonance_strength"], group["warmup_steps"])
        parameter.mul_(1 - lr * group["weight_decay"])
        if interval == 1 and "pending" not in state:
            update, rho = gated_direction(parameter, direction, alpha, both_axes)
            parameter.add_(update, alpha=-lr)
            return rho
        if "pending" not in state:
            state["pending"] = torch.zeros_like(parameter)
        state["pending"].add_(lr * alpha * direction)
        parameter.sub_(direction.mul_(lr * (1 - alpha)))
        state["ungated_steps"] = state.get("ungated_steps", 0) + 1
        if state["ungated_steps"] < interval:
            return None
        update, rho = gated_direction(parameter, state["pending"], 1.0, both_axes)
        parameter.sub_(update)
        state["ungated_steps"] = 0
        state["pending"].zero_()
        if interval == 1:  # it was larger before
            del state["pending"], state["ungated_steps"]
        return rho

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any], moved: list[Tensor] | None = None) -> None:
        """One step of AdamW with the means of `parameters`, taken by these or by the tensors `moved`."""
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            moved or parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            fused=_fused(parameters[0]),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _prepare(self, parameter: Tensor) -> None:
        """Make the state of a parameter that has none; the step counter goes where the kernel wants it."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if _fused(parameter):
            state["step"] = state["step"].to(parameter.device)


def _fused(parameter: Tensor) -> bool:
    return parameter.device.type in FUSED_DEVICES


def rgd(
    params: Parameters,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    resonance_strength: float = 0.3,
    warmup_steps: int = 500,
    gate_embeddings: Gate = "none",
    gate_every: int = 1,
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
        gate_every=gate_every,
    )
