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

    max_steps: int | None = 1200
    max_tokens: int | None = None
    max_flops: float | None = None
    max_train_s: float | None = None
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
        for name in ("batch_size", "grad_accum_steps", "max_bad_steps", "eval_interval"):
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        for name in ("grad_clip", "min_delta", "sample_tokens", "profile_steps"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        for name in ("max_steps", "max_tokens", "eval_windows", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, ">= 1 or null")
        for name in ("max_flops", "max_train_s"):
            value = getattr(self, name)
            is_allowed = value is None or (math.isfinite(value) and value > 0)
            require(is_allowed, name, value, "a finite number > 0, or null")
        is_limited = any(limit is not None for limit in self._limits())
        others = "a number, or null with max_tokens, max_flops or max_train_s"
        require(is_limited, "max_steps", "null", others)
        last_step = self.max_steps or math.inf
        fits = self.profile_steps == 0 or self.profile_steps + UNDISTURBED_STEPS <= last_step
        room = f"at most max_steps - {UNDISTURBED_STEPS}"
        require(fits, "profile_steps", self.profile_steps, room, "the first steps are not recorded")
        require(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32 or bf16")
        unknown = sorted(set(self.stop_signals) - set(CATCHABLE))
        require(
            not unknown, "stop_signals", ", ".join(unknown), f"a list of {', '.join(CATCHABLE)}"
        )
        require(self.sample_prompt != "", "sample_prompt", "''", "at least one character, or null")

    def _limits(self) -> tuple[float | None, ...]:
        return self.max_steps, self.max_tokens, self.max_flops, self.max_train_s
