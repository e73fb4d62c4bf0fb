"""Whether one group of runs trained longer than another, as far as the spread of their times allows to say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spectral_exp.results.finding import Finding, Piece, finding, sourced
from spectral_exp.results.statistics import MIN_RUNS, Interval, unpaired_contrast
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.run import Run

SAME_TIME = 0.05
"""Relative difference up to which median times count as equal. Repeats on a quiet machine differ by one or two per
cent."""

BUSY = 1.1
"""Times of equal runs, or speeds within one, that differ by more than this factor are those of a busy machine."""

_MIN_ENTRIES = 8  # logged speeds of a run, below which their quantiles say nothing
MEDIAN, SHORTEST, LONGEST = "median of the runs", "smallest of the runs", "largest of the runs"
"""Formulas of numbers."""


@dataclass(frozen=True)
class TimeComparison:
    """Seconds of training of two groups.

    Attributes:
        runs: of both groups, those that recorded a time.
        times: theirs.
    """

    runs: tuple[Sequence[Run], Sequence[Run]]
    times: tuple[Sequence[float], Sequence[float]]

    @property
    def ratio(self) -> float:
        """Of the second group's median to that of the first."""
        return statistics.median(self.times[1]) / statistics.median(self.times[0])

    @property
    def slowdown(self) -> float:
        """The largest factor by which times within one group differ."""
        return max(max(times) / min(times) for times in self.times)

    @cached_property  # by bootstrap, which many comparisons do without
    def interval(self) -> Interval | None:
        """Of the ratio of geometric means; None with fewer than three runs on a side."""
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
        """Whether the interval excludes 1 and the ratio is beyond what the machine alone did to equal runs."""
        if self.interval is None or self.interval.low <= 1 <= self.interval.high:
            return False
        return self.slowdown <= BUSY or max(self.ratio, 1 / self.ratio) > self.slowdown

    @property
    def same(self) -> bool | None:
        """True within `SAME_TIME`, False if separated, None if that cannot be told."""
        near = max(self.ratio, 1 / self.ratio) <= 1 + SAME_TIME
        if near:
            return True if self.slowdown <= BUSY else None
        return False if self.separated else None

    @property
    def doubt(self) -> str:
        """What to say if it cannot be told; else empty."""
        if self.same is not None:
            return ""
        return "wall-clock is not separated" + (
            ", equal runs differ as on a busy machine" if self.slowdown > BUSY else ""
        )

    def words(self) -> tuple[str, dict[str, Piece]]:
        """A template of both medians with their ranges, and its values."""
        sides, values = [], dict[str, Piece]()
        for side, (runs, times) in enumerate(zip(self.runs, self.times, strict=True)):
            numbers = {
                f"median_{side}": (statistics.median(times), MEDIAN),
                f"low_{side}": (min(times), SHORTEST),
                f"high_{side}": (max(times), LONGEST),
            }
            for name, (value, formula) in numbers.items():
                values[name] = sourced(value, "train_s", runs, formula, at="final", show=",.1f")
            several = min(times) < max(times)
            sides.append(f"{{median_{side}}} s" + (f" ({{low_{side}}} to {{high_{side}}})" if several else ""))
        few = ", fewer than three runs on a side" if min(map(len, self.times)) < MIN_RUNS else ""
        return f"{' against '.join(sides)} of training{few}", values


def compare_times(a: Sequence[Run], b: Sequence[Run]) -> TimeComparison | None:
    """Compare the seconds of training of two groups; None if no run of one recorded them."""
    timed = tuple([run for run in runs if (run.train_s or 0) > 0] for runs in (a, b))
    one, other = ([run.train_s or 0.0 for run in runs] for runs in timed)
    if not one or not other:
        return None
    return TimeComparison((timed[0], timed[1]), (one, other))


def slowdowns(runs: Sequence[Run]) -> Mapping[str, tuple[float, float]]:
    """By run id the median and the 90 % quantile of the logged speed, for runs on a machine that was busy meanwhile.

    What slows a machine down from outside leaves some entries at full speed. Slow entries alone, as the first while
    code is compiled, do not count.
    """
    found = {}
    for run in runs:
        speeds = run.series("tokens_per_s").values
        speeds = speeds[np.isfinite(speeds) & (speeds > 0)]
        if len(speeds) >= _MIN_ENTRIES:
            median, quick = (float(value) for value in np.quantile(speeds, (0.5, 0.9)))
            if quick > BUSY * median:
                found[run.run_id] = (median, quick)
    return found


MEDIAN_SPEED, QUICK_SPEED = "median of what was logged", "90 % quantile of what was logged"
"""Formulas of numbers."""


def busy_machine(metric: str, runs: Sequence[Run], ratio: float | None) -> Finding | None:
    """Whether a difference in a time by the factor `ratio` may come from what else the machine did.

    Slow-downs are seen in the logged speed of single runs. A difference that is larger than all of them stands.
    """
    if not metric_info(metric).is_timing or not ratio or ratio <= 0:
        return None
    found = slowdowns(runs)
    if not found:
        return None
    name = max(found, key=lambda run_id: found[run_id][1] / found[run_id][0])
    median, quick = found[name]
    if max(ratio, 1 / ratio) > quick / median:
        return None
    (run,) = (run for run in runs if run.run_id == name)
    return finding(
        "busy machine",
        "the machine was busy, which may be the whole difference",
        "{run} trained at {median} tokens/s in the median and at {quick} in its quickest tenth",
        run=name,
        median=sourced(median, "tokens_per_s", run, MEDIAN_SPEED, at="final"),
        quick=sourced(quick, "tokens_per_s", run, QUICK_SPEED, at="final"),
    )
