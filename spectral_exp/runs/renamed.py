"""Former names of parts in the records of older versions, and their current names.

Every public name that a configuration may hold stays valid: add an entry to `renamed.json` when you
move or rename a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from spectral_exp.runs.overrides import flatten

RENAMED: dict[str, str] = json.loads(
    (resources.files(__package__) / "renamed.json").read_text(encoding="utf-8")
)


# Settings that older records lack, with their defaults: of a run, and of parts by their name.
_RUN_DEFAULTS = {"init_from": None, "init_optimizer": False, "init_partial": False}
_RGD = "spectral_exp.optim.build_rgd"
_PART_DEFAULTS: dict[str, dict[str, Any]] = {
    "spectral_exp.losses.CrossEntropy": {"z_loss": 0.0},
    "spectral_exp.losses.QFE": {"z_loss": 0.0},
    "spectral_exp.models.GPT": {
        "embedding_norm": False,
        "logit_softcap": None,
        "norm": {"_target_": "spectral_exp.models.LayerNorm", "_partial_": True},
        "qk_norm": False,
    },
    "spectral_exp.models.PhasorAttention": {"frequencies": "learned"},
    "spectral_exp.models.RotaryAttention": {"base": 10000.0, "frequencies": "fixed"},
    _RGD: {
        "direction": "adam",
        "momentum": 0.95,
        "nesterov": True,
        "ns_steps": 5,
        "rate_scale": "match_rms_adamw",
    },
}


# Settings whose defaults have changed, with the former ones.
_FORMER_DEFAULTS: dict[str, dict[str, Any]] = {
    _RGD: {"betas": [0.9, 0.999], "weight_decay": 0.01},
}


def former_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return setting -> value for the recorded settings that have a default of an older version."""
    optimizer = update_names(config).get("optimizer")
    node = optimizer if isinstance(optimizer, Mapping) else {}
    former = _FORMER_DEFAULTS.get(str(node.get("_target_")), {})
    return {f"optimizer.{name}": value for name, value in former.items() if node.get(name) == value}


def update_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which every part has its current name.

    Settings that older records lack are left out if they have their defaults, so that the records
    of all versions are equal.
    """
    return _update(config, _RUN_DEFAULTS)


def left_out_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that `update_names` leaves out of a run's, with their defaults.

    Args:
        settings: dotted name -> value.
    """
    found = dict(_RUN_DEFAULTS) if "training._target_" in settings else {}
    for name, part in settings.items():
        if not name.endswith("._target_"):
            continue
        section = name.removesuffix("._target_")
        direction = settings.get(f"{section}.direction", "adam")
        for key, default in _defaults_of({"_target_": part, "direction": direction}).items():
            found |= flatten(default, f"{section}.{key}")
    return {
        name: default
        for name, default in found.items()
        if name not in settings and name.removesuffix("._partial_") + "._target_" not in settings
    }


def _update(node: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _rename(key, value)
        for key, value in node.items()
        if key not in defaults or not _are_equal(value, defaults[key])
    }


def _are_equal(value: Any, default: Any) -> bool:
    # 10000 is 10000.0, but 0 is not false.
    return bool(value == default) and isinstance(value, bool) is isinstance(default, bool)


def _rename(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _update(value, _defaults_of(value))
    if isinstance(value, list):
        return [_rename("", item) for item in value]
    return RENAMED.get(value, value) if key == "_target_" and isinstance(value, str) else value


def _defaults_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    part = _rename("_target_", node.get("_target_"))
    if part == _RGD and node.get("direction", "adam") != "adam":
        return {}  # its settings of Muon have a meaning
    return _PART_DEFAULTS.get(part, {}) if isinstance(part, str) else {}
