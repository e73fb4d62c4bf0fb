"""Runs that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.results.run import Run


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
