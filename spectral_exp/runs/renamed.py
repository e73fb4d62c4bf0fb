"""Former names of parts in the records of older versions, and their current names.

Every public name that a configuration may hold stays valid: add an entry here when you move or
rename a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "spectral_exp.losses.cross_entropy.CrossEntropy": "spectral_exp.losses.CrossEntropy",
    "spectral_exp.losses.qfe.QFE": "spectral_exp.losses.QFE",
    "spectral_exp.models.attention.DotProductAttention": "spectral_exp.models.DotProductAttention",
    "spectral_exp.models.attention.InterferenceAttention": (
        "spectral_exp.models.InterferenceAttention"
    ),
    "spectral_exp.models.attention.PhasorAttention": "spectral_exp.models.PhasorAttention",
    "spectral_exp.models.attention.RotaryAttention": "spectral_exp.models.RotaryAttention",
    "spectral_exp.models.embedding.StandardEmbedding": "spectral_exp.models.StandardEmbedding",
    "spectral_exp.models.gpt.GPT": "spectral_exp.models.GPT",
    "spectral_exp.models.gpt.MLP": "spectral_exp.models.MLP",
    "spectral_exp.models.pure_wave.PureWaveAttention": "spectral_exp.models.PureWaveAttention",
    "spectral_exp.models.wave.WaveEmbedding": "spectral_exp.models.WaveEmbedding",
    "spectral_exp.optim.adamw.adamw": "spectral_exp.optim.build_adamw",
    "spectral_exp.optim.rgd.rgd": "spectral_exp.optim.build_rgd",
    "spectral_exp.optim.schedule.Constant": "spectral_exp.optim.Constant",
    "spectral_exp.optim.schedule.Cosine": "spectral_exp.optim.Cosine",
    "spectral_exp.optim.schedule.Linear": "spectral_exp.optim.Linear",
    "spectral_exp.optim.schedule.WarmupStableDecay": "spectral_exp.optim.WarmupStableDecay",
    "spectral_exp.runner.TrainingSettings": "spectral_exp.training.TrainingSettings",
}


# Settings that older records lack, with their defaults: of a run, and of parts by their name.
_RUN_DEFAULTS = {"init_from": None, "init_optimizer": False, "init_partial": False}
_PART_DEFAULTS: dict[str, dict[str, Any]] = {
    "spectral_exp.losses.CrossEntropy": {"z_loss": 0.0},
    "spectral_exp.losses.QFE": {"z_loss": 0.0},
    "spectral_exp.models.GPT": {
        "embedding_norm": False,
        "logit_softcap": None,
        "norm": {"_target_": "spectral_exp.models.LayerNorm", "_partial_": True},
        "qk_norm": False,
    },
    "spectral_exp.models.RotaryAttention": {"base": 10000.0, "frequencies": "fixed"},
}


def update_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which every part has its current name.

    Settings that older records lack are left out if they have their defaults, so that the records
    of all versions are equal.
    """
    return _update(config, _RUN_DEFAULTS)


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
        part = _rename("_target_", value.get("_target_"))
        return _update(value, _PART_DEFAULTS.get(part, {}) if isinstance(part, str) else {})
    if isinstance(value, list):
        return [_rename("", item) for item in value]
    return RENAMED.get(value, value) if key == "_target_" and isinstance(value, str) else value
