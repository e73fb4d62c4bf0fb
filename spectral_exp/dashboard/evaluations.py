"""The scores of a trained model on texts, as the page of its run shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectral_exp.core.foreign_text import printable
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.dashboard.rows import finite
from spectral_exp.results.number_texts import number_text
from spectral_exp.runs.metric_lines import metric_number
from spectral_exp.runs.run import Run

MAX_SHOWN = 200

_PARTS = {"val": "validation", "test": "test", "train": "training"}


def evaluations_answer(run: Run) -> dict[str, Any]:
    """Return the newest evaluations of a run, newest first, and the number of all."""
    newest = run.evaluations[::-1][:MAX_SHOWN]
    return {"total": len(run.evaluations), "shown": [_evaluation(one) for one in newest]}


def _evaluation(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation with its numbers as `evaluate` prints them."""
    text = record["text"]
    return {
        "text": printable(text),
        "part": _PARTS.get(text),
        "step": record["step"],
        "block_size": record["block_size"],
        "stride": record["stride"],
        "windows": record.get("windows"),
        "tokens": record.get("tokens"),
        "saved_s": finite(seconds_since_epoch(record.get("time"))),
        **{
            name: number_text(metric_number(record.get(name)), digits)
            for name, digits in (
                ("bpb", 4), ("standard_error_bpb", 4), ("loss", 4), ("perplexity", 2),
            )
        },
    }  # fmt: skip
