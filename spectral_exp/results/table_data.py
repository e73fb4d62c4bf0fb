"""Comparisons and runs as JSON and CSV, with every digit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.foreign_text import printable, printable_json
from spectral_exp.core.json_value import jsonable
from spectral_exp.results.attribution import Attribution
from spectral_exp.results.attribution_tables import attribution_rows, attribution_values
from spectral_exp.results.compared import Comparison, Difference, Equivalence, GroupSummary
from spectral_exp.results.names import ABSENT
from spectral_exp.results.table_formats import MAX_NOTE
from spectral_exp.runs.run import Run

LeftOut = Sequence[tuple[Path, str]]
"""Path and reason of each folder that could not be used."""

_CSV_COLUMNS = (
    *(
        "metric",
        "at",
        "row",
        "part",
        "given",
        "group",
        "against",
        "n",
        "mean",
        "low",
        "high",
        "median",
    ),
    *("iqm", "paired", "probability_of_improvement", "p_value", "p_holm", "separated"),
    *("level", "detectable", "margin", "p_equivalence", "p_equivalence_holm", "equivalent"),
    "notes",
)


def comparisons_as_json(
    comparisons: Sequence[Comparison],
    left_out: LeftOut,
    remark: str = "",
    attributions: Sequence[Attribution] = (),
) -> str:
    """Return comparisons as JSON, runs by their ids."""
    content: dict[str, Any] = {"comparisons": list(map(comparison_values, comparisons))}
    if attributions:
        content["attributions"] = list(map(attribution_values, attributions))
    return as_json(content, left_out, remark)


def runs_as_json(
    runs: Sequence[Run], metrics: Sequence[str], at: str, left_out: LeftOut, remark: str = ""
) -> str:
    """Return runs as JSON."""
    values = [_run_values(run, metrics, at) for run in runs]
    return as_json({"at": at, "runs": values}, left_out, remark)


def comparisons_as_csv(
    comparisons: Sequence[Comparison], attributions: Sequence[Attribution] = ()
) -> str:
    """Return a row for each group, each difference and each effect of a single part."""
    rows = [row for one in comparisons for row in _comparison_rows(one)]
    for attribution in attributions:
        for values in attribution_rows(attribution):
            rows.append({name: values.get(name) for name in _CSV_COLUMNS})
    return as_csv(rows)


def runs_as_csv(runs: Sequence[Run], metrics: Sequence[str], at: str) -> str:
    """Return a row for each run."""
    return as_csv([_run_values(run, metrics, at) for run in runs])


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values."""
    return {
        **_attributes(comparison, "metric", "at", "lower_is_better", "baseline"),
        "groups": list(map(_group_values, comparison.summaries)),
        "differences": list(map(_difference_values, comparison.differences)),
        "notes": list(map(str, comparison.notes)),
    }


def _group_values(summary: GroupSummary) -> dict[str, Any]:
    interval = summary.interval
    return {
        "label": summary.group.label,
        "key": {name: v for name, v in summary.group.key.items() if v is not ABSENT},
        "runs": [
            {"run_id": run.run_id, "path": str(run.path), "seed": run.seed}
            for run in summary.group.runs
        ],
        "strata": list(summary.group.strata),
        "n": len(summary.values),
        "values": list(summary.values),
        "seeds": list(summary.seeds),
        "mean": summary.mean,
        "interval": interval and [interval.low, interval.high],
        **_attributes(summary, "median", "iqm"),
        "left_out": [
            {"run_id": run_id, "reason": str(reason)} for run_id, reason in summary.left_out
        ],
        "notes": list(map(str, summary.notes)),
    }


def _difference_values(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    return {
        "a": difference.a.group.label,
        "b": difference.b.group.label,
        **_attributes(difference, "kind", "part", "paired", "n", "mean"),
        "interval": interval and [interval.low, interval.high],
        **_attributes(difference, "probability_of_improvement", "p_value", "p_holm"),
        **_attributes(difference, "separated", "level", "detectable", "better"),
        **_equivalence_values(difference.equivalence),
        "matches": dict(difference.matches),
        "warnings": list(map(str, difference.warnings)),
    }


def _equivalence_values(equivalence: Equivalence | None) -> dict[str, Any]:
    if equivalence is None:
        return {}
    return {
        "margin": equivalence.margin,
        "p_equivalence": equivalence.p_value,
        "p_equivalence_holm": equivalence.p_holm,
        "equivalent": equivalence.equivalent,
    }


def _run_values(run: Run, metrics: Sequence[str], at: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        **_attributes(run, "name", "status", "seed", "config_hash"),
        "steps": run.last_step,
        **_attributes(run, "n_parameters", "train_s"),
        **{metric: run.value(metric, at) for metric in metrics},
        "problems": "; ".join(run.problems),
    }


def _attributes(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def as_json(content: Mapping[str, Any], left_out: LeftOut, remark: str = "") -> str:
    """Return `content` with the unusable folders as JSON, and with a remark if there is one."""
    folders = [{"path": str(path), "reason": reason} for path, reason in left_out]
    whole = jsonable({**content, "left_out": folders, **({"remark": remark} if remark else {})})
    return printable_json(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _comparison_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    """Return a row for each group, then one for each difference."""
    values = comparison_values(comparison)
    for group in values["groups"]:
        reasons = [f"{one['run_id']} does not count: {one['reason']}" for one in group["left_out"]]
        names = {"row": "group", "group": group["label"]}
        yield _csv_row({**values, **group, **names}, [*group["notes"], *reasons])
    for one in values["differences"]:
        names = {"row": one["kind"], "group": one["b"], "against": one["a"]}
        yield _csv_row({**values, **one, **names}, one["warnings"])


def _csv_row(values: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    low, high = values["interval"] or (None, None)
    found = {**values, "low": low, "high": high, "notes": "; ".join(notes)}
    return {name: found.get(name) for name in _CSV_COLUMNS}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as CSV; floats have every digit, missing values are empty."""
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(csv_cell, rows[0]))
    writer.writerows(map(csv_cell, row.values()) for row in rows)
    return written.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a number as it is, a text on one line that no spreadsheet computes."""
    if not isinstance(value, str):
        return value
    text = printable(value, MAX_NOTE)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
