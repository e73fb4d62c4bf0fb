"""What the settings of a run mean: its point of the ablation grid, and which of them make another experiment."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.overrides import is_among, matters_for_steps

SECTIONS = {
    "embedding": "model.embedding",
    "attention": "model.attention",
    "mlp": "model.mlp",
    "optimizer": "optimizer",
    "loss": "loss",
}
"""Where each part of the grid is set."""

PARTS = tuple(SECTIONS)
"""The axes of the ablation grid."""

# What the classes of the parts are called there, with the settings that tell variants apart.
_NAMES = {
    "StandardEmbedding": "standard",
    "WaveEmbedding": "wave",
    "DotProductAttention": "dot_product",
    "RotaryAttention": "rotary",
    "InterferenceAttention": "interference",
    "PhasorAttention": "phasor",
    "PureWaveAttention": "pure_wave",
    "CrossEntropy": "cross_entropy",
    "QFE": "qfe",
    "build_adamw": "adamw",
    "build_rgd": "rgd",
}
# n_embd, n_layer, n_head, by which a size is known; a matched width is in the model's record, not in the settings.
_SIZES = {(128, 4, 4): "tiny", (384, 8, 8): "small", (512, 10, 8): "medium", (768, 12, 12): "large"}

# Of the settings around training, those that may end it early, and with which weights.
_ENDING = ("training.patience", "training.min_delta", "training.restore_best", "training.max_bad_steps")
# The machine's, which change nothing but rounding and time. Comparisons look at the hardware that was recorded.
_MACHINE = ("device", "threads")
_TARGET = "_target_"


def part_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """The chosen parts by the names of the ablation grid, and `size`, as far as the settings tell them."""
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
    """What the component of a section is called: `rotary` for `model.attention`; None where none is chosen.

    Parts of this package have their names from `conf/`, others those of their classes.
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


@functools.lru_cache(maxsize=4096)  # many runs have the same few hundred
def makes_another_experiment(setting: str) -> bool:
    """Whether runs with different values of a setting are different experiments, rather than repetitions of one.

    Everything that may change what training computes or when it ends does, but the seed, the name, places, what
    watches training, and the machine.
    """
    if is_among(setting, ("seed", "name", *_MACHINE)):
        return False
    return matters_for_steps(setting) or is_among(setting, _ENDING)


def config_hash(settings: Mapping[str, Any]) -> str:
    """8 hexadecimal digits that stand for the settings which make the experiment; "" without settings."""
    kept = {name: value for name, value in settings.items() if makes_another_experiment(name)}
    if not settings:
        return ""
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
