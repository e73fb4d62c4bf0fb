"""One run: its settings, results and metric series, and the problems found in its files."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.errors import explain_os_error
from spectral_exp.core.series import FloatArray, Series
from spectral_exp.runs.budget import Budget, parse_at
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.marks import NO_MARKS, Marks
from spectral_exp.runs.metric_names import (
    DERIVED,
    LANGUAGE_MODEL_UNITS,
    USE,
    Metric,
    metric_info,
)
from spectral_exp.runs.metrics_file import MetricFile, read_metrics
from spectral_exp.runs.planned import TRAINING_PASSES, planned_steps
from spectral_exp.runs.renamed import left_out_defaults
from spectral_exp.runs.status import FINISHED

_MIN_SPEEDS = 8  # fewest logged speeds for a quantile


@dataclass(frozen=True)
class MetricSummary:
    """Statistics of a metric.

    Attributes:
        count: number of values.
        non_finite: number of values that are NaN or infinite.
        final, final_step: the last value, finite or not, and its step.
        lowest, lowest_step: the lowest finite value and its first step; NaN and 0 if none is.
        highest, highest_step: the highest finite value and its first step; NaN and 0 if none is.
        median: median of the finite values; NaN if none is.
        first_non_finite: the first step with a non-finite value, or 0.
    """

    count: int
    non_finite: int
    final: float
    final_step: int
    lowest: float
    lowest_step: int
    highest: float
    highest_step: int
    median: float
    first_non_finite: int

    @classmethod
    def of(cls, series: Series) -> MetricSummary:
        """Summarize a series of at least one value."""
        finite = np.isfinite(series.values)
        steps, values = series.steps[finite], series.values[finite]
        end = (float(series.values[-1]), int(series.steps[-1]))
        counts = (len(series.values), len(series.values) - len(values))
        first_bad = 0 if finite.all() else int(series.steps[int(np.argmin(finite))])
        if not len(values):
            return cls(*counts, *end, math.nan, 0, math.nan, 0, math.nan, first_bad)
        low, high = int(values.argmin()), int(values.argmax())
        extremes = (float(values[low]), int(steps[low]), float(values[high]), int(steps[high]))
        with np.errstate(over="ignore"):  # the mean of two values near the largest float
            median = float(np.median(values))
        return cls(*counts, *end, *extremes, median, first_bad)

    def as_list(self) -> list[float]:
        """Return the fields in their order."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


