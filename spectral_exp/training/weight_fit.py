"""Compare weights from elsewhere with a model and an optimizer, and load those that fit."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectral_exp.core.wording import format_count
from spectral_exp.runs.parentage import short_list

_MAX_NAMES = 5
_MAX_CANDIDATES = 500


@dataclass(frozen=True)
class WeightFit:
    """Which weights fit a model; names are those of its `state_dict`.

    Attributes:
        loaded: names that are loaded.
        missing: names of the model without weights; parameters that share their memory with a
            loaded one are not missing.
        unexpected: names of weights that the model does not have.
        misfits: name -> why its weights do not fit.
        unusable: problems that no partial loading solves, one line each.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misfits: Mapping[str, str]
    unusable: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether everything is loaded, and everything is used."""
        return not (self.missing or self.unexpected or self.misfits)

    @property
    def not_loaded(self) -> list[str]:
        """The names of the model that keep their initial values."""
        return [*self.missing, *self.misfits]

    def problems(self) -> list[str]:
        """Return why the weights do not fit completely, one line each."""
        found = []
        if self.missing:
            found.append(
                f"{format_count(len(self.missing), 'parameter')} of the model "
                f"{_verb(self.missing)} missing there: {short_list([*self.missing], _MAX_NAMES)}"
            )
        if self.unexpected:
            names = short_list([*self.unexpected], _MAX_NAMES)
            found.append(
                f"{format_count(len(self.unexpected), 'parameter')} there "
                f"{_verb(self.unexpected)} not in the model: {names}"
                f"{_nearest_pairs(self.unexpected, self.missing)}"
            )
        if self.misfits:
            shown = [f"{name} ({reason})" for name, reason in self.misfits.items()]
            found.append(
                f"{format_count(len(self.misfits), 'parameter')} "
                f"{'differs' if len(self.misfits) == 1 else 'differ'}: "
                + "; ".join(shown[:_MAX_NAMES])
                + (f" and {len(shown) - _MAX_NAMES} more" if len(shown) > _MAX_NAMES else "")
            )
        return found


def fit_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], skipped: Mapping[str, str]
) -> WeightFit:
    """Compare weights with a model, of which only names, shapes and types are used.

    Args:
        model: without wrappers.
        weights: name -> tensor on the CPU.
        skipped: names that must not be loaded, with the reason.
    """
    own: dict[str, Any] = model.state_dict(keep_vars=True)
    misfits = {name: reason for name, reason in skipped.items() if name in own and name in weights}
    for name in own.keys() & weights.keys() - misfits.keys():
        if reason := _misfit(own[name], weights[name]):
            misfits[name] = reason
    fitting = [name for name in own if name in weights and name not in misfits]
    unusable = []
    if not_finite := [name for name in fitting if _lost_values(own[name], weights[name])]:
        unusable.append(
            f"{format_count(len(not_finite), 'parameter')} there "
            f"{'holds' if len(not_finite) == 1 else 'hold'} values that are not finite: "
            f"{short_list(not_finite, _MAX_NAMES)}; choose the checkpoint of an earlier step"
        )
    loaded: dict[int, str] = {}
    for name in fitting:
        first = loaded.setdefault(id(own[name]), name)
        if first != name and not torch.equal(weights[first], weights[name]):
            unusable.append(
                f"{first} and {name} share their memory in the model (model.tie_weights=true) and "
                "differ there; set model.tie_weights=false"
            )
    kept = {id(own[name]) for name in misfits}
    missing = [
        name
        for name in own
        if name not in weights and id(own[name]) not in loaded and id(own[name]) not in kept
    ]
    return WeightFit(
        loaded=tuple(fitting),
        missing=tuple(missing),
        unexpected=tuple(name for name in weights if name not in own),
        misfits={name: misfits[name] for name in own if name in misfits},
        unusable=tuple(unusable),
    )


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], fit: WeightFit) -> None:
    """Load the weights that fit; they are converted to the types and the device of the model."""
    model.load_state_dict({name: weights[name] for name in fit.loaded}, strict=False)


def optimizer_problem(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str | None:
    """Return why the state of another optimizer does not fit `optimizer`, or None if it does."""
    groups, states = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(states, Mapping):
        return "it is not the state of an optimizer"
    if not all(isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in groups):
        return "its groups of parameters are damaged"
    there = [(len(group["params"]), group.get("role")) for group in groups]
    here = [(len(group["params"]), group.get("role")) for group in optimizer.param_groups]
    if there != here:
        return f"its groups hold {_sizes(there)} parameters, and those of this run {_sizes(here)}"
    numbers = [number for group in groups for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if numbers != list(range(len(parameters))) or not set(states) <= set(numbers):
        return "its numbers of parameters are damaged"
    for number, entries in states.items():
        shape = parameters[number].shape
        if not isinstance(entries, Mapping) or not all(
            _fits_parameter(value, shape) for value in entries.values()
        ):
            return f"its entries for parameter {number} do not have the shape {tuple(shape)}"
    return None


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load moments and step counts, but not the settings: those of this run apply."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _misfit(own: torch.Tensor, given: torch.Tensor) -> str:
    """Return why a weight does not fit, or "" if it does."""
    if own.shape != given.shape:
        return f"shape {tuple(given.shape)} there, {tuple(own.shape)} here"
    if own.dtype != given.dtype and not (own.is_floating_point() and given.is_floating_point()):
        return f"type {_type_name(given)} there, {_type_name(own)} here"
    return ""


def _lost_values(own: torch.Tensor, given: torch.Tensor) -> bool:
    """Return whether a parameter would get values that are not finite."""
    if not isinstance(own, nn.Parameter) or not own.is_floating_point():
        return False
    return not bool(torch.isfinite(given.to(own.dtype)).all())


def _nearest_pairs(unexpected: Sequence[str], missing: Collection[str]) -> str:
    """Return "; is X the model's Y?" for the first unexpected name like a missing one, or ""."""
    candidates = list(missing)[:_MAX_CANDIDATES]
    for name in unexpected[:_MAX_NAMES]:
        if len(name) < 200 and (found := difflib.get_close_matches(name, candidates, n=1)):
            return f"; is {name} the model's {found[0]}?"
    return ""


def _fits_parameter(value: object, shape: torch.Size) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 or value.shape == shape
    return value is None or isinstance(value, int | float)


def _sizes(groups: Iterable[tuple[int, object]]) -> str:
    return ", ".join(str(count) for count, _ in groups)


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
