"""Learning-rate schedules: the factor on the peak rate as a pure function of the step, from 1.

Every schedule grows linearly over the first `warmup_steps` (step 1 gets 1 / warmup_steps), then
decays to `min_ratio`, which it reaches at the horizon and keeps. The horizon is `decay_steps`, or
`max_steps` if that is None. With a fixed horizon a run that is later extended repeats the same
rates.

`follows_budget` says whether the rates depend on `max_steps`. If the budget of such a run is in
seconds, training gives `factor` the share of the seconds that are used as a step.
"""

from __future__ import annotations

import math

from spectral_exp.core.errors import require


class Constant:
    """Warm-up, then the peak rate.

    Args:
        max_steps: steps of the run, >= 1.
        warmup_steps: >= 0.
    """

    follows_budget = False

    def __init__(self, max_steps: int, warmup_steps: int = 0) -> None:
        require(max_steps >= 1, "max_steps", max_steps, ">= 1")
        require(warmup_steps >= 0, "warmup_steps", warmup_steps, ">= 0")
        self.max_steps, self.warmup_steps = max_steps, warmup_steps

    def factor(self, step: int) -> float:
        """Return the factor on the peak rate at `step`, from 1; between 0 and 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """Return the factor at a step after the warm-up."""
        return 1.0


class _Decay(Constant):
    """Base class of schedules that decay to `min_ratio`."""

    def __init__(
        self,
        max_steps: int,
        warmup_steps: int = 0,
        min_ratio: float = 0.1,
        decay_steps: int | None = None,
    ) -> None:
        super().__init__(max_steps, warmup_steps)
        require(0 <= min_ratio <= 1, "min_ratio", min_ratio, "between 0 and 1")
        require(decay_steps is None or decay_steps >= 1, "decay_steps", decay_steps, ">= 1 or null")
        self.min_ratio, self.horizon = min_ratio, max_steps if decay_steps is None else decay_steps
        self.follows_budget = decay_steps is None

    def progress(self, step: int, begin: int) -> float:
        """Return the fraction of the steps from `begin` to the horizon done at `step`."""
        if step >= self.horizon:
            return 1.0
        return (step - begin) / (self.horizon - begin) if step > begin else 0.0


class Linear(_Decay):
    """Warm-up, then a straight line down to `min_ratio`.

    Args:
        max_steps: steps of the run, >= 1.
        warmup_steps: >= 0.
        min_ratio: the last factor, between 0 and 1.
        decay_steps: the step that reaches `min_ratio`; None for the last step of the run.
    """

    def after_warmup(self, step: int) -> float:
        """Return the factor at a step after the warm-up."""
        return 1 - (1 - self.min_ratio) * self.progress(step, self.warmup_steps)


class Cosine(_Decay):
    """Warm-up, then half a cosine wave down to `min_ratio` (Loshchilov & Hutter 2017).

    The settings are those of Linear.
    """

    def after_warmup(self, step: int) -> float:
        """Return the factor at a step after the warm-up."""
        wave = 0.5 * (1 + math.cos(math.pi * self.progress(step, self.warmup_steps)))
        return self.min_ratio + (1 - self.min_ratio) * wave


class WarmupStableDecay(_Decay):
    """Warm-up, a long constant phase, then a straight line down to `min_ratio` (Hu et al. 2024).

    Args:
        max_steps, warmup_steps, min_ratio, decay_steps: as for Linear.
        decay_fraction: fraction of the steps up to the horizon that decay, between 0 and 1.
    """

    def __init__(
        self,
        max_steps: int,
        warmup_steps: int = 0,
        min_ratio: float = 0.1,
        decay_steps: int | None = None,
        decay_fraction: float = 0.2,
    ) -> None:
        super().__init__(max_steps, warmup_steps, min_ratio, decay_steps)
        require(0 <= decay_fraction <= 1, "decay_fraction", decay_fraction, "between 0 and 1")
        self.decay_begin = max(warmup_steps, round(self.horizon * (1 - decay_fraction)))

    def after_warmup(self, step: int) -> float:
        """Return the factor at a step after the warm-up."""
        return 1 - (1 - self.min_ratio) * self.progress(step, self.decay_begin)
