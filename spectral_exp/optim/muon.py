"""Muon for hidden matrices, AdamW for all other parameters.

Muon (Jordan et al. 2024) averages the gradients of a matrix and moves it along the orthogonal
matrix nearest to the average, which a few Newton-Schulz iterations approximate. Tables, the head,
wave parameters and vectors have no such direction of their own and follow AdamW.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from spectral_exp.core.errors import UserError, require
from spectral_exp.optim.adamw import Parameters, as_groups, build_adamw, check_adam
from spectral_exp.optim.eager import EagerOptimizer

RateScale: TypeAlias = Literal["match_rms_adamw", "original"]
RATE_SCALES = ("match_rms_adamw", "original")


class JoinedOptimizer(EagerOptimizer):
    """Several optimizers, each of parameters of its own, as one.

    Their groups are the groups of this optimizer, and their state is its state. So a schedule, a
    checkpoint or a clipping of gradients needs to know only this one.

    Args:
        parts: the optimizers, before their first step.

    Attributes:
        needs_whole_matrices: whether a part is torch's Muon, whose steps with the rows of several
            processes are not those with whole matrices.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        self.needs_whole_matrices = any(type(part).__name__ == "Muon" for part in parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; torch's method knows its own attributes alone."""
        return {
            **super().__getstate__(),
            "_parts": self._parts,
            "needs_whole_matrices": self.needs_whole_matrices,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, as `load_state_dict` does, and share it with the parts."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Give the parts their groups and the state of this optimizer."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

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
        for part in self._parts:
            inspect.unwrap(type(part).step)(part)
        return loss


def build_muon(
    params: Parameters,
    learning_rate: float = 1e-3,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    rate_scale: RateScale = "match_rms_adamw",
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> JoinedOptimizer:
    """Build torch's Muon for the matrices of role "hidden", joined with AdamW for the rest.

    Args:
        params: parameters or groups of them; a group's own settings take precedence. A group
            without a "role" counts as "hidden". Of a hidden group, the parameters that are no
            matrices form a group of their own, which AdamW updates.
        learning_rate: of both, > 0.
        momentum: decay of the average of gradients, >= 0 and < 1.
        nesterov: whether the update looks one gradient ahead of the average.
        ns_steps: Newton-Schulz iterations, from 1 to 99.
        rate_scale: factor on the rate of a matrix (R, C). "match_rms_adamw" is 0.2 sqrt(max(R, C)):
            updates are as large as AdamW's, which can keep its rate (Liu et al. 2025). "original"
            is sqrt(max(1, R / C)).
        betas, eps: of AdamW.
        weight_decay: of both, >= 0, decoupled from the gradient.

    Raises:
        UserError: this version of torch has no Muon.
    """
    check_adam("learning_rate", learning_rate, betas, eps, weight_decay)
    check_muon(momentum, ns_steps, rate_scale)
    matrices, others = _split(as_groups(params))
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        muon = torch.optim.Muon(
            matrices,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=rate_scale,
        )
        parts.append(muon)
    if others:
        parts.append(build_adamw(others, learning_rate, betas, eps, weight_decay))
    return JoinedOptimizer(parts)


def check_muon(momentum: float, ns_steps: int, rate_scale: RateScale) -> None:
    """Raise a SettingError for a setting out of range, or a UserError if torch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            f"optimizer: this torch ({torch.__version__}) has no Muon; install torch >= 2.9"
        )
    require(0 <= momentum < 1, "momentum", momentum, ">= 0 and < 1")
    require(1 <= ns_steps <= 99, "ns_steps", ns_steps, "between 1 and 99")
    require(rate_scale in RATE_SCALES, "rate_scale", rate_scale, " or ".join(RATE_SCALES))


def is_muon_matrix(parameter: Tensor, group: Mapping[str, Any]) -> bool:
    """Return whether Muon updates a parameter of a group: a matrix whose role is "hidden"."""
    return parameter.ndim == 2 and group.get("role", "hidden") == "hidden"


def rate_factor(shape: Sequence[int], rate_scale: RateScale) -> float:
    """Return the factor on the learning rate of a matrix of `shape`; see `build_muon`."""
    n_rows, n_columns = shape
    if rate_scale == "original":
        return math.sqrt(max(1, n_rows / n_columns))
    return 0.2 * math.sqrt(max(n_rows, n_columns))


def nearly_orthogonal(matrices: Tensor, ns_steps: int) -> Tensor:
    """Return what the iterations of torch's Muon make of matrices (N, R, C), in their type.

    The iterations compute in bfloat16.
    """
    # Not public, but it has the bits of torch's Muon, whatever its version.
    from torch.optim import _muon

    coefficients = _muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C
    results = [
        # It would change a bfloat16 matrix in place.
        _muon._zeropower_via_newtonschulz(matrix.clone(), coefficients, ns_steps, _muon.EPS)
        for matrix in matrices
    ]
    return torch.stack(results).to(matrices.dtype)


def _split(
    groups: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups for Muon and those for AdamW, in their order."""
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in groups:
        for is_matrix, target in ((True, matrices), (False, others)):
            chosen = [p for p in group["params"] if is_muon_matrix(p, group) is is_matrix]
            if chosen:
                target.append({**group, "params": chosen})
    return matrices, others
