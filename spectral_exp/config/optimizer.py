"""Build the optimizer of a model: names of settings, and settings of single roles."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from spectral_exp.config.construct import Constructor
from spectral_exp.config.roles import NotAPartError, Role
from spectral_exp.core.errors import nearest
from spectral_exp.models.gpt import ROLES
from spectral_exp.optim.trial import stand_ins, try_step

ROLE = Role(torch.optim.Optimizer, "spectral_exp.optim", torch_home="torch.optim")

_GROUP_SETTINGS = {"learning_rate": "lr", "weight_decay": "weight_decay"}
"""Setting of a role -> its name in a parameter group of torch."""


def make_optimizer(config: Mapping[str, Any], model: Any, make: Constructor, trial: bool) -> Any:
    """Build the optimizer of all parameters of `model`.

    On trial, an optimizer with the same settings also takes a step with small parameters.
    """
    node = config.get("optimizer")
    by_role: Any = {}
    if isinstance(node, Mapping):
        by_role = node.get("roles") or {}
        node = _rename_rate(make, {name: value for name, value in node.items() if name != "roles"})
    # The settings of the optimizer are checked even if the model has a mistake.
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "role": "hidden"}]
    if model is not None:
        groups = model.parameter_groups()
        _set_roles(groups, by_role, make)
    optimizer = make.make(node, "optimizer", ROLE, params=groups)
    if trial and optimizer is not None and model is not None:
        tried = make.make(node, "optimizer", ROLE, params=stand_ins(groups))
        make.call("optimizer", lambda: try_step(tried))
    return optimizer


def build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of `model`, as training builds it.

    Raises:
        UserError: the configuration of the optimizer has a mistake.
    """
    make = Constructor(config)
    optimizer = make_optimizer(config, model, make, False)
    make.finish()
    return cast(torch.optim.Optimizer, optimizer)


def _rename_rate(make: Constructor, node: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with `learning_rate` as `lr` if the optimizer calls it so, as torch does.

    Recipes, experiments and the command line can then set `optimizer.learning_rate` of every
    optimizer, which replaces an `lr` of its own configuration file.
    """
    try:
        accepted = inspect.signature(ROLE.find(str(node.get("_target_")), make.packages)).parameters
    except (NotAPartError, ValueError):
        return node  # reported when the optimizer is built
    if "learning_rate" in node and "learning_rate" not in accepted and "lr" in accepted:
        others = {name: value for name, value in node.items() if name != "learning_rate"}
        return {**others, "lr": node["learning_rate"]}
    return node


def _set_roles(groups: list[dict[str, Any]], by_role: Any, make: Constructor) -> None:
    """Write the settings of `optimizer.roles` into the groups of their roles."""
    if not isinstance(by_role, Mapping):
        make.problems.append(f"optimizer.roles={by_role} must be settings of roles, or empty")
        return
    present = {group["role"]: group for group in groups}
    for role, settings in by_role.items():
        where = f"optimizer.roles.{role}"
        if role not in ROLES:
            make.problems.append(
                f"{where} is not a role{nearest(str(role), ROLES)}; choose from {', '.join(ROLES)}"
            )
        elif role not in present:
            has = ", ".join(present)
            make.problems.append(f"{where} has no parameters in this model, which has {has}")
        elif not isinstance(settings, Mapping):
            make.problems.append(f"{where}={settings} must set {' or '.join(_GROUP_SETTINGS)}")
        else:
            for name, value in settings.items():
                problem = _problem(name, value)
                if problem:
                    make.problems.append(f"{where}.{name}{problem}")
                else:
                    present[role][_GROUP_SETTINGS[name]] = float(value)


def _problem(name: str, value: Any) -> str:
    """Return the end of a message about a setting of a role, or ""."""
    if name not in _GROUP_SETTINGS:
        return f" is not a setting of a role; choose from {', '.join(_GROUP_SETTINGS)}"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "learning_rate" and not (is_number and 0 < value < math.inf):
        return f"={value} must be a number > 0"
    if not (is_number and 0 <= value < math.inf):
        return f"={value} must be a number >= 0"
    return ""
