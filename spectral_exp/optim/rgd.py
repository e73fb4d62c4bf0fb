"""Resonant Gradient Descent (RGD): AdamW whose update passes a filter in the frequency domain.

The filter lets pass what parameter and update have in common. With F a real FFT, P the parameter, U Adam's direction
m_hat / (sqrt(v_hat) + eps):

    rho = sqrt(|F P| / max|F P| * |F U| / max|F U|)
    the update is F^-1((alpha rho + 1 - alpha) F U), alpha = resonance_strength * min(1, step / warmup_steps)

The first half of this module is that mathematics in pure functions, the second the bookkeeping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from spectral_exp.core.errors import require
from spectral_exp.optim.adamw import FUSED_DEVICES, Parameters, check_adam
from spectral_exp.optim.eager import EagerOptimizer

Gate: TypeAlias = Literal["none", "channels", "both"]
GATES = ("none", "channels", "both")

# Roles whose first axis runs over tokens, which have no meaningful order.
TABLE_ROLES = ("embedding", "head", "wave")

# Numbers in the matrices that are gated in one call.
_CPU_BATCH = 2**18
_GPU_BATCH = 2**24


def resonance_strength_at(step: Tensor, strength: float, warmup_steps: int) -> Tensor:
    """alpha at `step` (any shape, from 1), float64: `strength`, approached linearly over the first `warmup_steps`."""
    if warmup_steps == 0:
        return torch.full_like(step, strength, dtype=torch.float64)
    return strength * (step.double() / warmup_steps).clamp(max=1.0)


def gated_directions(
    parameters: Tensor, directions: Tensor, resonant: Tensor, rest: Tensor, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """F^-1((resonant rho + rest) F U) of N matrices, each by itself, and the mean of each rho over all frequencies.

    Parameters of more than two dimensions count as a matrix of their first by all others. Half precisions are
    transformed in float32. A zero matrix resonates with nothing: rho is 0.

    Args:
        parameters: P, (N, R, ...).
        directions: U, likewise.
        resonant, rest: the coefficients of the filter of each, (N): alpha and 1 - alpha, or multiples of them.
        both_axes: transform along both axes; or, when false, along all but the first, each row being a signal with a
            maximum of its own.

    Returns:
        The filtered directions, like `directions`, and the means (N).
    """
    matrices, updates = _matrices(parameters), _matrices(directions)
    width = matrices.shape[2]
    axes = (-2, -1) if both_axes else (-2,)
    # The fourth root of the product of both powers: one root instead of two magnitudes and another. It is taken as
    # 1 / sqrt(1 / sqrt(x)), faster than a power of 1/4; 0 stays 0, by way of infinity.
    rho = _relative_power(half_spectra(matrices, both_axes), axes)
    spectra = half_spectra(updates, both_axes)
    rho.mul_(_relative_power(spectra, axes)).rsqrt_().rsqrt_()
    means = _means_of_halves(rho, width)
    resonant, rest = (coefficients[:, None, None].to(rho) for coefficients in (resonant, rest))
    spectra.mul_(rho.mul_(resonant).add_(rest))
    filtered = from_half_spectra(spectra, width, both_axes)
    return filtered.reshape(directions.shape).to(directions.dtype), means


def _matrices(x: Tensor) -> Tensor:
    x = x.flatten(2)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def half_spectra(matrices: Tensor, both_axes: bool = True) -> Tensor:
    """Half the spectra of `matrices` (N, R, C), as (N, C // 2 + 1, R): the other half mirrors it.

    Two one-dimensional transforms instead of one of two dimensions leave the result transposed in memory, as the
    transform along the first axis wrote it, which spares a copy there and on the way back.
    """
    rows = torch.fft.rfft(matrices)
    spectra: Tensor = torch.fft.fft(rows, dim=1) if both_axes else rows
    return spectra.mT


def from_half_spectra(spectra: Tensor, width: int, both_axes: bool = True) -> Tensor:
    """The matrices (N, R, C) of half spectra (N, C // 2 + 1, R)."""
    columns = torch.fft.ifft(spectra) if both_axes else spectra
    # Rows of 2^n numbers would make the last transform, which runs across them, miss the cache at every step.
    N, K, R = columns.shape
    padded = columns.new_empty(N, K, R + 8)[..., :R].copy_(columns)
    matrices: Tensor = torch.fft.irfft(padded.mT, n=width)
    return matrices


def _relative_power(spectra: Tensor, axes: tuple[int, ...]) -> Tensor:
    """|spectra|^2 divided by its maximum along `axes`; zeros where all is zero."""
    # All are squared at once, which takes no notice of pairs and is fast; only the sum picks them apart.
    real, imag = torch.view_as_real(spectra).square().unbind(-1)
    power = real + imag
    peak = power.amax(dim=axes, keepdim=True)
    return power.div_(peak.clamp_min_(torch.finfo(power.dtype).tiny))


def _means_of_halves(rho: Tensor, width: int) -> Tensor:
    """The means over whole spectra of `width` columns, of which `rho` (N, C // 2 + 1, R) holds the first half.

    All stand for two, but the first, and the last of an even width.
    """
    total = 2 * rho.sum((1, 2)) - rho[:, 0].sum(1)
    if width % 2 == 0:
        total -= rho[:, -1].sum(1)
    return total / (rho.shape[2] * width)


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
        self._finite: Tensor | None = None
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checking its settings and those it takes over."""
        group = {**self.defaults, **param_group}
        check_adam("lr", group["lr"], group["betas"], group["eps"], group["weight_decay"])
        strength, warmup, gate = (
            group["resonance_strength"],
            group["warmup_steps"],
            group["gate_embeddings"],
        )
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
        """Update every parameter that has a gradient.

        The host never waits for a GPU. A step can be captured in a CUDA graph once the state exists, that is after an
        ordinary step, with `gate_every` = 1; where the learning rate then shall change, it must be a tensor.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        means_of_rho = [means for group in self.param_groups for means in self._update(group)]
        if means_of_rho:
            resonance, before = torch.cat(means_of_rho).mean(), self._resonance
            if self._finite is not None:
                resonance = torch.where(
                    self._finite, resonance, math.nan if before is None else before
                )
            self._resonance = resonance
        return loss

    @property
    def can_step_conditionally(self) -> bool:
        """Whether `step_if` can be used: with the fused kernel, and not between the steps of `gate_every`."""
        fused = all(
            _fused(parameter) for group in self.param_groups for parameter in group["params"]
        )
        return fused and all(group["gate_every"] == 1 for group in self.param_groups)

    def step_if(self, finite: Tensor) -> None:
        """Do a step where `finite`, a 0-dimensional bool on the device of the parameters, is true; else none at all.

        The host waits for nothing. The resonance before the first step that is done is NaN.
        """
        self._finite = finite
        try:
            self.step()
        finally:
            self._finite = None

    def metrics(self) -> dict[str, Tensor]:
        """The mean of rho over the gated parameters when last gated, as `resonance`; {} where none was gated."""
        return {} if self._resonance is None else {"resonance": self._resonance}

    def _update(self, group: dict[str, Any]) -> list[Tensor]:
        """Update one group; returns the means of rho of the parameters gated now."""
        table = group.get("role", "hidden") in TABLE_ROLES
        gate = group["gate_embeddings"] if table else "both"
        gates = gate != "none" and group["resonance_strength"] > 0
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            self._prepare(parameter)
        gated = [p for p in parameters if gates and p.ndim >= 2]
        self._adamw(parameters if not gates else [p for p in parameters if p.ndim < 2], group)
        means = [
            self._gated_update(batch, group, both_axes=gate == "both")
            for batch in self._batches(gated)
        ]
        return [rho for rho in means if rho is not None]

    def _batches(self, parameters: list[Tensor]) -> list[list[Tensor]]:
        """The parameters in batches of like ones, to be gated in as few calls as pays.

        On a CPU matrices of some size go one after the other, so that each stays in the cache with its spectra; small
        ones, and those on a GPU, go together, because a call costs more than its work.
        """
        batches: dict[object, list[list[Tensor]]] = {}
        for p in parameters:
            # What is not contiguous stays alone: moments and direction have to share its layout.
            layout = None if p.is_contiguous() else id(p)
            like = batches.setdefault(
                (p.shape, p.dtype, p.device, layout, self.state[p].get("ungated_steps")), [[]]
            )
            most = _CPU_BATCH if p.device.type == "cpu" else _GPU_BATCH
            if (len(like[-1]) + 1) * p.numel() > most and like[-1]:
                like.append([])
            like[-1].append(p)
        return [batch for like in batches.values() for batch in like]

    def _gated_update(
        self, batch: list[Tensor], group: dict[str, Any], both_axes: bool
    ) -> Tensor | None:
        """Update matrices of one shape through the gate; returns the means of rho if the gate was applied now."""
        states = [self.state[p] for p in batch]
        lr, decay, interval = group["lr"], group["weight_decay"], group["gate_every"]
        # AdamW without decay that starts at zero, with the rate -1, arrives at U; where a step is skipped, at zero.
        first = batch[0]
        directions = (
            torch.zeros_like(first)[None]
            if len(batch) == 1
            else first.new_zeros(len(batch), *first.shape)
        )
        self._adamw(batch, {**group, "lr": -1.0, "weight_decay": 0.0}, moved=list(directions))
        steps = torch.stack([state["step"] for state in states])
        alpha = resonance_strength_at(steps, group["resonance_strength"], group["warmup_steps"])
        rate = lr if self._finite is None else lr * self._finite.double()
        torch._foreach_mul_(batch, 1 - rate * decay)
        if interval == 1 and "pending" not in states[0]:
            updates, means = gated_directions(
                _stack(batch), directions, rate * alpha, rate * (1 - alpha), both_axes
            )
            torch._foreach_sub_(batch, list(updates))
            return means
        capturing = first.is_cuda and torch.cuda.is_current_stream_capturing()
        require(
            not capturing,
            "gate_every",
            interval,
            "1 in a CUDA graph",
            "which repeats one of the k steps forever",
        )
        for p, state, direction, strength in zip(batch, states, directions, alpha, strict=True):
            if "pending" not in state:
                state["pending"] = torch.zeros_like(p)
            state["pending"].add_(lr * strength * direction)
            p.sub_(direction.mul_(lr * (1 - strength)))
            state["ungated_steps"] = state.get("ungated_steps", 0) + 1
        if states[0]["ungated_steps"] < interval:
            return None
        pending = _stack([state["pending"] for state in states])
        updates, means = gated_directions(
            _stack(batch), pending, torch.ones_like(alpha), torch.zeros_like(alpha), both_axes
        )
        torch._foreach_sub_(batch, list(updates))
        for state in states:
            state["ungated_steps"] = 0
            state["pending"].zero_()
            if interval == 1:  # it was larger before
                del state["pending"], state["ungated_steps"]
        return means

    def _adamw(
        self, parameters: list[Tensor], group: dict[str, Any], moved: list[Tensor] | None = None
    ) -> None:
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
            found_inf=None if self._finite is None else (~self._finite).float(),
        )

    def _prepare(self, parameter: Tensor) -> None:
        """Make the state of a parameter that has none; the step counter goes where the kernel wants it."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(
                (), dtype=torch.float32, device=parameter.device if _fused(parameter) else "cpu"
            )
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if _fused(parameter):
            state["step"] = state["step"].to(parameter.device)


def _stack(tensors: list[Tensor]) -> Tensor:
    """The tensors along a new first axis; one alone is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _fused(parameter: Tensor) -> bool:
    return parameter.device.type in FUSED_DEVICES


def build_rgd(
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
