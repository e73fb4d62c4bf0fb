"""One run as a comparison plots it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spectral_exp.core.series import Series


@dataclass(frozen=True)
class Experiment:
    """What one run contributes to a comparison.

    Args:
        label: its name.
        series: quantities over the steps by metric name; `loss` is the training loss.
        final: final metrics by name.
    """

    label: str
    series: Mapping[str, Series] = field(default_factory=dict)
    final: Mapping[str, float] = field(default_factory=dict)
