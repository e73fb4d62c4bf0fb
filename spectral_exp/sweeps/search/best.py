"""The best trials of a search."""

from __future__ import annotations

from collections.abc import Sequence

from spectral_exp.config.search import SearchSettings
from spectral_exp.sweeps.search.trials import Trial, last_overrides


def best_trials(trials: Sequence[Trial], settings: SearchSettings) -> list[Trial]:
    """Return the completed trials that no other beats, the best in the first objective first.

    One trial beats another if no objective is worse and one is better. With several objectives
    these trials are the Pareto set.
    """
    signs = [1 if lower else -1 for lower in settings.lower_is_better]

    def costs(trial: Trial) -> list[float]:
        return [sign * value for sign, value in zip(signs, trial.values or (), strict=True)]

    done = sorted((one for one in trials if one.state == "done" and one.values), key=costs)
    best: list[Trial] = []
    for trial in done:  # only an earlier one can beat a trial
        cost = costs(trial)
        others = [costs(one) for one in best]
        if not any(all(map(float.__le__, o, cost)) and o != cost for o in others):
            best.append(trial)
    return best


def describe_best(trials: Sequence[Trial], settings: SearchSettings) -> list[str]:
    """Return a line for each of the best trials: values, searched settings, and name."""
    lines = []
    for trial in best_trials(trials, settings):
        values = ", ".join(
            f"{name} {value:.6g}"
            for name, value in zip(settings.objectives, trial.values or (), strict=True)
        )
        given = last_overrides(trial.overrides)
        searched = " ".join(given[name] for name in settings.settings if name in given)
        lines.append(f"{values}  {searched}  {trial.name}".rstrip())
    return lines
