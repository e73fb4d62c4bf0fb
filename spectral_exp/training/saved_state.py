"""What the checkpoints of a run hold: collected for a save, and put back when the run continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectral_exp.monitoring.checkpoint.state import LiveState
from spectral_exp.training.seeding import restore_rng_state, rng_state
from spectral_exp.training.step import Stepper


@dataclass(frozen=True)
class SavedState:
    """The parts of a run whose state makes its remaining steps the same after a restart.

    Args:
        config: plain resolved configuration, stored with every checkpoint.
        model, optimizer, loss: as checkpoints name their entries: whole, and not wrapped.
        stepper: with the state and the usage that its steps change.
    """

    config: Mapping[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    stepper: Stepper

    def collect(self, is_best: bool) -> LiveState:
        """Return what a checkpoint of the current step holds."""
        self.stepper.read_reports()
        state, usage = self.stepper.state, self.stepper.usage
        usage.flush()
        extra = {
            "train_state": state.state_dict(),
            "usage": usage.state_dict(state.step, state.train_s),
            "loss_state_dict": self.loss.state_dict(),
            "rng_state": rng_state(),
            "speed_measured_at": self.stepper.speed_measured_at,
        }
        return LiveState(
            state.step, self.model, self.optimizer, state.loss_history, self.config, extra, is_best
        )

    def load(self, found: Mapping[str, Any]) -> None:
        """Load a checkpoint."""
        state = self.stepper.state
        self.stepper.ranks.load(found, self.model, self.optimizer)
        self.loss.load_state_dict(found["loss_state_dict"])
        state.load_state_dict(found["train_state"], found["loss_history"])
        self.stepper.usage.load_state_dict(found.get("usage"), state.step, state.train_s)
        restore_rng_state(found["rng_state"])
        self.stepper.restart_speed()
        if "speed_measured_at" in found:  # else the run was begun by an earlier version
            self.stepper.speed_measured_at = found["speed_measured_at"]
