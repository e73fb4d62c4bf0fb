"""The training loop of a run: its steps, settings, state, validation and results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_exp.training.runner import Runner as Runner
    from spectral_exp.training.settings import TrainingSettings as TrainingSettings

_HOMES = {"Runner": "runner", "TrainingSettings": "settings"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the runner needs torch, the settings do not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
