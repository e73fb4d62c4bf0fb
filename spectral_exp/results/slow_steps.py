"""Findings about steps that took several times as long as usual, with the likely cause."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.results.finding import Finding, Measured, Piece, finding, measurement
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import Run
from spectral_exp.runs.system_metrics import Moment, measured_before

_BUSY_PROCESSORS = 0.5  # more than usual that others use
_LITTLE_MEMORY = 0.03
_HOT_C = 83.0

_METRIC = "slowdown"


def slow_steps(run: Run) -> Finding | None:
    """Return a finding if steps were logged that took several times as long as usual."""
    summary = run.metrics.get(_METRIC)
    if summary is None or not summary.highest_step:
        return None
    moment = _moment(run.path, summary.highest_step)
    detail, values = ("", {}) if moment is None else _cause(run, moment)
    found = finding(
        "slow steps",
        "steps up to step {step} took {slowdown} times as long as usual",
        detail,
        severity="info",
        step=measurement(summary.highest_step, _METRIC, run, "step of the highest value"),
        slowdown=measurement(summary.highest, _METRIC, run, "highest value", show=".1f"),
    )
    return replace(found, values={**found.values, **values})


def _moment(run: Path, step: int) -> Moment | None:
    try:
        state = RunPaths(run).system_file.stat()
        return _read_moment(run, step, state.st_mtime_ns)
    except (OSError, UserError):
        return None


@functools.lru_cache(maxsize=1024)
def _read_moment(run: Path, step: int, mtime_ns: int) -> Moment | None:
    """Return the system metrics before a step; lists of runs ask for them again and again."""
    return measured_before(run, step)


def _cause(run: Run, moment: Moment) -> tuple[str, dict[str, Piece]]:
    """Return the likely cause as a template and its values."""
    cpus = (run.record.get("hardware") or {}).get("cpu_count")
    then, usual = moment.then, moment.usual
    if cpus and (used := _used_by_others(then, cpus)) is not None:
        before = _used_by_others(usual, cpus)
        if before is not None and used > before + _BUSY_PROCESSORS:
            return (
                "other processes used {used} processors, and usually {before}",
                {
                    "used": _mean_then(used, "system/cpu_percent", run, ".1f"),
                    "before": _mean_then(before, "system/cpu_percent", run, ".1f"),
                },
            )
    total = (run.record.get("hardware") or {}).get("memory_gb")
    free = then.get("system/memory_available_mb")
    if total and free is not None and free < _LITTLE_MEMORY * 1000 * total:
        return (
            "only {free} MB of memory were available",
            {"free": _mean_then(free, "system/memory_available_mb", run)},
        )
    hot = {name: value for name, value in then.items() if name.endswith("/temperature_c")}
    hottest = max(hot, key=lambda name: hot[name], default="")
    if hottest and hot[hottest] >= _HOT_C:
        return (
            "the GPU had {temperature} °C, at which it may have been slowed down",
            {"temperature": _mean_then(hot[hottest], hottest, run)},
        )
    return "", {}


def _used_by_others(values: dict[str, float], cpus: int) -> float | None:
    """Return the number of processors that other processes use; None if it was not measured."""
    everything, own = values.get("system/cpu_percent"), values.get("system/run_cpu_percent")
    return None if everything is None or own is None else max(0.0, (everything * cpus - own) / 100)


def _mean_then(value: float, name: str, run: Run, show: str = ",.0f") -> Measured:
    return measurement(value, name, run, "mean of the measurements at that time", show=show)
