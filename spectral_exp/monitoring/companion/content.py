"""What a mirror sends besides metrics, read from the files of a run."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spectral_exp.core.errors import UserError
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.monitoring.companion.trackers.base import Point
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_lines import RESERVED, metric_number
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.plot_files import named_plots
from spectral_exp.runs.record import read_config, read_results

_SAMPLE = re.compile(r"\S+ sample at step (?P<step>\d{1,15}): (?P<text>['\"].*['\"])")
_MAX_SAMPLE = 100_000  # characters
_SECTIONS = ("final_metrics", "best_metrics", "totals", "reference")
_FACTS = ("experiment_id", "git_hash", "parent", "model", "hardware", "dataset")


class Plot(NamedTuple):
    """A plot: when it was written, its file, and what it shows at which step."""

    mtime_ns: int
    file: Path
    kind: str
    step: int


class Sample(NamedTuple):
    """A text that the model has generated after a step."""

    step: int
    text: str


def read_point(entry: Mapping[str, Any]) -> Point:
    """Return the finite numbers of a line of metrics."""
    numbers = {
        name: number
        for name, value in entry.items()
        if name not in RESERVED
        and (number := metric_number(value)) is not None
        and math.isfinite(number)
    }
    time_s = seconds_since_epoch(entry.get("timestamp"))
    return Point(entry["step"], 0.0 if math.isnan(time_s) else time_s, numbers)


def read_settings(paths: RunPaths) -> tuple[str, dict[str, Any]]:
    """Return the name of a run's configuration, and dotted name -> setting or fact of the record.

    Nothing if there is no readable record.
    """
    try:
        record, _ = read_config(paths.config_file)
    except UserError:
        return "", {}
    config = dict(flatten(record.get("config", {})))
    facts = {
        name: value
        for section in _FACTS
        for name, value in flatten(record.get(section), section)
        if value is not None
    }
    return str(config.get("name", "")), {**facts, **config}


def read_outcome(paths: RunPaths) -> dict[str, Any]:
    """Return dotted name -> number or text of a run's results; nothing without results."""
    try:
        results: Mapping[str, Any] = read_results(paths.results_file)[0]
    except UserError:
        return {}
    found = {name: results[name] for name in ("status", "error") if name in results}
    for section in _SECTIONS:
        for name, value in flatten(results.get(section), section):
            if isinstance(value, int | float | str) and not _is_non_finite(value):
                found[name] = value
    return found


def results_state(paths: RunPaths) -> list[int] | None:
    """Return what changes when the results of a run are written again; None without results."""
    try:
        state = paths.results_file.stat()
    except OSError:
        return None
    return [state.st_ino, state.st_mtime_ns]


def _is_non_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def new_plots(paths: RunPaths, after: tuple[int, str]) -> list[Plot]:
    """Return the plots written after the plot with this time (ns) and name, in that order."""
    found = []
    for plot in named_plots(paths):
        try:
            mtime_ns = plot.file.stat().st_mtime_ns
        except OSError:
            continue
        if (mtime_ns, plot.file.name) > after:
            found.append(Plot(mtime_ns, plot.file, plot.kind, plot.step))
    return sorted(found)


def samples_in(lines: Sequence[bytes]) -> Iterator[Sample]:
    """Yield the samples in lines of the training log."""
    for line in lines:
        match = _SAMPLE.fullmatch(line.decode(errors="replace"))
        if match and len(match["text"]) <= _MAX_SAMPLE:
            try:
                text = ast.literal_eval(match["text"])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(text, str):
                yield Sample(int(match["step"]), text)
