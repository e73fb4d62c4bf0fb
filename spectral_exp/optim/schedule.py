"""Learning-rate schedules: the factor on the peak rate as a pure function of the step, counted from 1.

All grow linearly over the first `warmup_steps` (step 1 gets 1 / warmup_steps), then follow their shape down to
`min_ratio`, which they reach at the horizon and keep. The horizon is `decay_steps`, or `max_steps` where that is None;
fixing it makes a run that is later prolonged repeat the same rates.
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

    def __init__(self, max_steps: int, warmup_steps: int = 0) -> None:
        require(max_steps >= 1, "max_steps", max_steps, ">= 1")
        require(warmup_steps >= 0, "warmup_steps", warmup_steps, ">= 0")
        self.max_steps, self.warmup_steps = max_steps, warmup_steps

    def factor(self, step: int) -> float:
        """The factor on the peak rate at `step`, from 1; between 0 and 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor at a step that is not part of the warm-up."""
        return 1.0


class _Decay(Constant):
    """What the shapes that end at `min_ratio` have in common."""

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

    def progress(self, step: int, begin: int) -> float:
        """How much of the way from `begin` to the horizon is done at `step`, between 0 and 1."""
        if step >= self.horizon:
            return 1.0
        return (step - begin) / (self.horizon - begin) if step > begin else 0.0


class Linear(_Decay):
    """Warm-up, then a straight line down to `min_ratio`.

    Args:
        max_steps: steps of the run, >= 1.
        warmup_steps: >= 0.
        min_ratio: the last factor, between 0 and 1.
        decay_steps: the step at which `min_ratio` is reached; None: the last of the run.
    """

    def after_warmup(self, step: int) -> float:
        """The factor at a step that is not part of the warm-up."""
        return 1 - (1 - self.min_ratio) * self.progress(step, self.warmup_steps)


class Cosine(_Decay):
    """Warm-up, then half a cosine wave down to `min_ratio` (Loshchilov & Hutter 2017); settings as for Linear."""

    def after_warmup(self, step: int) -> float:
        """The factor at a step that is not part of the warm-up."""
        wave = 0.5 * (1 + math.cos(math.pi * self.progress(step, self.warmup_steps)))
        return self.min_ratio + (1 - self.min_ratio) * wave


class WarmupStableDecay(_Decay):
    """Warm-up, the peak rate for most of the run, then a straight line down to `min_ratio` (Hu et al. 2024).

    Args:
        max_steps, warmup_steps, min_ratio, decay_steps: as for Linear.
        decay_fraction: the share of the steps up to the horizon that the line takes, between 0 and 1.
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
        """The factor at a step that is not part of the warm-up."""
        return 1 - (1 - self.min_ratio) * self.progress(step, self.decay_begin)
