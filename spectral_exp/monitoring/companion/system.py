"""The settings of system metrics, which the companion of a run reads."""

from __future__ import annotations

from spectral_exp.core.errors import require
from spectral_exp.monitoring.component import Component
from spectral_exp.runs import layout
from spectral_exp.runs.metric_names import SYSTEM_PREFIXES

_SMALLEST_MB = 0.05


class SystemMetrics(Component):
    """Measures processors, memory, disk, network and GPUs at an interval, in `system.jsonl`.

    `runs/system_metrics.py` describes the file.

    Args:
        enabled: False measures nothing.
        interval_s: seconds between lines, >= 0.2.
        max_mb: size of the file, in 10^6 bytes, at which every second line is removed, >= 0.05.
    """

    metric_prefixes = SYSTEM_PREFIXES
    measures_machine = True
    is_required = False
    files = (f"{layout.LOGS_FOLDER}/{layout.SYSTEM_NAME}",)

    def __init__(
        self, *, enabled: bool = True, interval_s: float = 10.0, max_mb: float = 16.0
    ) -> None:
        require(0.2 <= interval_s <= 86_400, "interval_s", interval_s, "seconds from 0.2 to 86400")
        require(max_mb >= _SMALLEST_MB, "max_mb", max_mb, f"a size >= {_SMALLEST_MB}")
        self.enabled = enabled
        self.interval_s = interval_s
        self.max_mb = max_mb
