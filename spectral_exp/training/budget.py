"""The budget of training: limits in steps, tokens, FLOPs and seconds, of which the first one ends a
run.

All limits but that in seconds are numbers of steps, which are known before training begins. A run
with such a budget is repeated and continued exactly. With a limit in seconds the last step depends
on the machine, and so do the learning rates of a schedule that follows the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spectral_exp.training.contracts import Schedule

_STEPS_OF_TIME = 10**9
"""The length of a schedule, in steps, if only seconds limit the run."""


@dataclass(frozen=True)
class Budget:
    """When training ends: after the first step that reaches a limit.

    Attributes:
        max_steps: optimizer steps; None is no limit, as below.
        max_tokens: tokens that steps read, over all processes, those of skipped steps included.
        max_flops: floating-point operations of training.
        max_train_s: seconds of training steps, over all attempts.
        tokens_per_step: over all processes.
        flops_per_token: of a training step, forward and backward.
    """

    max_steps: int | None
    max_tokens: int | None = None
    max_flops: float | None = None
    max_train_s: float | None = None
    tokens_per_step: int = 1
    flops_per_token: int = 1

    @property
    def flops_per_step(self) -> int:
        """Floating-point operations of a step, over all processes."""
        return self.flops_per_token * self.tokens_per_step

    @cached_property
    def last_step(self) -> int | None:
        """The first step that reaches a limit; None if only seconds limit the run."""
        return min(self._last_steps().values(), default=None)

    @property
    def schedule_steps(self) -> int:
        """The number of steps for which a schedule is made."""
        return self.last_step or _STEPS_OF_TIME

    def fraction(self, step: int, train_s: float) -> float:
        """Return the share of the budget that is used at `step`: that of the scarcest limit."""
        used = 0.0 if self.last_step is None else step / self.last_step
        return min(max(used, self._time_fraction(train_s)), 1.0)

    def schedule_step(self, schedule: Schedule, step: int, train_s: float) -> int:
        """Return the step of `schedule` that gives the rate of the run's `step`.

        It is `step` itself, unless the share of the seconds that are used is larger than that of
        the steps and the schedule follows the budget. Warm-ups are always counted in steps.
        """
        if self.max_train_s is None or not follows_budget(schedule):
            return step
        if step <= getattr(schedule, "warmup_steps", 0):
            return step
        return max(step, math.ceil(self._time_fraction(train_s) * self.schedule_steps))

    def has_reached_time(self, train_s: float) -> bool:
        """Return whether the seconds are used up."""
        return self.max_train_s is not None and train_s >= self.max_train_s

    def is_over(self, step: int, is_out_of_time: bool) -> bool:
        """Return whether a run ends after `step`.

        Args:
            step: the number of steps done.
            is_out_of_time: whether `has_reached_time` was true after it.
        """
        return is_out_of_time or (self.last_step is not None and step >= self.last_step)

    def reached_limit(self, step: int, is_out_of_time: bool) -> str:
        """Return the setting whose limit has ended the run; "" if none has."""
        names = [name for name, last in self._last_steps().items() if last <= step]
        if is_out_of_time:
            names.append("training.max_train_s")
        return min(names, key=lambda name: self._last_steps().get(name, step), default="")

    def describe(self) -> str:
        """Return the limits as settings, such as `training.max_steps=1200`."""
        return ", ".join(f"training.{name}={value}" for name, value in self._limits().items())

    def record(self, step: int, is_out_of_time: bool) -> dict[str, Any]:
        """Return the record for the results: the limits, and which one has ended the run."""
        return {
            **self._limits(),
            "last_step": self.last_step,
            "reached": self.reached_limit(step, is_out_of_time) or None,
        }

    def _limits(self) -> dict[str, float]:
        names = ("max_steps", "max_tokens", "max_flops", "max_train_s")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _last_steps(self) -> Mapping[str, int]:
        """Return setting -> the first step that reaches its limit, for limits not in seconds."""
        costs = {
            "max_steps": 1,
            "max_tokens": self.tokens_per_step,
            "max_flops": self.flops_per_step,
        }
        return {
            f"training.{name}": -(-math.ceil(limit) // costs[name])
            for name, limit in self._limits().items()
            if name in costs
        }

    def _time_fraction(self, train_s: float) -> float:
        return 0.0 if self.max_train_s is None else min(train_s / self.max_train_s, 1.0)


def follows_budget(schedule: Schedule) -> bool:
    """Return whether the rates of a schedule depend on the length of the run.

    Schedules without the attribute `follows_budget` are taken to do so.
    """
    return bool(getattr(schedule, "follows_budget", True))