@dataclass(frozen=True)
class Run:
    """The content of a run directory. Missing parts are empty and listed in `problems`.

    Attributes:
        path: the run directory.
        run_id: the folder's name, or `sweep/job` for a job of a sweep.
        name: the experiment's name (setting `name`), or the folder's name without its time and
            commit.
        seed: the setting `seed`; None if it is unknown.
        status: completed, stopped_early, pruned (ended by a search), interrupted, not_saved (the
            last state was lost), failed, diverged, running (locked by a live process), or
            unfinished (no results).
        settings: dotted name -> value of every resolved setting, without those that older records
            lack if they have their defaults.
        parts: part (embedding, attention, mlp, optimizer, loss or size) -> name in the ablation
            grid, if known.
        record: the rest of `config.json`: dataset, model, hardware, git, packages, attempts,
            command, overrides, units, better.
        results: `results.json`, non-finite numbers restored.
        config_hash: hash of the settings that define the experiment (see `parts.config_hash`).
        problems: a sentence for each part that could not be read.
        marks: tags, note, pin and archive.
        evaluations: the records of `evaluations.jsonl`, oldest first (see `runs.evaluations`).
        known_metrics: summaries of all metrics from the index, or None to read the file on demand.
        known_last_step: the last logged step from the index, or None.
        known_speeds: `logged_speeds` from the index, empty if there are too few; None reads them.
        read_series: returns the series of a metric; None reads the file of the run.
    """

    path: Path
    run_id: str
    name: str
    seed: int | None
    status: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    problems: tuple[str, ...] = ()
    marks: Marks = NO_MARKS
    evaluations: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    known_metrics: Mapping[str, MetricSummary] | None = field(
        default=None, repr=False, compare=False
    )
    known_last_step: int | None = field(default=None, repr=False, compare=False)
    known_speeds: Sequence[float] | None = field(default=None, repr=False, compare=False)
    read_series: Callable[[str], Series] | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The settings that `settings` leaves out because they have their defaults, by name."""
        return left_out_defaults(self.settings)

    @property
    def all_settings(self) -> dict[str, Any]:
        """`settings` and `defaults`."""
        return {**self.settings, **self.defaults}

    @property
    def finished(self) -> bool:
        """Whether the run completed or stopped early."""
        return self.status in FINISHED

    @property
    def last_step(self) -> int:
        """The last known step, or 0."""
        logged = self.known_last_step
        if logged is None:
            logged = self._metric_file.last_step
        return max(logged, _as_int(self._total("steps")) or 0)

    @property
    def planned_steps(self) -> int | None:
        """The last step by the limits of the run in steps, tokens and FLOPs; None if unknown."""
        return planned_steps(self.settings, self.record)

    @property
    def n_parameters(self) -> int | None:
        """Number of trainable parameters of the model; None if unknown."""
        model = _section(self.record, "model")
        return _as_int(model.get("num_trainable_parameters", model.get("num_parameters")))

    @property
    def tokens_per_step(self) -> int | None:
        """Tokens of one optimizer step, over all devices; None if unknown."""
        # The tokens of skipped steps are not among the total.
        steps = (_as_int(self._total("steps")) or 0) - (_as_int(self._total("bad_steps")) or 0)
        tokens = _as_int(self._total("tokens"))
        if steps > 0 and tokens and tokens % steps == 0:
            return tokens // steps
        names = ("training.batch_size", "model.block_size")
        sizes = [_as_int(self.settings.get(name)) for name in names]
        accumulated = _as_int(self.settings.get("training.grad_accum_steps", 1))
        if sizes[0] is None or sizes[1] is None or accumulated is None:
            return None
        return sizes[0] * sizes[1] * accumulated

    @property
    def flops_per_step(self) -> float | None:
        """FLOPs of one training step over all devices, forward and backward; None if unknown."""
        steps, flops = _as_int(self._total("steps")), _as_float(self._total("flops"))
        if steps and flops:
            return flops / steps
        forward = _as_float(_section(self.record, "model").get("flops_per_token"))
        if not forward or self.tokens_per_step is None:
            return None
        return TRAINING_PASSES * forward * self.tokens_per_step

    @property
    def train_s(self) -> float | None:
        """Seconds of training in `results.json`, without evaluation and waiting for monitoring."""
        return _as_float(self._total("train_s"))

    @functools.cached_property
    def is_language_model(self) -> bool:
        """Whether the run is one of this package's training command."""
        return _is_of_training_command(self.settings)

    def metric_info(self, metric: str) -> Metric:
        """Return the properties of a metric, with the unit and the direction that it has here."""
        units = recorded_units(self.record, self.settings)
        return metric_info(metric, units, _section(self.record, "better"))

    @property
    def metrics(self) -> Mapping[str, MetricSummary]:
        """The summary of every logged metric by name."""
        return self.known_metrics if self.known_metrics is not None else self._summaries

    def summary(self, metric: str) -> MetricSummary | None:
        """Return the summary of a metric, or None if it was never logged."""
        if self.known_metrics is not None:
            return self.known_metrics.get(metric)
        series = self.series(metric)
        return MetricSummary.of(series) if len(series.steps) else None

    def series(self, metric: str) -> Series:
        """Return the series of a metric, empty if it was never logged.

        The first call reads the file.

        Raises:
            UserError: the file cannot be read.
        """
        if self.known_metrics is not None and metric not in self.known_metrics:
            return _empty_series()
        if self.read_series is not None:
            return self.read_series(metric)
        return self._metric_file.series.get(metric) or _empty_series()

    def value(self, metric: str, at: str = "final") -> float | None:
        """Return a metric as one number, or None if it has no value.

        Args:
            metric: a name in the metric series or in `final_metrics`; that of an evaluation, such
                as `bpb@test:256`, which has a value at `final` only; or one of the derived
                `train_s`, `tokens`, `n_parameters`, `tokens_per_s` (median over the run), `steps`,
                `flops`, `cpu_s` and `device_s` (of training).
            at: `final`, `best` or a budget. `final` is the value in the results of a finished run
                (after an early stop, of the weights that were restored), and otherwise the last
                logged one. `best` is the best logged value; None if the metric has no direction.
                A budget, such as `step:N` or `seconds=60`, gives the last value that was logged
                within it; None if it is unknown which step that is.

        Raises:
            SettingError: `at` has another form.
        """
        budget = parse_at(at)
        if parse_evaluation(metric) is not None:
            return self._evaluated_value(metric) if at == "final" else None
        step = None if budget is None else self.step_within(budget)
        if budget is not None and step is None and metric != "n_parameters":
            return None
        if metric in DERIVED:
            return self._derived_value(metric, step)
        if step is not None:
            series = self.series(metric)
            count = int(np.searchsorted(series.steps, step, side="right"))
            return float(series.values[count - 1]) if count else None
        summary = self.summary(metric)
        reported = _as_float(_section(self.results, "final_metrics").get(metric))
        if at == "final":
            if summary is None or (self.finished and reported is not None):
                return reported
            return summary.final
        lower_is_better = self.metric_info(metric).lower_is_better
        if lower_is_better is None:
            return None
        if summary is None:
            return reported
        if summary.non_finite == summary.count:
            return None
        return summary.lowest if lower_is_better else summary.highest

    def step_within(self, budget: Budget) -> int | None:
        """Return the last step within a budget; None if that is unknown.

        It may be above the last step of the run, unless the budget is in seconds.
        """
        if budget.kind == "seconds":
            return self._step_at_time(budget.amount)
        cost = {
            "step": 1,
            "tokens": self.tokens_per_step,
            "flops": self.flops_per_step,
        }[budget.kind]
        return _whole_steps(budget.amount / cost) if cost else None

    def has_used(self, budget: Budget) -> bool:
        """Return whether the run has got as far as a budget."""
        if budget.kind == "seconds":
            used_s = self.train_s
            return (self._logged_times()[1][-1] if used_s is None else used_s) >= budget.amount
        step = self.step_within(budget)
        return step is not None and self.last_step >= step

    def _step_at_time(self, time_s: float) -> int | None:
        """Return the last step that ends within seconds of training, by logged throughput."""
        total_s = self.train_s
        if total_s is not None and time_s >= total_s:
            return self.last_step
        steps, times = self._logged_times()
        # Up to the last known time; within an entry, all steps take equally long.
        return _whole_steps(float(np.interp(time_s, times, steps))) if len(steps) > 1 else None

    def _logged_times(self) -> tuple[FloatArray, FloatArray]:
        """Return step 0 and the logged steps whose times are known, and these times."""
        steps = np.concatenate([[0.0], self.series("tokens_per_s").steps])
        times = self.train_time_s(steps)
        times[0] = 0.0
        is_known = np.isfinite(times)
        n_known = len(times) if is_known.all() else int(np.argmin(is_known))
        return steps[:n_known], times[:n_known]

    @property
    def logged_speeds(self) -> Sequence[float]:
        """Median and 90 % quantile of the logged tokens per second, or nothing below 8 entries."""
        if self.known_speeds is not None:
            return self.known_speeds
        return summarize_speeds(self.series("tokens_per_s"))

    def final_step(self, metric: str) -> int | None:
        """Return the step of `value(metric)`, or None if the metric was never logged."""
        if parse_evaluation(metric) is not None:
            value = self._evaluated_value(metric, "step")
            return None if value is None else int(value)
        final = _section(self.results, "final_metrics")
        step = final.get("step" if metric == "loss" or "val_step" not in final else "val_step")
        if self.finished and _as_float(final.get(metric)) is not None and isinstance(step, int):
            return step
        summary = self.summary(metric)
        return None if summary is None else summary.final_step

    def train_time_s(self, steps: FloatArray) -> FloatArray:
        """Return the seconds of training until each of `steps`, by logged throughput.

        NaN if the throughput is unknown.
        """
        wanted = np.asarray(steps, dtype=float)
        throughput, per_step = self.series("tokens_per_s"), self.tokens_per_step
        if per_step is None or not len(throughput.steps):
            return np.full(wanted.shape, np.nan)
        known = np.concatenate([[0.0], throughput.steps])
        # Each entry is the throughput since the previous entry. After an unusable entry, all times
        # are unknown.
        rates = np.where(throughput.values > 0, throughput.values, np.nan)
        elapsed = np.concatenate([[0.0], np.cumsum(np.diff(known) * per_step / rates)])
        times: FloatArray = np.interp(wanted, known, elapsed, right=np.nan)
        return times

    def _evaluated_value(self, metric: str, number: str = "") -> float | None:
        """Return a number of the newest evaluation that a metric means, by default its own."""
        evaluation = parse_evaluation(metric)
        newest = None if evaluation is None else evaluation.newest(self.evaluations)
        if evaluation is None or newest is None:
            return None
        return _as_float(newest.get(number or evaluation.number))

    def _derived_value(self, metric: str, step: int | None) -> float | None:
        if metric == "n_parameters":
            return _as_float(self.n_parameters)
        if metric == "tokens_per_s":
            summary = self.summary(metric)
            return summary.median if summary is not None else _as_float(self._total(metric))
        reached = self.last_step if step is None else min(step, self.last_step)
        if metric == "steps":
            return float(reached)
        if metric == "tokens":
            return None if self.tokens_per_step is None else float(reached * self.tokens_per_step)
        if metric == "flops":
            return None if self.flops_per_step is None else reached * self.flops_per_step
        if metric in USE:  # known for the whole run only
            return _as_float(self._total(metric)) if reached == self.last_step else None
        if step is None or step >= self.last_step:
            return self.train_s
        time_s = float(self.train_time_s(np.array([float(step)]))[0])
        return None if math.isnan(time_s) else time_s

    def _total(self, name: str) -> Any:
        return _section(self.results, "totals").get(name)

    @functools.cached_property
    def _metric_file(self) -> MetricFile:
        path = RunPaths(self.path).metrics_file
        with explain_os_error(f"read {path}"), suppress(FileNotFoundError):
            return read_metrics(path)
        return MetricFile()

    @functools.cached_property
    def _summaries(self) -> dict[str, MetricSummary]:
        return {name: MetricSummary.of(series) for name, series in self._metric_file.series.items()}


