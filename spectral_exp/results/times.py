"""Comparison of the training times of two groups of runs, allowing for their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from spectral_exp.results.finding import Finding, Piece, finding, measurement
from spectral_exp.results.statistics import MIN_RUNS, Interval, unpaired_contrast
from spectral_exp.runs.metric_names import USE, metric_info
from spectral_exp.runs.run import Run

SAME_TIME = 0.05
"""Relative difference up to which median times count as equal.

Repeats on an idle machine differ by one or two per cent.
"""

BUSY = 1.1
"""Factor between times of equal runs, or speeds within a run, above which the machine is busy."""

MEDIAN, SHORTEST, LONGEST = "median of the runs", "smallest of the runs", "largest of the runs"
"""Formulas of numbers."""


@dataclass(frozen=True)
class TimeComparison:
    """Seconds of training of two groups.

    Attributes:
        runs: the runs of both groups that recorded a time.
        times: their seconds.
        metric: `train_s` for wall-clock time, or one of `USE`.
        at: which value of each run.
    """

    runs: tuple[Sequence[Run], Sequence[Run]]
    times: tuple[Sequence[float], Sequence[float]]
    metric: str = "train_s"
    at: str = "final"

    @property
    def ratio(self) -> float:
        """The second group's median over the first group's."""
        return statistics.median(self.times[1]) / statistics.median(self.times[0])

    @cached_property
    def slowdown(self) -> float:
        """The largest factor by which other load has changed times, as far as it shows.

        It shows in times that differ within one group, and for wall-clock time in speeds that
        differ within one run.
        """
        between = max(max(times) / min(times) for times in self.times)
        if self.metric != "train_s":
            return between
        seen = slowdowns([run for runs in self.runs for run in runs]).values()
        return max([between, *(quick / median for median, quick in seen)])

    @property
    def words(self) -> str:
        """The name of these times within a sentence."""
        return {"train_s": "wall-clock", "cpu_s": "processor time", "device_s": "device time"}[
            self.metric
        ]

    @cached_property  # a bootstrap, which many comparisons do not need
    def interval(self) -> Interval | None:
        """The interval of the ratio of geometric means; None below three runs on a side."""
        if min(map(len, self.times)) < MIN_RUNS:
            return None
        one, other = (list(map(math.log, times)) for times in self.times)
        contrast = unpaired_contrast(one, other)
        if contrast.interval is not None:
            return Interval(math.exp(contrast.interval.low), math.exp(contrast.interval.high))
        ratio = math.exp(contrast.mean or 0.0)  # all times of a side are equal
        return Interval(ratio, ratio)

    @property
    def separated(self) -> bool:
        """Whether the interval excludes 1 and the ratio exceeds that between equal runs."""
        if self.interval is None or self.interval.low <= 1 <= self.interval.high:
            return False
        return self.slowdown <= BUSY or max(self.ratio, 1 / self.ratio) > self.slowdown

    @property
    def is_same(self) -> bool | None:
        """True within `SAME_TIME`, False if separated, None if undecided."""
        near = max(self.ratio, 1 / self.ratio) <= 1 + SAME_TIME
        if near:
            return True if self.slowdown <= BUSY else None
        return False if self.separated else None

    @property
    def doubt(self) -> str:
        """Why it is undecided whether the times are equal, or ""."""
        if self.is_same is not None:
            return ""
        return f"{self.words} is not separated" + (
            ", equal runs differ as on a busy machine" if self.slowdown > BUSY else ""
        )

    def describe(self) -> tuple[str, dict[str, Piece]]:
        """Return a template of both medians with their ranges, and its values."""
        sides, values = [], dict[str, Piece]()
        for side, (runs, times) in enumerate(zip(self.runs, self.times, strict=True)):
            numbers = {
                f"median_{side}": (statistics.median(times), MEDIAN),
                f"low_{side}": (min(times), SHORTEST),
                f"high_{side}": (max(times), LONGEST),
            }
            for name, (value, formula) in numbers.items():
                values[name] = measurement(
                    value, self.metric, runs, formula, at=self.at, show=",.1f"
                )
            several = min(times) < max(times)
            sides.append(
                f"{{median_{side}}} s"
                + (f" ({{low_{side}}} to {{high_{side}}})" if several else "")
            )
        few = ", fewer than three runs on a side" if min(map(len, self.times)) < MIN_RUNS else ""
        return f"{' against '.join(sides)} of training{few}", values


def compare_times(
    a: Sequence[Run], b: Sequence[Run], at: str = "final", metric: str = "train_s"
) -> TimeComparison | None:
    """Compare the seconds of training of two groups; None if no run of one recorded them.

    Args:
        a, b: the runs of both groups.
        at: which value of each run; the best one has no time of its own.
        metric: as for `TimeComparison`.
    """
    at = "final" if at == "best" else at
    known = [[(run, run.value(metric, at) or 0.0) for run in runs] for runs in (a, b)]
    timed = [[(run, seconds) for run, seconds in side if seconds > 0] for side in known]
    if not all(timed):
        return None
    runs_a, runs_b = ([run for run, _ in side] for side in timed)
    times_a, times_b = ([seconds for _, seconds in side] for side in timed)
    return TimeComparison((runs_a, runs_b), (times_a, times_b), metric, at)


def compare_used_times(
    a: Sequence[Run], b: Sequence[Run], at: str = "final"
) -> TimeComparison | None:
    """Compare the wall-clock seconds of two groups, or on a busy machine what they used of it.

    If other load may explain the wall-clock seconds and all runs recorded their device or processor
    seconds, these are compared.
    """
    wall = compare_times(a, b, at)
    if wall is None or wall.slowdown <= BUSY:
        return wall
    for metric in USE:
        used = compare_times(a, b, at, metric)
        if used is not None and sum(map(len, used.times)) == len(a) + len(b):
            return used
    return wall


def slowdowns(runs: Sequence[Run]) -> Mapping[str, tuple[float, float]]:
    """Return median and 90 % quantile of the logged speed of runs on a busy machine, by run id.

    Other load leaves some entries at full speed. A few slow entries, such as the first ones while
    code is compiled, do not count.
    """
    known = {run.run_id: speeds for run in runs if (speeds := run.logged_speeds)}
    return {
        name: (median, quick) for name, (median, quick) in known.items() if quick > BUSY * median
    }


MEDIAN_SPEED, QUICK_SPEED = "median of what was logged", "90 % quantile of what was logged"
"""Formulas of numbers."""


def busy_machine(
    metric: str, sides: Sequence[tuple[Sequence[Run], Sequence[float]]], at: str = "final"
) -> Finding | None:
    """Return a finding if other load may explain a difference in a time between two groups.

    Runs of one group whose times differ show slow-downs, and so do the logged speeds of single
    runs. A difference larger than all of them counts.

    Args:
        metric: what is compared.
        sides: runs and values of both groups.
        at: which value of each run.
    """
    is_timed = all(values and min(values) > 0 for _, values in sides)
    if not metric_info(metric).is_timing or not is_timed:
        return None
    means = [statistics.fmean(values) for _, values in sides]
    ratio = max(means) / min(means)
    runs = [run for of_side, _ in sides for run in of_side]
    found = _slow_entries(runs, ratio) if metric not in USE else None
    return found or _unequal_runs(metric, sides, ratio, at)


def _slow_entries(runs: Sequence[Run], ratio: float) -> Finding | None:
    """Return a finding if the speed within a run varies by the factor `ratio` or more."""
    found = slowdowns(runs)
    if not found:
        return None
    name = max(found, key=lambda run_id: found[run_id][1] / found[run_id][0])
    median, quick = found[name]
    if ratio > quick / median:
        return None
    (run,) = (run for run in runs if run.run_id == name)
    return finding(
        "busy machine",
        "the machine was busy, which may be the whole difference" + _advice(runs),
        "{run} trained at {median} tokens/s in the median and at {quick} in its quickest tenth",
        run=name,
        median=measurement(median, "tokens_per_s", run, MEDIAN_SPEED, at="final"),
        quick=measurement(quick, "tokens_per_s", run, QUICK_SPEED, at="final"),
    )


def _unequal_runs(
    metric: str, sides: Sequence[tuple[Sequence[Run], Sequence[float]]], ratio: float, at: str
) -> Finding | None:
    """Return a finding if runs of one group differ by the factor `ratio` or more."""
    runs, values = max(sides, key=lambda side: max(side[1]) / min(side[1]))
    low, high = min(values), max(values)
    if high / low <= BUSY or ratio > high / low:
        return None
    ends = {"low": runs[values.index(low)], "high": runs[values.index(high)]}
    return finding(
        "busy machine",
        "runs of one group differ as on a busy machine, which may be the whole difference"
        + (_advice([run for of_side, _ in sides for run in of_side]) if metric not in USE else ""),
        f"{metric} is {{low}} in {{low_run}} and {{high}} in {{high_run}}",
        low=measurement(low, metric, ends["low"], at=at, show=",.5g"),
        high=measurement(high, metric, ends["high"], at=at, show=",.5g"),
        low_run=ends["low"].run_id,
        high_run=ends["high"].run_id,
    )


def _advice(runs: Sequence[Run]) -> str:
    """Return which metric to compare instead, or ""."""
    for metric in USE:
        if all(run.value(metric) is not None for run in runs):
            return f" ({metric} depends less on other load)"
    return ""
