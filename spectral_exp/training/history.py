"""The logged metrics that the plots of training show."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping
from typing import Any

from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.metric_names import metric_info

log = logging.getLogger(__name__)


class History(dict[str, "tuple[array[int], array[float]]"]):
    """Metric -> its steps and its values, without the metrics that measure the machine.

    Args:
        machine_prefixes: of further metrics that measure the machine.
    """

    def __init__(self, machine_prefixes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.last_step = 0
        self._machine_prefixes = machine_prefixes

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the metrics of a step."""
        self.last_step = max(self.last_step, step)
        for name, value in values.items():
            if metric_info(name).kind == "machine" or name.startswith(self._machine_prefixes):
                continue
            steps, series = self.setdefault(name, (array("q"), array("d")))
            steps.append(step)
            series.append(value)

    def restore(self, metrics: MetricsLogger, step: int) -> None:
        """Cut the metrics file back to `step`, and add what stays; warn if entries are missing."""
        metrics.cut_back(step, self._add_entry)
        if metrics.enabled and self.last_step < step - step % metrics.log_interval:
            log.warning(
                "the metrics of steps %d to %d are missing from %s: they were not logged, or lost "
                "in a power cut",
                self.last_step + 1, step, metrics.metrics_file,
            )  # fmt: skip

    def _add_entry(self, entry: Mapping[str, Any]) -> None:
        """Add an entry of the metrics file."""
        numbers = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "step"}
        self.add(int(entry["step"]), numbers)
