"""The settings of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spectral_exp.core.errors import require
from spectral_exp.core.signals import CATCHABLE, STOP_SIGNALS
from spectral_exp.training.profiling import UNDISTURBED_STEPS


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of training; conf/training/default.yaml explains each."""

    max_steps: int = 1200
    batch_size: int = 16
    grad_accum_steps: int = 1
    grad_clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    deterministic: bool = False
    max_bad_steps: int = 10
    eval_interval: int = 200
    eval_windows: int | None = 128
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = True
    sample_tokens: int = 128
    sample_prompt: str | None = None
    overfit_one_batch: bool = False
    profile_steps: int = 0
    stop_signals: tuple[str, ...] = STOP_SIGNALS

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "batch_size",
            "grad_accum_steps",
            "max_bad_steps",
            "eval_interval",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        for name in ("grad_clip", "min_delta", "sample_tokens", "profile_steps"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        for name in ("eval_windows", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, ">= 1 or null")
        fits = self.profile_steps == 0 or self.profile_steps + UNDISTURBED_STEPS <= self.max_steps
        room = f"at most max_steps - {UNDISTURBED_STEPS}"
        require(fits, "profile_steps", self.profile_steps, room, "the first steps are not recorded")
        require(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32 or bf16")
        unknown = sorted(set(self.stop_signals) - set(CATCHABLE))
        require(
            not unknown, "stop_signals", ", ".join(unknown), f"a list of {', '.join(CATCHABLE)}"
        )
        require(self.sample_prompt != "", "sample_prompt", "''", "at least one character, or null")
