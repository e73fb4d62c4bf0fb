"""Experiments of a comparison, from run directories or mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_value import restore_non_finite
from spectral_exp.plots.run import Drawing
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
from spectral_exp.runs.record import ResultsRecord, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison_drawing(experiments: Sequence[Experiment]) -> Drawing | None:
    """The figure that compares them; None without any."""
    return partial(_draw_comparison, list(experiments)) if experiments else None


def _draw_comparison(experiments: Sequence[Experiment]) -> Figure:
    from spectral_exp.plots.run.comparison import comparison_figure

    shown = [
        replace(each, series={name: clip_extremes(series) for name, series in each.series.items()})
        for each in experiments
    ]
    return comparison_figure(shown)


def label_sources(experiments: Mapping[str, Any] | Sequence[str | Path]) -> list[tuple[str, Any]]:
    """Return (label, source) pairs; runs get their names, or their paths if names repeat."""
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
    """Return the experiment of a run directory or a mapping; `leave_out` gets what it lacks.

    Raises:
        UserError: the run directory holds nothing to compare, or cannot be read.
    """
    return (
        _from_mapping(label, source, leave_out)
        if isinstance(source, Mapping)
        else _from_run(label, Path(source))
    )


def _from_mapping(label: str, source: Mapping[str, Any], leave_out: LeaveOut) -> Experiment:
    history = source.get("loss_history")
    try:
        n_steps = (
            0
            if history is None
            else numbers(history[0] if is_steps_and_values(history) else history).size
        )
    except Exception as error:
        leave_out(f"loss_history of {label}", error)
        n_steps = 0
    metrics = source.get("metrics") or {}
    series = metric_series(
        metrics, n_steps, lambda name, error: leave_out(f"{name} of {label}", error)
    )
    if n_steps:
        series |= metric_series(
            {"loss": history}, n_steps, lambda name, error: leave_out(f"{name} of {label}", error)
        )
    return Experiment(label, series, _finals(source.get("final_metrics")))


def _from_run(label: str, run: Path) -> Experiment:
    """Return a run's metrics, also without a record of its settings; skip damaged lines."""
    paths = RunPaths(run)
    if not paths.metrics_file.exists() and not paths.results_file.exists():
        raise UserError(
            f"{run} holds neither {paths.metrics_file.relative_to(run)} nor {paths.results_file.name}"
        )
    try:
        series = read_metrics(paths.metrics_file).series if paths.metrics_file.exists() else {}
    except OSError as error:
        raise UserError(f"cannot read {paths.metrics_file}: {error.strerror}") from error
    results: ResultsRecord = (
        read_results(paths.results_file)[0] if paths.results_file.exists() else {}
    )
    return Experiment(label, series, _finals(results.get("final_metrics")))


def _finals(values: object) -> dict[str, float]:
    """Return the numbers among final metrics, without their step."""
    found = (
        {str(name): _as_number(value) for name, value in values.items()}
        if isinstance(values, Mapping)
        else {}
    )
    return {name: number for name, number in found.items() if number is not None and name != "step"}


def _as_number(value: object) -> float | None:
    """Return a number, also one that JSON holds as a string; None for anything else."""
    value = restore_non_finite(value)
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ):  # an array, a number beyond every float
        return None
