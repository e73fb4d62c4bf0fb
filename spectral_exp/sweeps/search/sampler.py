"""Proposals of optuna's samplers, from a study that is rebuilt from the trials each time.

A run directory is the only storage. Each proposal is a function of the trials and the seed, so that
the same command proposes the same settings again if its runs end in the same order.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_exp.config.command_line.ranges import Dimension, Interval
from spectral_exp.config.search import SearchSettings
from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import install
from spectral_exp.sweeps.search.trials import Trial

if TYPE_CHECKING:
    import optuna

Point = tuple[float, ...]
"""The value of each dimension: a number of an interval, or the index of one of the values."""

_DIGITS = 4  # of a proposal, relative to the width or size of its interval


def import_optuna(setting: str) -> types.ModuleType:
    """Import optuna without its messages. Raises UserError if it is missing.

    Args:
        setting: the setting that needs it, with its value.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"{setting} needs optuna; {install('search')} installs it") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Sampler:
    """Proposes points of a space.

    Args:
        settings: of the search, with a sampler of optuna.
        dimensions: the space.
    """

    def __init__(self, settings: SearchSettings, dimensions: Sequence[Dimension]) -> None:
        self._settings = settings
        self._dimensions = dimensions
        self._optuna = import_optuna(f"search={settings.sampler}")
        if settings.sampler == "cmaes":
            _require_cmaes()
        self._distributions = {str(i): self._distribution(one) for i, one in enumerate(dimensions)}

    def propose(
        self, points: Sequence[Point], trials: Sequence[Trial], attempt: int, *, uniform: bool
    ) -> Point:
        """Return a point.

        Args:
            points: of the trials.
            trials: all earlier ones, in their order.
            attempt: differs between proposals after the same trials.
            uniform: whether to draw uniformly, whatever the sampler.
        """
        settings, n = self._settings, len(trials)
        sequence = np.random.SeedSequence([settings.seed, n, attempt])
        seed = int(sequence.generate_state(1)[0])
        samplers = self._optuna.samplers
        if uniform or settings.sampler == "random":
            return self._ask(self._study(samplers.RandomSampler(seed=seed)))
        if settings.sampler == "cmaes":
            # The state of this sampler lies in the study, so all trials are asked for again.
            study = self._study(samplers.CmaEsSampler(seed=settings.seed))
            self._replay(study, points, trials)
            return self._ask(study)
        tpe = samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed)
        study = self._study(tpe)
        study.add_trials(list(map(self._frozen, points, trials)))
        return self._ask(study)

    def _study(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        directions = [
            "minimize" if lower else "maximize" for lower in self._settings.lower_is_better
        ]
        study: optuna.Study = self._optuna.create_study(
            directions=directions, sampler=sampler, study_name="search"
        )
        return study

    def _ask(self, study: optuna.Study) -> Point:
        return self._point(study.ask(self._distributions).params)

    def _point(self, params: Mapping[str, Any]) -> Point:
        return tuple(
            _round(params[str(i)], one) if isinstance(one, Interval) else params[str(i)]
            for i, one in enumerate(self._dimensions)
        )

    def _params(self, point: Point) -> dict[str, Any]:
        return {
            str(i): value if isinstance(one, Interval) and not one.is_integer else int(value)
            for i, (one, value) in enumerate(zip(self._dimensions, point, strict=True))
        }

    def _frozen(self, point: Point, trial: Trial) -> optuna.trial.FrozenTrial:
        frozen: optuna.trial.FrozenTrial = self._optuna.trial.create_trial(
            state=self._state(trial),
            values=trial.values,
            params=self._params(point),
            distributions=self._distributions,
            intermediate_values=dict(trial.intermediate),
        )
        return frozen

    def _state(self, trial: Trial) -> optuna.trial.TrialState:
        states = self._optuna.trial.TrialState
        # Several objectives leave no order of pruned trials.
        is_single = len(self._settings.objectives) == 1
        state: optuna.trial.TrialState = {
            "done": states.COMPLETE,
            "pruned": states.PRUNED if is_single else states.FAIL,
            "failed": states.FAIL,
            "running": states.RUNNING,
        }[trial.state]
        return state

    def _replay(
        self, study: optuna.Study, points: Sequence[Point], trials: Sequence[Trial]
    ) -> None:
        """Ask for the points of the trials and report their values, each after the other."""
        for point, trial in zip(points, trials, strict=True):
            study.enqueue_trial(self._params(point))
            asked = study.ask(self._distributions)
            asked.relative_params  # noqa: B018 - advances the state of the sampler
            if trial.state == "done":
                study.tell(asked, list(trial.values or ()))
            elif trial.state != "running":
                study.tell(asked, state=self._state(trial))

    def _distribution(self, one: Dimension) -> optuna.distributions.BaseDistribution:
        kinds = self._optuna.distributions
        found: optuna.distributions.BaseDistribution
        if not isinstance(one, Interval):
            last = len(one.overrides) - 1
            indices = range(last + 1)
            found = (
                kinds.IntDistribution(0, last)
                if one.is_ordered
                else kinds.CategoricalDistribution(list(indices))
            )
        elif one.is_integer:
            found = kinds.IntDistribution(int(one.low), int(one.high), log=one.is_log)
        else:
            found = kinds.FloatDistribution(one.low, one.high, log=one.is_log)
        return found


def _require_cmaes() -> None:
    try:
        import cmaes  # noqa: F401 - optuna imports it later
    except ImportError as error:
        raise UserError(f"search=cmaes needs cmaes; {install('search')} installs it") from error


def _round(value: float, one: Interval) -> float:
    """Return `value` without digits that change no result, for short names and tables."""
    if one.is_integer:
        return value
    width = one.high - one.low
    scale = min(value, width) if one.is_log else width
    rounded = round(value, _DIGITS - math.ceil(math.log10(scale)))
    return min(max(rounded, one.low), one.high)
