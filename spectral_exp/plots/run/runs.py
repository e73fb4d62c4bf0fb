"""Experiments of a comparison, from run directories or mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.core.json_value import restore_non_finite
from spectral_exp.plots.run import DrawFigure
from spectral_exp.plots.run.experiment import Experiment
from spectral_exp.plots.run.histories import (
    LeaveOut,
    clip_extremes,
    is_steps_and_values,
    metric_series,
    numbers,
)
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metrics_file import read_metrics
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.record import ResultsRecord, read_config, read_results
from spectral_exp.runs.run import recorded_units

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison_drawing(experiments: Sequence[Experiment]) -> DrawFigure | None:
    """Return the plot that compares `experiments`, or None if there are none."""
    return partial(_draw_comparison, list(experiments)) if experiments else None


def _draw_comparison(experiments: Sequence[Experiment]) -> Figure:
    from spectral_exp.plots.run.comparison import comparison_figure

    shown = [
        replace(each, series={name: clip_extremes(series) for name, series in each.series.items()})
        for each in experiments
    ]
    return comparison_figure(shown)


def label_sources(experiments: Mapping[str, Any] | Sequence[str | Path]) -> list[tuple[str, Any]]:
    """Return (label, source) pairs; a run's label is its name, or its path if names repeat."""
    if isinstance(experiments, Mapping):
        return [(str(label), source) for label, source in experiments.items()]
    paths = [Path(path) for path in experiments]
    names = [path.resolve().name for path in paths]
    return [
        (name if names.count(name) == 1 else str(path), path)
        for name, path in zip(names, paths, strict=True)
    ]


def experiment(
    label: str, source: Mapping[str, Any] | str | Path, leave_out: LeaveOut
) -> Experiment:
    """Return the experiment of a run directory or a mapping.

    Args:
        label: of the experiment.
        source: the run directory, or a mapping with any of `loss_history`, `metrics` and
            `final_metrics`.
        leave_out: gets the quantities of a mapping that cannot be drawn.

    Raises:
        UserError: the run directory holds nothing to compare, or cannot be read.
    """
    if isinstance(source, Mapping):
        return _from_mapping(label, source, leave_out)
    return _from_run(label, Path(source))


def _from_mapping(label: str, source: Mapping[str, Any], leave_out: LeaveOut) -> Experiment:
    def leave_out_here(name: str, error: Exception) -> None:
        leave_out(f"{name} of {label}", error)

    history, n_steps = source.get("loss_history"), 0
    if history is not None:
        try:
            n_steps = numbers(history[0] if is_steps_and_values(history) else history).size
        except Exception as error:
            leave_out_here("loss_history", error)
    series = metric_series(source.get("metrics") or {}, n_steps, leave_out_here)
    if n_steps:
        series |= metric_series({"loss": history}, n_steps, leave_out_here)
    return Experiment(label, series, _final_numbers(source.get("final_metrics")))


def _from_run(label: str, run: Path) -> Experiment:
    """Return the metrics of a run directory; damaged lines are skipped."""
    paths = RunPaths(run)
    if not paths.metrics_file.exists() and not paths.results_file.exists():
        metrics_name = paths.metrics_file.relative_to(run)
        raise UserError(
            f"{run} holds neither {metrics_name} nor {paths.results_file.name}; name a run "
            "directory"
        )
    with explain_os_error(f"read {paths.metrics_file}"):
        series = read_metrics(paths.metrics_file).series if paths.metrics_file.exists() else {}
    results: ResultsRecord = (
        read_results(paths.results_file)[0] if paths.results_file.exists() else {}
    )
    return Experiment(label, series, _final_numbers(results.get("final_metrics")), _units(paths))


def _units(paths: RunPaths) -> dict[str, str]:
    """Return the units of a run's metrics; none if its record cannot be read."""
    try:
        record, _ = read_config(paths.config_file)
    except UserError:
        return {}
    return recorded_units(record, dict(flatten(record.get("config", {}))))


def _final_numbers(values: object) -> dict[str, float]:
    """Return the numbers among final metrics, without their step."""
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): _as_number(value) for name, value in values.items()}
    return {name: number for name, number in found.items() if number is not None and name != "step"}


def _as_number(value: object) -> float | None:
    """Return a number, also a non-finite one in its JSON form; None for other values."""
    value = restore_non_finite(value)
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None  # an array of several numbers, or an integer that no float can hold
