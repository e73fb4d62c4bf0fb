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


UNSET = {"init_from": None, "init_optimizer": False, "init_partial": False}
"""Settings that older records lack, with the values that have no effect."""


def update_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which every part has its current name.

    Settings of `UNSET` without effect are left out, so that records of all versions are equal.
    """
    return {
        key: _rename(key, value)
        for key, value in config.items()
        if key not in UNSET or value is not UNSET[key]
    }


def _rename(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {inner: _rename(inner, item) for inner, item in value.items()}
    if isinstance(value, list):
        return [_rename("", item) for item in value]
    return RENAMED.get(value, value) if key == "_target_" and isinstance(value, str) else value
