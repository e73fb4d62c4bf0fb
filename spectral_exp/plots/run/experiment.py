"""One run in a comparison plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spectral_exp.core.series import Series


@dataclass(frozen=True)
class Experiment:
    """The curves and final metrics of one run.

    Args:
        label: name in legends and axes.
        series: quantities over the steps by metric name; `loss` is the training loss.
        final: final metrics by name.
        units: of metrics, by name.
    """

    label: str
    series: Mapping[str, Series] = field(default_factory=dict)
    final: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
