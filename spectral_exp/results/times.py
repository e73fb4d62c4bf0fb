"""Comparison of the training times of two groups of runs, allowing for their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spectral_exp.results.finding import Finding, Piece, finding, measurement
from spectral_exp.results.statistics import MIN_RUNS, Interval, unpaired_contrast
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.run import Run

SAME_TIME = 0.05
"""Relative difference up to which median times count as equal.

Repeats on an idle machine differ by one or two per cent.
"""

BUSY = 1.1
"""Factor between times of equal runs, or speeds within a run, above which the machine is busy."""

_MIN_ENTRIES = 8  # fewest logged speeds for a quantile
MEDIAN, SHORTEST, LONGEST = "median of the runs", "smallest of the runs", "largest of the runs"
"""Formulas of numbers."""


@dataclass(frozen=True)
class TimeComparison:
    """Seconds of training of two groups.

    Attributes:
        runs: the runs of both groups that recorded a time.
        times: their seconds.
    """

    runs: tuple[Sequence[Run], Sequence[Run]]
    times: tuple[Sequence[float], Sequence[float]]

    @property
    def ratio(self) -> float:
        """The second group's median over the first group's."""
        return statistics.median(self.times[1]) / statistics.median(self.times[0])

    @property
    def slowdown(self) -> float:
        """The largest factor by which times within one group differ."""
        return max(max(times) / min(times) for times in self.times)

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
        return "wall-clock is not separated" + (
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
                values[name] = measurement(value, "train_s", runs, formula, at="final", show=",.1f")
            several = min(times) < max(times)
            sides.append(
                f"{{median_{side}}} s"
                + (f" ({{low_{side}}} to {{high_{side}}})" if several else "")
            )
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
    """Return median and 90 % quantile of the logged speed of runs on a busy machine, by run id.

    Other load leaves some entries at full speed. A few slow entries, such as the first ones while
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
    """Return a finding if other load may explain a difference in time by the factor `ratio`.

    The logged speeds of single runs show slow-downs; a difference larger than all of them counts.
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
        median=measurement(median, "tokens_per_s", run, MEDIAN_SPEED, at="final"),
        quick=measurement(quick, "tokens_per_s", run, QUICK_SPEED, at="final"),
    )
