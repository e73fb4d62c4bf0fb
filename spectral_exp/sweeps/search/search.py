"""A search: the jobs that follow from its command line and the trials so far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from spectral_exp.config.command_line import Composer, format_value
from spectral_exp.config.command_line.ranges import Dimension, Interval, Values, split_ranges
from spectral_exp.config.search import (
    SearchSettings,
    read_search_settings,
    refuse_unreadable_runs,
)
from spectral_exp.core.errors import UserError
from spectral_exp.runs.overrides import setting_of
from spectral_exp.runs.parts import makes_another_experiment
from spectral_exp.sweeps.search.sampler import Point, Sampler, import_optuna
from spectral_exp.sweeps.search.trials import Trial, is_same_experiment, last_overrides

_ATTEMPTS = 20  # of a sampler to find settings that no trial has
_MAX_LISTED = 100_000  # integers of an interval


@dataclass(frozen=True)
class Search:
    """Proposes jobs until a budget is spent.

    Attributes:
        settings: of the group `search`.
        items: the overrides of the command line, those with a range as dimensions.
    """

    settings: SearchSettings
    items: tuple[str | Dimension, ...]

    @classmethod
    def parse(
        cls, overrides: Sequence[str], composer: Composer, hydra_overrides: Sequence[str] = ()
    ) -> Search | None:
        """Return the search of a command line, or None if it is none.

        Args:
            overrides: with ranges in Hydra's grammar, without those of Hydra itself.
            composer: of the command line.
            hydra_overrides: those of Hydra, which locate configuration files.

        Raises:
            UserError: there is nothing to search, or the sampler cannot search it.
        """
        if not any(setting_of(override) == "search" for override in overrides):
            return None
        items = split_ranges(overrides, composer)
        fixed = [item for item in items if isinstance(item, str)]
        config = composer.compose([*fixed, *hydra_overrides]).config
        settings = read_search_settings(config)
        if settings.sampler is None:
            return None
        refuse_unreadable_runs(config, settings)
        search = cls(settings, tuple(items))
        search.check()
        return search

    @property
    def dimensions(self) -> list[Dimension]:
        """The settings that are searched."""
        return [item for item in self.items if not isinstance(item, str)]

    @property
    def searched_settings(self) -> list[str]:
        """The names of the settings that are searched."""
        return [dimension.setting for dimension in self.dimensions]

    def propose(self, trials: Sequence[Trial], count: int = 1) -> list[list[str]]:
        """Return the overrides of up to `count` new jobs; none if a budget is spent.

        Args:
            trials: all runs of the sweep in the order in which they began. Those that do not
                belong to this search, because other settings differ too, are left out.
            count: most jobs.
        """
        known = [(point, one) for one in trials if (point := self._point_of(one)) is not None]
        points, own = [point for point, _ in known], [one for _, one in known]
        jobs: list[list[str]] = []
        while len(jobs) < count and not self.why_over(own):
            point = self._next(points, own)
            if point is None:
                break
            job = self._job(point)
            jobs.append(job)
            points.append(point)
            own.append(Trial(job, "running"))
        return jobs

    def rebuild(self, trials: Sequence[Trial]) -> list[list[str]]:
        """Return the jobs of those trials that belong to this search, as it proposed them.

        Recorded overrides lack secrets and interpolations.
        """
        points = (self._point_of(trial) for trial in trials)
        return [self._job(point) for point in points if point is not None]

    def why_over(self, trials: Sequence[Trial]) -> str:
        """Return which budget the trials of this search have spent, or ""."""
        spent = {
            "trials": len(trials),
            "total_steps": sum(one.steps for one in trials),
            "total_time_s": sum(one.time_s for one in trials),
        }
        for name, used in spent.items():
            limit = getattr(self.settings, name)
            if limit is not None and used >= limit:
                return f"search.{name}={limit} is reached"
        return ""

    def examples(self) -> list[list[str]]:
        """Return jobs that use every bound and every listed value at least once.

        They are composed and checked before the search begins.
        """
        ends = [_ends(dimension) for dimension in self.dimensions]
        first = tuple(points[0] for points in ends)
        points = [first]
        for i, values in enumerate(ends):
            points += [(*first[:i], value, *first[i + 1 :]) for value in values[1:]]
        return [self._job(point) for point in points]

    def check(self) -> None:
        """Raise a UserError if there is nothing to search, or the sampler cannot search it."""
        settings, name = self.settings, f"search={self.settings.sampler}"
        if not self.dimensions:
            raise UserError(
                f"{name} has nothing to search; give a setting a range, as in "
                "optimizer.learning_rate='tag(log, interval(1e-4, 1e-2))'"
            )
        if "seed" in self.searched_settings:
            raise UserError(
                f"{name} cannot search seed, since the best of several seeds is no result; train "
                "the best settings with other seeds afterwards"
            )
        if useless := [one for one in self.searched_settings if not makes_another_experiment(one)]:
            raise UserError(
                f"{name} cannot search {useless[0]}, which does not change what is trained; give "
                "it one value"
            )
        endless = [one for one in self.dimensions if _all_values(one) is None]
        if settings.sampler == "grid" and endless:
            raise UserError(
                f"{endless[0].setting} has a continuous range, which {name} cannot list; give "
                "values separated by commas, or range(...)"
            )
        unordered = [d for d in self.dimensions if isinstance(d, Values) and not d.is_ordered]
        if settings.sampler == "cmaes" and unordered:
            raise UserError(
                f"{unordered[0].setting} has separate values, which {name} cannot search; give "
                "interval(...) or range(...), or choose search=tpe"
            )
        budgets = (settings.trials, settings.total_steps, settings.total_time_s)
        if endless and all(budget is None for budget in budgets):
            raise UserError(
                f"{name} never ends; set search.trials, search.total_steps or search.total_time_s"
            )
        # Missing packages are refused at the start.
        if settings.pruner != "none":
            import_optuna(f"search.pruner={settings.pruner}")
        if settings.sampler != "grid":
            Sampler(settings, self.dimensions)

    def _point_of(self, trial: Trial) -> Point | None:
        """Return the point of a trial, or None if it does not belong to this search."""
        fixed = [item for item in self.items if isinstance(item, str)]
        if not is_same_experiment(trial.overrides, fixed, self.searched_settings):
            return None
        given = last_overrides(trial.overrides)
        values = []
        for dimension in self.dimensions:
            override = given.get(dimension.setting)
            if override is None:
                return None
            value = (
                dimension.value_of(override)
                if isinstance(dimension, Interval)
                else dimension.index_of(override)
            )
            if value is None:
                return None
            values.append(value)
        return tuple(values)

    def _next(self, points: Sequence[Point], trials: Sequence[Trial]) -> Point | None:
        """Return a point that no trial has, or None if there is no other."""
        tried = set(points)
        if self.settings.sampler == "grid":
            return self._first_untried(tried)
        sampler = Sampler(self.settings, self.dimensions)
        for uniform in (False, True):
            for attempt in range(_ATTEMPTS):
                point = sampler.propose(points, trials, attempt, uniform=uniform)
                if point not in tried:
                    return point
                if self.settings.sampler == "cmaes":
                    break  # it would propose the same again
        return self._first_untried(tried)

    def _first_untried(self, tried: set[Point]) -> Point | None:
        choices = [_all_values(dimension) for dimension in self.dimensions]
        if any(values is None for values in choices):
            return None
        points = itertools.product(*(values or () for values in choices))
        return next((point for point in points if point not in tried), None)

    def _job(self, point: Point) -> list[str]:
        values = iter(point)
        job = []
        for item in self.items:
            if isinstance(item, str):
                job.append(item)
            elif isinstance(item, Interval):
                job.append(item.override(next(values)))
            else:
                job.append(item.overrides[int(next(values))])
        return [*job, f"search.settings={format_value(self.searched_settings)}"]


def _ends(dimension: Dimension) -> Sequence[float]:
    """Return the bounds of a range, or all values that have no order."""
    if isinstance(dimension, Interval):
        return (dimension.low, dimension.high)
    last = len(dimension.overrides) - 1
    return (0, last) if dimension.is_ordered and last else range(last + 1)


def _all_values(dimension: Dimension) -> Sequence[float] | None:
    """Return all values of a dimension, or None if there are too many to list."""
    if isinstance(dimension, Values):
        return range(len(dimension.overrides))
    if dimension.is_integer and dimension.high - dimension.low < _MAX_LISTED:
        return range(int(dimension.low), int(dimension.high) + 1)
    return None
