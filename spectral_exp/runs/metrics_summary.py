"""The summary of a metrics file, which stands for it in runs that are published without metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_text import read_object
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_lines import is_step
from spectral_exp.runs.metrics_file import MetricFile, read_metrics
from spectral_exp.runs.run import MetricSummary, summarize_speeds
from spectral_exp.runs.schema import Count, Findings, conform


class _Content(TypedDict, total=False):
    metrics: dict[str, list[float]]
    speeds: list[float]
    last_step: Count
    unreadable: Count
    unfinished: bool


@dataclass(frozen=True)
class MetricFileSummary:
    """What is known of a metrics file without its series.

    Attributes:
        metrics: name -> fields of its `MetricSummary`, in the order of their first values.
        speeds: `Run.logged_speeds`; None if no speed was logged.
        last_step, unreadable, unfinished: as for `MetricFile`.
    """

    metrics: Mapping[str, list[float]] = field(default_factory=dict)
    speeds: list[float] | None = None
    last_step: int = 0
    unreadable: int = 0
    unfinished: bool = False

    @classmethod
    def of(cls, content: MetricFile) -> MetricFileSummary:
        """Summarize a metrics file."""
        speeds = content.series.get("tokens_per_s")
        return cls(
            {name: MetricSummary.of(series).as_list() for name, series in content.series.items()},
            None if speeds is None else summarize_speeds(speeds),
            content.last_step,
            content.unreadable,
            content.unfinished,
        )

    def content(self) -> dict[str, Any]:
        """Return the content of the file that `summarize_metrics` reads."""
        return asdict(self)


def summarize_metrics(paths: RunPaths, problems: list[str]) -> MetricFileSummary:
    """Summarize the metrics of a run, or return the summary that was published in their place.

    Raises:
        OSError: the metrics file cannot be read.
    """
    try:
        return MetricFileSummary.of(read_metrics(paths.metrics_file))
    except FileNotFoundError:
        return _read_summary(paths.metrics_summary_file, problems) or MetricFileSummary()


def _read_summary(file: Path, problems: list[str]) -> MetricFileSummary | None:
    if not os.path.lexists(file):
        return None
    try:
        content = read_object(file)
    except UserError as error:
        problems.append(str(error).replace(str(file), file.name))
        return None
    findings = Findings(file.name)
    record = conform(_Content, content, findings)
    metrics = record.get("metrics", {})
    for name in [name for name, values in metrics.items() if not _is_summary(values)]:
        findings.add(f"metrics.{printable(name, 60)}", metrics.pop(name), "a summary of a metric")
    problems += findings.all()
    return MetricFileSummary(
        metrics,
        record.get("speeds"),
        record.get("last_step", 0),
        record.get("unreadable", 0),
        record.get("unfinished", False),
    )


_WHOLE = [name.endswith("step") or name in ("count", "non_finite", "first_non_finite")
          for name in MetricSummary.__dataclass_fields__]  # fmt: skip


def _is_summary(values: list[float]) -> bool:
    """Return whether numbers can be the fields of a `MetricSummary`."""
    return len(values) == len(_WHOLE) and all(
        is_step(value) or not is_whole for value, is_whole in zip(values, _WHOLE, strict=True)
    )
