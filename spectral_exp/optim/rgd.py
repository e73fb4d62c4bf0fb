"""Resonant Gradient Descent (RGD): an update filtered in the frequency domain.

The filter (`gate`) passes the frequencies that a parameter and the direction U of its update share.
U is Adam's m_hat / (sqrt(v_hat) + eps), or for hidden matrices Muon's nearly orthogonal matrix.
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
from spectral_exp.optim.gate import gated_directions, resonance_strength_at
from spectral_exp.optim.matrix_updates import MatrixOwners, MatrixUpdate, SoleOwner
from spectral_exp.optim.muon import (
    RateScale,
    check_muon,
    is_muon_matrix,
    nearly_orthogonal,
    rate_factor,
)

Gate: TypeAlias = Literal["none", "channels", "both"]
GATES = ("none", "channels", "both")

Direction: TypeAlias = Literal["adam", "muon"]
DIRECTIONS = ("adam", "muon")

# Roles whose first axis indexes tokens, which have no meaningful order.
TABLE_ROLES = ("embedding", "head", "wave")

# Numbers per call of the gate.
_CPU_BATCH = 2**18
_GPU_BATCH = 2**24


class RGD(EagerOptimizer):
    """Resonant Gradient Descent: parameters follow directions that `gate` filters.

    Parameters of fewer than two dimensions are updated by plain AdamW. With `gate_every` = k > 1
    only every k-th step computes transforms. The unfiltered part (1 - alpha) U is applied in every
    step. The part alpha U accumulates; every k-th step filters and applies the sum. k = 1 is the
    definition.

    Args:
        params: parameters or groups of them; a group's own settings take precedence. A group's
            "role" (default "hidden") selects its gate: "embedding", "head" and "wave" follow
            `gate_embeddings`, all other matrices are gated along both axes.
        lr: learning rate, >= 0.
        betas: decay of Adam's mean and mean square of gradients, each >= 0 and < 1.
        eps: > 0, added to the root of the mean square.
        weight_decay: >= 0, decoupled from the gradient.
        resonance_strength: between 0, which is AdamW or Muon without transforms, and 1.
        warmup_steps: steps over which the strength grows from 0, >= 0.
        gate_embeddings: "none" leaves tables ungated; "channels" gates each token's vector
            independently; "both" gates a table like any other matrix.
        gate_every: k, >= 1.
        direction: "adam", or "muon" for the matrices that `build_muon` gives to Muon. All other
            parameters follow Adam. Muon needs k = 1 and cannot step conditionally.
        momentum, nesterov, ns_steps, rate_scale: of Muon, as for `build_muon`.

    Attributes:
        owners: where matrices are gated. On several processes each batch of matrices that one
            process gates in one call is gated by one of them, so the bits are the same.
    """

    owners: MatrixOwners = SoleOwner()

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        resonance_strength: float = 0.3,
        warmup_steps: int = 500,
        gate_embeddings: Gate = "none",
        gate_every: int = 1,
        direction: Direction = "adam",
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        rate_scale: RateScale = "match_rms_adamw",
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
        if direction != "adam":
            defaults["direction"] = direction
        # Only of groups that follow Muon; groups and checkpoints of Adam have none.
        self._muon_settings = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "rate_scale": rate_scale,
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
        direction = group.get("direction", "adam")
        require(direction in DIRECTIONS, "direction", direction, " or ".join(DIRECTIONS))
        if direction == "muon":
            param_group = {**self._muon_settings, **param_group}
            group |= param_group
            check_muon(group["momentum"], group["ns_steps"], group["rate_scale"])
            remedy = "Muon's directions take much longer than their gate"
            is_usual = group["gate_every"] == 1
            require(is_usual, "gate_every", group["gate_every"], "1 with direction=muon", remedy)
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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; torch's method knows its own attributes alone."""
        return {
            **super().__getstate__(),
            "_muon_settings": self._muon_settings,
            "_resonance": self._resonance,
            "_finite": self._finite,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state, and the last mean of rho as `resonance`, if there is one."""
        return {**super().state_dict(), **self.metrics()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, of which `resonance` may be missing."""
        super().load_state_dict(state_dict)
        self._resonance = state_dict.get("resonance")

    @property
    def can_step_conditionally(self) -> bool:
        """Whether `step_if` is supported: Adam's fused kernels only, and `gate_every` is 1."""
        return all(
            group["gate_every"] == 1
            and all(_is_fused(p) and not _follows_muon(p, group) for p in group["params"])
            for group in self.param_groups
        )

    def step_if(self, finite: Tensor) -> None:
        """Step only if `finite`, a 0-dimensional bool on the device of the parameters, is true.

        The host does not synchronize with the device. The resonance is NaN before the first
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
            self._prepare(parameter, group)
        gated = [p for p in parameters if uses_gate and p.ndim >= 2]
        ungated = [p for p in parameters if not uses_gate or p.ndim < 2]
        self._adamw([p for p in ungated if not _follows_muon(p, group)], group)
        self._muon([p for p in ungated if _follows_muon(p, group)], group)
        means = []
        requests = self._gate_updates(self._batches(gated), group, both_axes=gate == "both")
        for request, updates, rho in self._compute(requests):
            torch._foreach_sub_([self.owners.local(p) for p in request.parameters], list(updates))
            means.append(rho)
        return means

    def _compute(
        self, requests: Iterable[MatrixUpdate]
    ) -> Iterator[tuple[MatrixUpdate, Tensor, Tensor]]:
        """Yield each request with its update and its numbers.

        With one process, an update can be applied before the next is requested.
        """
        requests, passed_on = tee(requests)
        for request, result in zip(requests, self.owners.compute(passed_on), strict=True):
            yield request, *result

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
            shares = [self.owners.local(p) for p in batch]
            follows_muon = _follows_muon(batch[0], group)
            if follows_muon:
                directions = self._averages(batch, group)
            else:
                directions = self._directions(batch, group)
            steps = torch.stack([state["step"] for state in states])
            alpha = resonance_strength_at(steps, group["resonance_strength"], group["warmup_steps"])
            lr, interval = group["lr"], group["gate_every"]
            rate = lr if self._finite is None else lr * self._finite.double()
            torch._foreach_mul_(shares, 1 - rate * group["weight_decay"])
            if follows_muon:
                rate = rate * rate_factor(batch[0].shape, group["rate_scale"])
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
            if follows_muon:
                gate = partial(_gate_orthogonal, gate=gate, ns_steps=group["ns_steps"])
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

    def _averages(self, batch: list[Tensor], group: dict[str, Any]) -> Tensor:
        """Update Muon's averages of a batch and return what is to be orthogonalized, stacked."""
        averages = []
        for p in batch:
            assert p.grad is not None
            state = self.state[p]
            state["step"] += 1
            gradient, average = map(self.owners.local, (p.grad, state["momentum_buffer"]))
            average.lerp_(gradient, 1 - group["momentum"])
            if group["nesterov"]:
                average = gradient.lerp(average, group["momentum"])
            averages.append(average)
        return _stack(averages)

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Apply one step of Muon, with the bits of torch's."""
        for request, updates, _ in self._compute(self._orthogonal_updates(parameters, group)):
            # One multiply-add, as in torch: a product of its own would be rounded twice.
            factor = rate_factor(request.parameters[0].shape, group["rate_scale"])
            for p, update in zip(request.parameters, updates, strict=True):
                self.owners.local(p).add_(update, alpha=-(float(group["lr"]) * factor))

    def _orthogonal_updates(
        self, parameters: list[Tensor], group: dict[str, Any]
    ) -> Iterator[MatrixUpdate]:
        """Update Muon's averages, decay the parameters, and yield what is to be orthogonalized."""
        for batch in self._batches(parameters):
            averages = self._averages(batch, group)
            for p in batch:
                self.owners.local(p).mul_(1 - group["lr"] * group["weight_decay"])
            compute = partial(_orthogonalize, ns_steps=group["ns_steps"])
            yield MatrixUpdate(batch, (averages,), compute)

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

    def _prepare(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Create the state of a parameter if missing, with the step on the device of the kernel."""
        state = self.state[parameter]
        if not state:
            device = parameter.device if _is_fused(parameter) else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            is_muon = _follows_muon(parameter, group)
            for name in ("momentum_buffer",) if is_muon else ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if _is_fused(parameter):
            state["step"] = state["step"].to(parameter.device)


def _stack(tensors: list[Tensor]) -> Tensor:
    """Stack the tensors along a new first axis; a single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _is_fused(parameter: Tensor) -> bool:
    return parameter.device.type in FUSED_DEVICES


def _follows_muon(parameter: Tensor, group: dict[str, Any]) -> bool:
    return group.get("direction") == "muon" and is_muon_matrix(parameter, group)


def _gate_orthogonal(
    parameters: Tensor,
    averages: Tensor,
    gate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ns_steps: int,
) -> tuple[Tensor, Tensor]:
    """Return the gated directions of Muon and the means of rho; see `MatrixUpdate.compute`."""
    return gate(parameters, nearly_orthogonal(averages, ns_steps))


def _orthogonalize(averages: Tensor, ns_steps: int) -> tuple[Tensor, Tensor]:
    """Return the directions of Muon, and zeros instead of means; see `MatrixUpdate.compute`."""
    directions = nearly_orthogonal(averages, ns_steps)
    return directions, directions.new_zeros(len(directions))


def build_rgd(
    params: Parameters,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    resonance_strength: float = 0.3,
    warmup_steps: int = 500,
    gate_embeddings: Gate = "none",
    gate_every: int = 1,
    direction: Direction = "adam",
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    rate_scale: RateScale = "match_rms_adamw",
) -> RGD:
    """Build RGD from configuration settings: those of the class, with `learning_rate` for `lr`.

    Raises:
        UserError: `direction` is "muon", and this version of torch has no Muon.
    """
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
        direction=direction,
        momentum=momentum,
        nesterov=nesterov,
        ns_steps=ns_steps,
        rate_scale=rate_scale,
    )
