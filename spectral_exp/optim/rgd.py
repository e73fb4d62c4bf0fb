"""Resonant Gradient Descent (RGD): AdamW with an update filtered in the frequency domain.

The filter passes the frequencies that parameter and update share. With F a real FFT, P the
parameter, and U Adam's direction m_hat / (sqrt(v_hat) + eps):

    rho = sqrt(|F P| / max|F P| * |F U| / max|F U|)
    the update is F^-1((alpha rho + 1 - alpha) F U), alpha = resonance_strength * min(1, step /
    warmup_steps)

The first half of this module implements the filter in pure functions, the second half the
optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import tee
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from spectral_exp.core.errors import require
from spectral_exp.optim.adamw import FUSED_DEVICES, Parameters, check_adam
from spectral_exp.optim.eager import EagerOptimizer
from spectral_exp.optim.matrix_updates import MatrixOwners, MatrixUpdate, SoleOwner

Gate: TypeAlias = Literal["none", "channels", "both"]
GATES = ("none", "channels", "both")

# Roles whose first axis indexes tokens, which have no meaningful order.
TABLE_ROLES = ("embedding", "head", "wave")

# Numbers per call of the gate.
_CPU_BATCH = 2**18
_GPU_BATCH = 2**24


def resonance_strength_at(step: Tensor, strength: float, warmup_steps: int) -> Tensor:
    """Return alpha at `step` (any shape, from 1) in float64.

    It grows linearly to `strength` over the first `warmup_steps`.
    """
    if warmup_steps == 0:
        return torch.full_like(step, strength, dtype=torch.float64)
    return strength * (step.double() / warmup_steps).clamp(max=1.0)


def gated_directions(
    parameters: Tensor, directions: Tensor, resonant: Tensor, rest: Tensor, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """Return F^-1((resonant rho + rest) F U) and the mean rho of N matrices, each independently.

    Parameters of more than two dimensions are flattened to a matrix of the first dimension by the
    rest. Half precisions are transformed in float32. rho is 0 for a zero matrix.

    Args:
        parameters: P, (N, R, ...).
        directions: U, (N, R, ...).
        resonant, rest: filter coefficients (N): alpha and 1 - alpha, or multiples of them.
        both_axes: if true, transform along both axes; if false, transform each row as a signal with
            its own maximum.

    Returns:
        The filtered directions, like `directions`, and the means (N).
    """
    matrices, updates = _matrices(parameters), _matrices(directions)
    width = matrices.shape[2]
    axes = (-2, -1) if both_axes else (-2,)
    # rho is the fourth root of the product of both powers, which avoids the two magnitudes. It is
    # computed as 1 / sqrt(1 / sqrt(x)), which is faster than a power of 1/4; 0 maps to infinity and
    # back to 0.
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
    """Return half the spectra of `matrices` (N, R, C), as (N, C // 2 + 1, R).

    The other half mirrors it.
    Two one-dimensional transforms leave the result transposed in memory, which saves a copy in each
    direction compared with one two-dimensional transform.
    """
    rows = torch.fft.rfft(matrices)
    spectra: Tensor = torch.fft.fft(rows, dim=1) if both_axes else rows
    return spectra.mT


def from_half_spectra(spectra: Tensor, width: int, both_axes: bool = True) -> Tensor:
    """Return the matrices (N, R, C) of half spectra (N, C // 2 + 1, R)."""
    columns = torch.fft.ifft(spectra) if both_axes else spectra
    # With rows of 2^n numbers the last transform, which runs across them, would miss the cache at
    # every step.
    N, K, R = columns.shape
    padded = columns.new_empty(N, K, R + 8)[..., :R].copy_(columns)
    matrices: Tensor = torch.fft.irfft(padded.mT, n=width)
    return matrices


def _relative_power(spectra: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return |spectra|^2 divided by its maximum along `axes`, or zeros if the maximum is 0."""
    # Squaring real and imaginary parts in one call is contiguous and fast; only the sum separates
    # them.
    real, imag = torch.view_as_real(spectra).square().unbind(-1)
    power = real + imag
    peak = power.amax(dim=axes, keepdim=True)
    return power.div_(peak.clamp_min_(torch.finfo(power.dtype).tiny))


def _means_of_halves(rho: Tensor, width: int) -> Tensor:
    """Return the means over full spectra of `width` columns from half `rho` (N, C // 2 + 1, R).

    Every column counts twice, except the first one and, for an even width, the last one.
    """
    total = 2 * rho.sum((1, 2)) - rho[:, 0].sum(1)
    if width % 2 == 0:
        total -= rho[:, -1].sum(1)
    return total / (rho.shape[2] * width)


class RGD(EagerOptimizer):
    """Resonant Gradient Descent, defined in the module docstring.

    Parameters of fewer than two dimensions are updated by plain AdamW. With `gate_every` = k > 1
    only every k-th step computes transforms. The unfiltered part (1 - alpha) U is applied in every
    step. The part alpha U accumulates; every k-th step filters and applies the sum. k = 1 is the
    definition.

    Args:
        params: parameters or groups of them; a group's own settings take precedence. A group's
            "role" (default "hidden") selects its gate: "embedding", "head" and "wave" follow
            `gate_embeddings`, all other matrices are gated along both axes.
        lr: learning rate, >= 0.
        betas: decay of the mean and of the mean square of gradients, each >= 0 and < 1.
        eps: > 0, added to the root of the mean square.
        weight_decay: >= 0, decoupled from the gradient.
        resonance_strength: between 0, which is AdamW without transforms, and 1.
        warmup_steps: steps over which the strength grows from 0, >= 0.
        gate_embeddings: "none" leaves tables ungated; "channels" gates each token's vector
            independently; "both" gates a table like any other matrix.
        gate_every: k, >= 1.

    Attributes:
        owners: where matrices are gated. On several processes each batch of matrices that one
            process gates in one call is gated by one of them, so the bits are the same.
    """

    owners: MatrixOwners = SoleOwner()

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
        """Add a group after checking its own settings and the defaults it inherits."""
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

        The host never waits for a GPU. With `gate_every` = 1 a step can be captured in a CUDA graph
        after one ordinary step, which creates the state. A learning rate that changes afterwards
        must be a tensor.
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
        """Whether `step_if` is supported: all kernels are fused and `gate_every` is 1."""
        fused = all(
            _is_fused(parameter) for group in self.param_groups for parameter in group["params"]
        )
        return fused and all(group["gate_every"] == 1 for group in self.param_groups)

    def step_if(self, finite: Tensor) -> None:
        """Step only if `finite`, a 0-dimensional bool on the device of the parameters, is true.

        The host does not synchronise with the device. The resonance is NaN before the first
        executed step.
        """
        self._finite = finite
        try:
            self.step()
        finally:
            self._finite = None

    def metrics(self) -> dict[str, Tensor]:
        """Return the last mean of rho as `resonance`, or {} before any parameter was gated."""
        return {} if self._resonance is None else {"resonance": self._resonance}

    def _update(self, group: dict[str, Any]) -> list[Tensor]:
        """Update one group and return the means of rho of the parameters gated in this step."""
        is_table = group.get("role", "hidden") in TABLE_ROLES
        gate = group["gate_embeddings"] if is_table else "both"
        uses_gate = gate != "none" and group["resonance_strength"] > 0
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            self._prepare(parameter)
        gated = [p for p in parameters if uses_gate and p.ndim >= 2]
        self._adamw([p for p in parameters if not uses_gate or p.ndim < 2], group)
        # With one process, an update is applied before the next is requested.
        requests, passed_on = tee(
            self._gate_updates(self._batches(gated), group, both_axes=gate == "both")
        )
        means = []
        for request, (updates, rho) in zip(requests, self.owners.compute(passed_on), strict=True):
            torch._foreach_sub_([self.owners.local(p) for p in request.parameters], list(updates))
            means.append(rho)
        return means

    def _batches(self, parameters: list[Tensor]) -> list[list[Tensor]]:
        """Group parameters of equal shape, type and layout into batches for one call of the gate.

        On a CPU large matrices form batches of one, so that each stays in the cache with its
        spectra. Small matrices, and those on a GPU, share a batch, since a call costs more than its
        work.
        """
        batches: dict[object, list[list[Tensor]]] = {}
        for p in parameters:
            # A non-contiguous parameter forms its own batch: moments and direction must share its
            # layout.
            layout = None if p.is_contiguous() else id(p)
            like = batches.setdefault(
                (p.shape, p.dtype, p.device, layout, self.state[p].get("ungated_steps")), [[]]
            )
            most = _CPU_BATCH if p.device.type == "cpu" else _GPU_BATCH
            if (len(like[-1]) + 1) * p.numel() > most and like[-1]:
                like.append([])
            like[-1].append(p)
        return [batch for like in batches.values() for batch in like]

    def _gate_updates(
        self, batches: Iterable[list[Tensor]], group: dict[str, Any], both_axes: bool
    ) -> Iterator[MatrixUpdate]:
        """Update the moments of all batches and yield what is to be gated in this step."""
        for batch in batches:
            states = [self.state[p] for p in batch]
            shares, directions = (
                [self.owners.local(p) for p in batch],
                self._directions(batch, group),
            )
            steps = torch.stack([state["step"] for state in states])
            alpha = resonance_strength_at(steps, group["resonance_strength"], group["warmup_steps"])
            lr, interval = group["lr"], group["gate_every"]
            rate = lr if self._finite is None else lr * self._finite.double()
            torch._foreach_mul_(shares, 1 - rate * group["weight_decay"])
            filters = rate * alpha, rate * (1 - alpha)
            if interval > 1 or "pending" in states[0]:
                self._add_pending(batch, directions, lr * alpha, lr * (1 - alpha), interval)
                if states[0]["ungated_steps"] < interval:
                    continue
                directions = self._take_pending(states, interval)
                filters = torch.ones_like(alpha), torch.zeros_like(alpha)
            gate = partial(
                gated_directions, resonant=filters[0], rest=filters[1], both_axes=both_axes
            )
            yield MatrixUpdate(batch, (_stack(shares), directions), gate, is_rowwise=not both_axes)

    def _directions(self, batch: list[Tensor], group: dict[str, Any]) -> Tensor:
        """Update the moments of a batch and return U, stacked."""
        # From zero, without decay and with rate -1, AdamW arrives at U, or at zero if the step is
        # skipped.
        first = self.owners.local(batch[0])
        n, shape = len(batch), first.shape
        directions = torch.zeros_like(first)[None] if n == 1 else first.new_zeros(n, *shape)
        self._adamw(batch, {**group, "lr": -1.0, "weight_decay": 0.0}, moved=list(directions))
        return directions

    def _add_pending(
        self, batch: list[Tensor], directions: Tensor, resonant: Tensor, rest: Tensor, interval: int
    ) -> None:
        """Apply the unfiltered part of U and add the other part to what waits for the gate."""
        capturing = batch[0].is_cuda and torch.cuda.is_current_stream_capturing()
        remedy = "a graph repeats one of the k steps forever"
        require(not capturing, "gate_every", interval, "1 in a CUDA graph", remedy)
        for p, direction, now, later in zip(batch, directions, rest, resonant, strict=True):
            state = self.state[p]
            if "pending" not in state:
                state["pending"] = torch.zeros_like(p)
            self.owners.local(state["pending"]).add_(later * direction)
            self.owners.local(p).sub_(direction.mul_(now))
            state["ungated_steps"] = state.get("ungated_steps", 0) + 1

    def _take_pending(self, states: list[dict[str, Any]], interval: int) -> Tensor:
        """Return the sum of what waits for the gate, stacked, and start from zero again."""
        pending = torch.stack([self.owners.local(state["pending"]) for state in states])
        for state in states:
            state["ungated_steps"] = 0
            self.owners.local(state["pending"]).zero_()
            if interval == 1:  # after a larger interval in earlier steps
                del state["pending"], state["ungated_steps"]
        return pending

    def _adamw(
        self, parameters: list[Tensor], group: dict[str, Any], moved: list[Tensor] | None = None
    ) -> None:
        """Apply one AdamW step with the moments of `parameters` to these or to `moved`."""
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        local = self.owners.local
        adamw(
            moved or [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            fused=_is_fused(parameters[0]),
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
        """Create the state of a parameter if missing, with the step on the device of the kernel."""
        state = self.state[parameter]
        if not state:
            device = parameter.device if _is_fused(parameter) else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if _is_fused(parameter):
            state["step"] = state["step"].to(parameter.device)


def _stack(tensors: list[Tensor]) -> Tensor:
    """Stack the tensors along a new first axis; a single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _is_fused(parameter: Tensor) -> bool:
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
    """Build RGD from configuration settings: those of the class, with `learning_rate` for `lr`."""
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