def usual_metric(runs: Iterable[Run]) -> str:
    """Return the metric in which runs are compared unless another is named.

    The first that any run has of `val_bpb`, `val_loss`, another metric of validation, `loss`, any
    other metric of which it is known which values are better, and any other about the model.
    """
    runs = list(runs)
    describe = metric_describer(runs)
    reported = (name for run in runs for name in _section(run.results, "final_metrics"))
    names = dict.fromkeys([*(name for run in runs for name in run.metrics), *reported])
    hidden = ("step", "val_step")
    about = {name: describe(name) for name in names if name not in hidden}
    known = {name: info for name, info in about.items() if info.direction is not None}
    ranked = [
        ["val_bpb", "val_loss"],
        [name for name, info in known.items() if info.kind == "validation"],
        ["loss"],
        [name for name, info in known.items() if info.kind not in ("machine", "cost")],
        [name for name, info in about.items() if info.kind not in ("machine", "cost")],
    ]
    candidates = (name for group in ranked for name in group if name in names)
    return next(candidates, "val_bpb")


def shared_metric_info(metric: str, runs: Iterable[Run]) -> Metric:
    """Return the properties of a metric with the unit and direction in which the runs agree.

    Runs without the metric do not count.
    """
    return metric_describer(runs)(metric)


def metric_describer(runs: Iterable[Run]) -> Callable[[str], Metric]:
    """Return the function from metrics to `shared_metric_info(metric, runs)`.

    Runs with equal units and directions are described once, so many metrics of many runs are cheap.
    """
    alike: dict[Any, list[Run]] = {}
    for run in runs:
        given = [_section(run.record, name) for name in ("units", "better")]
        key = (run.is_language_model, *(tuple(sorted(section.items())) for section in given))
        alike.setdefault(key, []).append(run)

    def describe(metric: str) -> Metric:
        infos = {}
        for same in alike.values():
            if len(alike) == 1 or any(run.value(metric) is not None for run in same):
                info = same[0].metric_info(metric)
                infos[info.unit, info.direction] = info
        return infos.popitem()[1] if len(infos) == 1 else metric_info(metric)

    return describe


def recorded_units(record: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the units of a run's metrics by name, from its record and its flat settings."""
    usual = LANGUAGE_MODEL_UNITS if _is_of_training_command(settings) else {}
    return {**usual, **_section(record, "units")}


def _is_of_training_command(settings: Mapping[str, Any]) -> bool:
    return any(
        name.endswith("._target_") and str(value).startswith("spectral_exp.")
        for name, value in settings.items()
    )


def summarize_speeds(series: Series) -> list[float]:
    """Return median and 90 % quantile of the positive values, or nothing below 8 values."""
    speeds = series.values[np.isfinite(series.values) & (series.values > 0)]
    if len(speeds) < _MIN_SPEEDS:
        return []
    return [float(value) for value in np.quantile(speeds, (0.5, 0.9))]


def _whole_steps(steps: float) -> int:
    """Return the whole part of a number of steps, which rounding may have made smaller."""
    return math.floor(steps * (1 + 1e-12))


def _empty_series() -> Series:
    return Series(np.empty(0), np.empty(0))


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _as_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
