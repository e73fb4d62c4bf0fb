"""The parts of a run in the ablation grid, and the settings that define its experiment."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.overrides import BUDGET, is_among, matters_for_steps

SECTIONS = {
    "embedding": "model.embedding",
    "attention": "model.attention",
    "mlp": "model.mlp",
    "optimizer": "optimizer",
    "loss": "loss",
}
"""Part -> its section of the settings."""

PARTS = tuple(SECTIONS)
"""The axes of the ablation grid."""

# Class or function -> name in the grid.
_NAMES = {
    "StandardEmbedding": "standard",
    "WaveEmbedding": "wave",
    "DotProductAttention": "dot_product",
    "RotaryAttention": "rotary",
    "ALiBiAttention": "alibi",
    "NoPositionAttention": "no_positions",
    "InterferenceAttention": "interference",
    "PhasorAttention": "phasor",
    "PureWaveAttention": "pure_wave",
    "SwiGLU": "swiglu",
    "LayerNorm": "layernorm",
    "RMSNorm": "rmsnorm",
    "CrossEntropy": "cross_entropy",
    "QFE": "qfe",
    "build_adamw": "adamw",
    "build_rgd": "rgd",
    "build_muon": "muon",
}
# (n_embd, n_layer, n_head) -> name.
_SIZES = {(128, 4, 4): "tiny", (384, 8, 8): "small", (512, 10, 8): "medium", (768, 12, 12): "large"}

# Settings that may end training early or choose its final weights.
_ENDING = (
    "training.patience",
    "training.min_delta",
    "training.restore_best",
    "training.max_bad_steps",
)
# Settings of the machine change only rounding and time; comparisons use the recorded hardware.
_MACHINE = ("device", "threads")
_TARGET = "_target_"


def part_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return part -> name in the ablation grid for the known parts, and `size`."""
    found = {}
    for part, section in SECTIONS.items():
        if (name := component_name(settings, section)) is not None:
            found[part] = name
    shape = tuple(settings.get(f"model.{name}") for name in ("n_embd", "n_layer", "n_head"))
    try:
        size = _SIZES.get(shape)  # type: ignore[arg-type]
    except TypeError:  # a setting that is a list
        size = None
    return {**found, "size": size} if size else found


def component_name(settings: Mapping[str, Any], section: str) -> str | None:
    """Return the name of the component of a section, such as `rotary`, or None.

    The parts of this package have their names in `conf/`, other parts those of their classes.
    """
    target = settings.get(f"{section}.{_TARGET}")
    if not isinstance(target, str):
        return None
    name = printable(target.rpartition(".")[2])
    if not target.startswith("spectral_exp."):
        return name
    if name == "MLP":
        return printable(settings.get(f"{section}.activation", "gelu"))
    if name == "PureWaveAttention" and settings.get(f"{section}.mode") == "linear":
        return "pure_wave_linear"
    return _NAMES.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@functools.lru_cache(maxsize=4096)  # many runs share the same few hundred settings
def makes_another_experiment(setting: str) -> bool:
    """Return whether runs with different values of a setting are different experiments.

    That holds for settings that may change what training computes or when it ends, except for the
    seed and the machine.
    """
    if is_among(setting, ("seed", "name", *_MACHINE)):
        return False
    return matters_for_steps(setting) or is_among(setting, _ENDING)


def config_hash(settings: Mapping[str, Any]) -> str:
    """Return a hash (8 hexadecimal digits) of the settings that define the experiment.

    Return "" if there are no settings.
    """
    kept = {
        name: value
        for name, value in settings.items()
        # Runs that were recorded before these limits existed have none.
        if makes_another_experiment(name) and not (name in BUDGET and value is None)
    }
    if not settings:
        return ""
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
