"""Runs that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from spectral_exp.results.names import sort_key
from spectral_exp.runs.run import Run

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """Runs compared as one.

    Attributes:
        label: short and unique among the groups: the experiment's name, with those settings
            that distinguish it from another group of the same name.
        key: the settings that the runs share, by name.
        runs: by seed, then by path.
        strata: for each run the index of its stratum: runs of one stratum differ in their seed
            alone. All are zero unless the grouping is coarser than the configuration.
    """

    label: str
    key: Mapping[str, Any]
    runs: Sequence[Run]
    strata: Sequence[int]

    @property
    def natural_order(self) -> tuple[tuple[tuple[int, float, str], ...], str]:
        """A key that sorts groups by their settings, then by their labels."""
        return tuple(sort_key(value) for value in self.key.values()), self.label


def group_by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return items by their key, in the order of first appearance."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
