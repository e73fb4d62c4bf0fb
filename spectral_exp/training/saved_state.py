"""What the checkpoints of a run hold: collected for a save, and put back when the run continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring.checkpoint.state import LiveState
from spectral_exp.training.seeding import restore_rng_state, rng_state
from spectral_exp.training.state import TrainState
from spectral_exp.training.step import Stepper
from spectral_exp.training.usage import Usage


@dataclass(frozen=True)
class SavedState:
    """The parts of a run whose state makes its remaining steps the same after a restart.

    Args:
        config: plain resolved configuration, stored with every checkpoint.
    """

    config: Mapping[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    state: TrainState
    usage: Usage
    stepper: Stepper
    ranks: Ranks

    def collect(self, is_best: bool) -> LiveState:
        """Return what a checkpoint of the current step holds."""
        self.stepper.read_reports()
        self.usage.flush()
        state = self.state
        extra = {
            "train_state": state.state_dict(),
            "usage": self.usage.state_dict(state.step, state.train_s),
            "loss_state_dict": self.loss.state_dict(),
            "rng_state": rng_state(),
            "speed_measured_at": self.stepper.speed_measured_at,
        }
        return LiveState(
            state.step, self.model, self.optimizer, state.loss_history, self.config, extra, is_best
        )

    def load(self, found: Mapping[str, Any]) -> None:
        """Load a checkpoint."""
        self.ranks.load(found, self.model, self.optimizer)
        self.loss.load_state_dict(found["loss_state_dict"])
        self.state.load_state_dict(found["train_state"], found["loss_history"])
        self.usage.load_state_dict(found.get("usage"), self.state.step, self.state.train_s)
        restore_rng_state(found["rng_state"])
        self.stepper.restart_speed()
        if "speed_measured_at" in found:  # else the run was begun by an earlier version
            self.stepper.speed_measured_at = found["speed_measured_at"]
