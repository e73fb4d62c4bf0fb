"""The runs of a search as its sampler sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spectral_exp.config.search import PRUNABLE, SearchSettings
from spectral_exp.core.redact import REDACTED
from spectral_exp.runs.overrides import setting_of
from spectral_exp.runs.parts import makes_another_experiment
from spectral_exp.runs.run import Run
from spectral_exp.runs.status import BROKEN, FINISHED

State = Literal["running", "done", "failed", "pruned"]


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        overrides: all overrides of its job.
        state: an interrupted run counts as `running`, since the sweep will continue it.
        values: of the objectives, all finite, if the trial is done.
        intermediate: step -> the first objective at each validation, in ascending order.
        steps: optimizer steps so far.
        time_s: seconds of training so far.
        name: of the folder of its run.
    """

    overrides: Sequence[str]
    state: State
    values: Sequence[float] | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)
    steps: int = 0
    time_s: float = 0.0
    name: str = ""


def read_trial(run: Run, settings: SearchSettings) -> Trial:
    """Return a run as a trial.

    A completed run without a finite value for each objective counts as failed.

    Raises:
        UserError: its metrics cannot be read.
    """
    state = trial_state(run.status)
    found = [run.value(name) for name in settings.objectives]
    values = [value for value in found if value is not None and math.isfinite(value)]
    if state == "done" and len(values) < len(found):
        state = "failed"
    metric = settings.objectives[0]
    series = run.series(metric) if metric in PRUNABLE else None
    reports = () if series is None else zip(series.steps, series.values, strict=True)
    return Trial(
        overrides=run.record.get("overrides", []),
        state=state,
        values=values if state == "done" else None,
        intermediate={int(step): float(value) for step, value in reports},
        steps=run.last_step,
        time_s=run.train_s or 0.0,
        name=run.path.name,
    )


def trial_state(status: str) -> State:
    """Return the state of the trial of a run with this status."""
    if status in FINISHED:
        return "done"
    if status in BROKEN:
        return "failed"
    return "pruned" if status == "pruned" else "running"


def is_same_experiment(
    recorded: Sequence[str], given: Sequence[str], searched: Sequence[str]
) -> bool:
    """Return whether two jobs are one experiment but for the searched settings.

    Args:
        recorded: overrides in the record of a run, without interpolations and secrets.
        given: overrides of a job, as given.
        searched: names of settings.
    """
    before, now = _fixed_settings(recorded, searched), _fixed_settings(given, searched)
    return before.keys() == now.keys() and all(
        before[key] == now[key] or "${" in now[key] or REDACTED in before[key] for key in now
    )


def _fixed_settings(overrides: Sequence[str], searched: Sequence[str]) -> dict[str, str]:
    """Return setting -> value, as text."""
    return {
        key: override.partition("=")[2]
        for override in overrides
        if (key := setting_of(override)) not in searched
        and (key == "seed" or makes_another_experiment(key))
    }


def last_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Return setting -> the override that counts, the last one."""
    return {setting_of(override): override for override in overrides}
