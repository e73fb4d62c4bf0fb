"""What limits the conclusions from a run, and is known before it begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from spectral_exp.core.wording import format_count
from spectral_exp.data.dataset import SPLITS
from spectral_exp.data.repeats import WINDOW
from spectral_exp.runs.evaluation_size import (
    FEW_TOKENS,
    NOTABLE_REPEATS,
    rough_relative_error,
)
from spectral_exp.training.contracts import Data
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.step import Stepper

log = logging.getLogger(__name__)


def warn_of_limits(settings: TrainingSettings, stepper: Stepper, windows: Any, data: Data) -> None:
    """Log each caution; `results.cautions` finds the same in finished runs.

    Args:
        settings: of training.
        stepper: of the run.
        windows: the validation windows, as those of `Validator`.
        data: the text.
    """
    if settings.overfit_one_batch:
        return
    for caution in (*_short_warmups(stepper), *_few_windows(windows), *_repeats(data)):
        log.warning("%s", caution)


def _short_warmups(stepper: Stepper) -> Iterator[str]:
    budget = stepper.budget
    if (last := budget.last_step) is not None:
        length = f"the run of {format_count(last, 'step')} ({budget.describe()})"
        warmup = getattr(stepper.schedule, "warmup_steps", 0)
        if warmup > last:
            yield (
                f"schedule.warmup_steps={warmup} is longer than {length}: the learning rate "
                f"reaches {last / warmup:.0%} of optimizer.learning_rate"
            )
        yield from _short_gate(stepper.optimizer, last, length)


def _few_windows(windows: Any) -> Iterator[str]:
    if windows.n_targets < FEW_TOKENS:
        error = rough_relative_error(windows.n_targets)
        remedy = ""
        if windows.n_windows < windows.n_available:
            remedy = "; raise training.eval_windows, or set it to null for all"
        yield (
            f"each validation reads {windows.n_windows} of {windows.n_available} windows, "
            f"{windows.n_targets} tokens: the standard error of val_loss is roughly {error:.0%} "
            f"of it or more{remedy}"
        )


def _repeats(data: Data) -> Iterator[str]:
    for split, share in data.repeated_shares.items():
        if share >= NOTABLE_REPEATS:
            yield (
                f"{share:.1%} of the {SPLITS[split]} text stands word for word in the training "
                f"text, in passages of {WINDOW} tokens: {split}_loss flatters the model; leave "
                "repeated passages out of the text, and name no file twice"
            )


def _short_gate(optimizer: torch.optim.Optimizer, last: int, length: str) -> Iterator[str]:
    """Yield a sentence if the strength of RGD's gate does not reach its full value."""
    groups = [
        group["warmup_steps"]
        for group in optimizer.param_groups
        if group.get("resonance_strength") and group.get("warmup_steps", 0) > last
    ]
    if groups:
        longest = max(groups)
        yield (
            f"optimizer.warmup_steps={longest} is longer than {length}: the strength of RGD's "
            f"gate reaches {last / longest:.0%} of optimizer.resonance_strength"
        )
