"""Everything that the page of one run shows beside its curves."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable, printable_lines
from spectral_exp.core.json_text import parse_object
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.dashboard.certificate import certificate_text
from spectral_exp.dashboard.curves import describe_metric
from spectral_exp.dashboard.evaluations import evaluations_answer
from spectral_exp.dashboard.group_tables import metric_names
from spectral_exp.dashboard.log_window import log_files
from spectral_exp.dashboard.rows import Row, finite, marks_values
from spectral_exp.dashboard.run_files import (
    PlotFile,
    UnknownFileError,
    list_files,
    list_plots,
    open_inside,
)
from spectral_exp.dashboard.system_store import system_bytes
from spectral_exp.results.checks import run_flags
from spectral_exp.results.names import value_text
from spectral_exp.results.number_texts import decimals, number_text
from spectral_exp.runs.differences import run_differences
from spectral_exp.runs.layout import CHECKPOINTS_FOLDER, RunPaths
from spectral_exp.runs.metric_names import METRICS
from spectral_exp.runs.overrides import is_among, setting_of
from spectral_exp.runs.run import Run
from spectral_exp.runs.spectra import read_spectra

_MAX_SAMPLE = 20_000  # characters
_MAX_RECORD_BYTES = 1 << 20


def run_details(run: Run, row: Row) -> dict[str, Any]:
    """Return the record of a run as plain values, all texts safe to show."""
    record, results = run.record, run.results
    return {
        "row": row,
        "problems": list(run.problems),
        "findings": [
            {"text": str(one), "severity": one.severity, "kind": one.kind} for one in run_flags(run)
        ],
        "settings": _settings(run),
        "has_defaults": "changed_settings" in record,
        "overrides": [printable(text) for text in record.get("overrides") or ()],
        "command": " ".join(printable(word) for word in record.get("command") or ()),
        "attempts": _safe(record.get("attempts") or []),
        "data": _safe(record.get("dataset") or {}),
        "model": _safe(record.get("model") or {}),
        "code": _safe(record.get("git") or {}),
        "packages": _safe(record.get("packages") or {}),
        "hardware": _safe({**(record.get("host") or {}), **(record.get("hardware") or {})}),
        "results": _safe({k: v for k, v in results.items() if k != "generation_samples"}),
        "checkpoints": _checkpoints(run),
        "certificate": certificate_text(run.path),
        "cost": _costs(run),
        "files": [
            {
                "id": file.id,
                "name": printable(file.name),
                "size": file.size,
                "modified_s": file.modified_s,
                "viewable": file.is_viewable,
            }
            for file in list_files(run.path)
        ],
        "logs": [{"name": name, "size": size} for name, size in log_files(run.path)],
        "plots": plots_by_name(list_plots(run.path)),
        "samples": _samples(run),
        "evaluations": evaluations_answer(run),
        "spectra": _spectra(run),
        "has_system": system_bytes(run.path) > 0,
        "marks": marks_values(run.marks),
        "metrics": [_metric(run, name) for name in metric_names([run]) if name in run.metrics],
    }


def diff_answer(one: Run, other: Run) -> dict[str, Any]:
    """Return the differences of two runs before training, as `compare config-diff` prints them."""
    words = ["spectral-exp", "compare", "config-diff", str(one.path), str(other.path)]
    return {
        "sections": [
            {"title": title, "lines": [printable(line) for line in lines]}
            for title, lines in run_differences(one, other).items()
        ],
        "command": shlex.join(words),
    }


def _safe(value: Any) -> Any:
    """Return a part of a record as JSON whose texts hold no control characters."""
    value = jsonable(value)
    if isinstance(value, str):
        return printable_lines(value, _MAX_SAMPLE)
    if isinstance(value, list):
        return [_safe(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _safe(item) for key, item in value.items()}
    return value


def _settings(run: Run) -> list[dict[str, Any]]:
    overridden = [setting_of(text) for text in run.record.get("overrides") or ()]
    changed = _changed_settings(run)
    return [
        {
            "name": name,
            "value": value_text(value),
            "overridden": is_among(name, overridden),
            "changed": name in changed,
            "default": changed.get(name),
            "group": name.partition(".")[0] if "." in name else "",
        }
        for name, value in run.all_settings.items()
    ]


def _changed_settings(run: Run) -> dict[str, str | None]:
    """Return the default of each setting that differs from it; None if there is no default."""
    recorded = run.record.get("changed_settings") or {}
    return {
        printable(name): value_text(entry["default"]) if "default" in entry else None
        for name, entry in recorded.items()
    }


def plots_by_name(plots: Sequence[PlotFile]) -> list[dict[str, Any]]:
    """Return the names of plots, each with its steps."""
    steps: dict[str, list[int]] = {}
    for plot in plots:
        steps.setdefault(plot.plot, []).append(plot.step)
    return [
        {
            "name": name,
            "title": printable(name.replace("_", " ").capitalize()),
            "steps": of_plot,
        }
        for name, of_plot in steps.items()
    ]


def _spectra(run: Run) -> list[dict[str, Any]]:
    """Return which histograms a run has recorded; none if they cannot be read."""
    try:
        spectra = read_spectra(run.path)
    except UserError:
        return []
    return [
        {"name": one.name, "title": one.title, "unit": one.unit, "steps": one.steps.tolist()}
        for one in spectra
    ]


def spectrum_answer(run: Path, name: str) -> dict[str, Any]:
    """Return the histograms of one kind over the steps. Raises UserError if there are none."""
    found = read_spectra(run, [name])
    if not found:
        raise UnknownFileError("the run has no such histograms")
    spectrum = found[-1]  # those of other bins are older
    used = spectrum.used_bins
    return {
        "name": spectrum.name,
        "title": spectrum.title,
        "unit": spectrum.unit,
        "is_logarithmic": spectrum.is_logarithmic,
        "edges": spectrum.edges[used.start : used.stop + 1].tolist(),
        "steps": spectrum.steps.tolist(),
        "counts": spectrum.counts[:, used].tolist(),
        "nan": spectrum.n_nan.tolist(),
    }


def _samples(run: Run) -> list[dict[str, Any]]:
    found = []
    for sample in run.results.get("generation_samples") or ():
        if not isinstance(sample, Mapping):
            continue
        step = sample.get("step")
        found.append(
            {
                "step": step if isinstance(step, int) else None,
                "prompt": printable_lines(str(sample.get("prompt") or ""), _MAX_SAMPLE),
                "text": printable_lines(str(sample.get("text") or ""), _MAX_SAMPLE),
            }
        )
    return found


def _metric(run: Run, name: str) -> dict[str, Any]:
    summary = run.summary(name)
    values = [] if summary is None else [summary.final, summary.lowest, summary.highest]
    digits = decimals(values)
    shown = [number_text(value, digits) for value in values] or ["-"] * 3
    return {
        **describe_metric(name, run.metric_info(name)),
        "panel": name in METRICS,
        "last": shown[0],
        "lowest": shown[1],
        "highest": shown[2],
        "lower_is_better": run.metric_info(name).lower_is_better,
        "last_step": summary.final_step if summary else None,
        "lowest_step": summary.lowest_step if summary else None,
        "highest_step": summary.highest_step if summary else None,
        "count": summary.count if summary else 0,
        "non_finite": summary.non_finite if summary else 0,
        "first_non_finite": summary.first_non_finite if summary else 0,
    }


def _record(run: Run, name: str) -> dict[str, Any]:
    """Return a small JSON file of a run, empty if it is missing or damaged."""
    try:
        with open_inside(run.path, name) as file:
            return parse_object(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return {}


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    """Return the checkpoints of a run by the records beside them; none is opened."""
    paths = RunPaths(run.path)
    try:
        steps = paths.checkpoint_steps()
    except UserError:
        return []
    cost = run.results.get("monitoring_cost") or {}
    saves = cost.get("saves") if isinstance(cost, Mapping) else None
    durable = {
        save.get("step"): save.get("durable_s")
        for save in (saves if isinstance(saves, list) else ())
        if isinstance(save, Mapping)
    }
    sidecars = {}
    for step in steps:
        name = f"{CHECKPOINTS_FOLDER}/{paths.checkpoint_file(step).name}.json"
        sidecars[step] = _record(run, name)
    newest = max(steps, key=lambda step: (_whole(sidecars[step].get("serial")), step), default=None)
    best = sidecars[newest].get("best_step") if newest is not None else None
    return [
        {
            "name": paths.checkpoint_file(step).name,
            "step": step,
            "size_mb": _size_mb(run, step),
            "saved_s": finite(seconds_since_epoch(sidecars[step].get("timestamp"))),
            "kept": ", ".join(
                word
                for word, holds in (("latest", step == newest), ("best", step == best))
                if holds
            ),
            "durable_s": durable.get(step),
        }
        for step in steps
    ]


def _size_mb(run: Run, step: int) -> float | None:
    try:
        return RunPaths(run.path).checkpoint_file(step).lstat().st_size / 1e6
    except OSError:
        return None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _costs(run: Run) -> list[dict[str, Any]]:
    """Return what the monitoring of a run has cost."""
    cost = run.results.get("monitoring_cost") or {}
    if not isinstance(cost, Mapping):
        return []
    rows = []
    share = cost.get("share_of_training")
    if isinstance(share, float):
        rows.append(("share of training time", share, f"{100 * share:.2f} %"))
    blocked = cost.get("blocked_s")
    for name, seconds in blocked.items() if isinstance(blocked, Mapping) else ():
        if isinstance(seconds, int | float):
            rows.append((f"blocked by {printable(name)}", seconds, f"{seconds:,.3f} s"))
    for name, label in (("evaluation_s", "evaluation"), ("train_s", "training")):
        seconds = cost.get(name)
        if isinstance(seconds, int | float):
            rows.append((label, seconds, f"{seconds:,.1f} s"))
    return [{"label": label, "value": value, "text": text} for label, value, text in rows]
