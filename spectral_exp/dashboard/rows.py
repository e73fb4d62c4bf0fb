"""A run as a row of the table of runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.dashboard.identity import color_of, experiment_hash
from spectral_exp.results.checks import run_flags
from spectral_exp.runs.marks import Marks
from spectral_exp.runs.run import Run

Row = dict[str, Any]


def unread_row(key: str, path: Path, run_id: str, updated_s: float) -> Row:
    """Return the row of a run whose files are not read yet."""
    return {"key": key, "id": run_id, "path": str(path), "updated_s": updated_s, "read": False}


def run_row(key: str, run: Run, updated_s: float) -> Row:
    """Return the row of a run."""
    experiment = experiment_hash(run)
    step, max_steps = run.last_step, run.planned_steps
    return {
        "key": key,
        "id": run.run_id,
        "path": str(run.path),
        "updated_s": updated_s,
        "read": True,
        "name": run.name,
        "seed": run.seed,
        "status": run.status,
        "color": color_of(experiment),
        "experiment_hash": experiment,
        "step": step,
        "max_steps": max_steps,
        "eta_s": _remaining_s(run, step, max_steps) if run.status == "running" else None,
        "started_s": finite(seconds_since_epoch(run.record.get("timestamp"))),
        "warnings": len(run_flags(run)),
        **marks_values(run.marks),
    }


def marks_values(marks: Marks) -> Row:
    """Return the marks of a run as the page shows them."""
    return {
        "tags": list(marks.tags),
        "archived": marks.is_archived,
        "pinned": marks.is_pinned,
        "note": printable_lines(marks.note),
    }


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold, or None."""
    return value if value is not None and math.isfinite(value) else None


def _remaining_s(run: Run, step: int, max_steps: int | None) -> float | None:
    """Return the seconds that the remaining steps take at the last logged throughput."""
    summary, per_step = run.summary("tokens_per_s"), run.tokens_per_step
    if summary is None or per_step is None or max_steps is None or not summary.final > 0:
        return None
    return finite(max(max_steps - step, 0) * per_step / summary.final)
