"""Facts about a model that need no forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spectral_exp.monitoring.wrappers import unwrap

if TYPE_CHECKING:
    from torch import nn

# Field names under which models keep their width and depth, the most common first.
_WIDTH_NAMES = ("n_embd", "d_model", "hidden_size")
_DEPTH_NAMES = ("n_layer", "num_layers", "num_hidden_layers")


def summarize_model(model: nn.Module) -> dict[str, Any]:
    """Return class, parameter counts (shared ones once) and, if known, width, depth and cost.

    `parameters_by_component` is the model's own `parameters_by_component()` if it has one, else the
    count by top-level child. `flops_per_token` appears if the model has a method of that name.
    """
    model = unwrap(model)
    summary: dict[str, Any] = {
        "type": type(model).__name__,
        "num_parameters": sum(map(_size, model.parameters())),
        "num_trainable_parameters": sum(_size(p) for p in model.parameters() if p.requires_grad),
        "d_model": _attribute(model, _WIDTH_NAMES),
        "num_layers": _attribute(model, _DEPTH_NAMES),
        "parameters_by_component": _parameters_by_component(model),
    }
    if callable(flops := getattr(model, "flops_per_token", None)):
        summary["flops_per_token"] = flops()
    return {key: value for key, value in summary.items() if value is not None}


def summarize_models(models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return classes and parameter counts of models that are trained together, by their names.

    A parameter that several models share counts once in the sums.
    """
    parameters = {id(p): p for model in models.values() for p in model.parameters()}.values()
    return {
        "type": " + ".join(type(unwrap(model)).__name__ for model in models.values()),
        "num_parameters": sum(map(_size, parameters)),
        "num_trainable_parameters": sum(_size(p) for p in parameters if p.requires_grad),
        "parameters_by_component": {
            name: sum(map(_size, model.parameters())) for name, model in models.items()
        },
    }


def _parameters_by_component(model: nn.Module) -> dict[str, int]:
    if callable(own := getattr(model, "parameters_by_component", None)):
        return {str(name): int(count) for name, count in own().items()}
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[name.partition(".")[0]] += _size(parameter)
    return dict(counts)


def _size(parameter: nn.Parameter) -> int:
    """The number of elements; 0 of a parameter whose shape the first call decides."""
    from spectral_exp.monitoring.torch_private import is_lazy

    return 0 if is_lazy(parameter) else parameter.numel()


def _attribute(model: nn.Module, names: tuple[str, ...]) -> int | None:
    """The first integer found under one of `names`, on the model or on its `config`."""
    for owner in (model, getattr(model, "config", None)):
        for name in names:
            if isinstance(value := getattr(owner, name, None), int):
                return value
    return None
