"""Findings about finished runs: too short for their warm-ups, or evaluated on unsuitable text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from spectral_exp.results.finding import Finding, Measured, Piece, finding, measurement
from spectral_exp.runs.evaluation_size import FEW_TOKENS, NOTABLE_REPEATS
from spectral_exp.runs.run import Run

_ERROR_NAME = "error_of_windows"


def cautions(run: Run) -> Iterator[Finding]:
    """Yield the findings; none about a run that has not finished."""
    if not run.finished or run.settings.get("training.overfit_one_batch"):
        return
    steps = run.last_step
    for setting, consequence in (
        ("schedule.warmup_steps", "the learning rate never reached its peak"),
        ("optimizer.warmup_steps", "the strength of RGD's gate was never reached"),
    ):
        warmup = run.settings.get(setting)
        is_used = setting != "optimizer.warmup_steps" or _uses_gate(run)
        if isinstance(warmup, int) and warmup > steps > 0 and is_used:
            yield finding(
                f"short for {setting}",
                f"{consequence}: {{setting}} is {{warmup}}, and the run had {{steps}} steps",
                setting=setting,
                warmup=measurement(warmup, setting, run),
                steps=measurement(steps, "steps", run, "last step"),
            )
    yield from _few_windows(run)
    yield from _repeats(run)


def unite_errors(flags: Sequence[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """Return findings with run ids, those on few windows with the range of all standard errors.

    The errors of runs differ, and would make a finding of their own for each run.
    """
    errors = [
        error for _, one in flags if isinstance(error := one.values.get(_ERROR_NAME), Measured)
    ]
    if len(errors) < 2:
        return list(flags)
    ends: dict[str, Piece] = {
        "low": min(errors, key=lambda error: error.value),
        "high": max(errors, key=lambda error: error.value),
    }
    united = []
    for run_id, one in flags:
        if _ERROR_NAME in one.values:
            values = {name: piece for name, piece in one.values.items() if name != _ERROR_NAME}
            detail = "the standard error of val_bpb is {low} to {high} bits per byte"
            one = replace(one, detail=detail, values=values | ends)
        united.append((run_id, one))
    return united


def _uses_gate(run: Run) -> bool:
    strength = run.settings.get("optimizer.resonance_strength", 0)
    return isinstance(strength, int | float) and strength > 0


def _few_windows(run: Run) -> Iterator[Finding]:
    evaluation = run.results.get("evaluation")
    text: Any = evaluation.get("val") if isinstance(evaluation, dict) else None
    if not isinstance(text, dict) or not 0 < text.get("tokens", 0) < FEW_TOKENS:
        return
    place = "evaluation.val."
    values: dict[str, Piece] = {
        name: measurement(text[key], place + key, run)
        for name, key in (("windows", "windows"), ("all", "available_windows"))
        if key in text
    }
    if len(values) < 2:
        return
    detail, error = "", text.get("standard_error_bpb")
    if error is not None and math.isfinite(error):
        values[_ERROR_NAME] = measurement(error, f"{place}standard_error_bpb", run, show=".4f")
        detail = f"the standard error of val_bpb is {{{_ERROR_NAME}}} bits per byte"
    yield Finding(
        "few validation windows", "each validation read {windows} of {all} windows", detail, values
    )


def _repeats(run: Run) -> Iterator[Finding]:
    evaluation: Any = run.results.get("evaluation")
    for split, name in (("val", "validation"), ("test", "test")):
        text = evaluation.get(split) if isinstance(evaluation, dict) else None
        share = text.get("repeated_share", 0) if isinstance(text, dict) else 0
        if NOTABLE_REPEATS <= share <= 1:
            yield finding(
                f"repeated {name} text",
                f"{{share}} of the {name} text stands word for word in the training text",
                f"{split}_loss and {split}_bpb flatter the model",
                share=measurement(share, f"evaluation.{split}.repeated_share", run, show=".1%"),
            )
