"""Runs that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.runs.run import Run


@dataclass(frozen=True)
class Group:
    """Runs compared as one.

    Attributes:
        label: short, unique among the groups: the experiment's name, with the differing settings where it takes them.
        key: the settings by which it was grouped, by name.
        runs: by seed, then by path.
        strata: for each run the index of its stratum: runs of one stratum differ in their seed alone. All zero unless
            the grouping is coarser than the configuration.
    """

    label: str
    key: Mapping[str, Any]
    runs: Sequence[Run]
    strata: Sequence[int]

    @property
    def natural_order(self) -> tuple[tuple[tuple[int, float, str], ...], str]:
        """A key that sorts groups by the settings that tell them apart: numbers by size, then texts; then by label."""
        return tuple(_order(self.key[name]) for name in self.key), self.label


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))
