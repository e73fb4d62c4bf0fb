"""Adapters of tracker libraries, each of which is imported only if it is used."""

from __future__ import annotations

import importlib

from spectral_exp.monitoring.companion.trackers.base import Tracker

_CLASSES = {
    "tensorboard": "TensorBoard",
    "wandb": "Wandb",
    "mlflow": "Mlflow",
    "trackio": "Trackio",
}


def make_tracker(kind: str, where: str) -> Tracker:
    """Return the tracker of a kind; nothing is opened yet."""
    module = importlib.import_module(f"{__name__}.{kind}")
    tracker: Tracker = getattr(module, _CLASSES[kind])(where)
    return tracker
