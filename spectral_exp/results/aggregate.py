"""Finds runs below any folders and groups them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spectral_exp.results.group import Group
from spectral_exp.results.run import Run


class ResultsAggregator:
    """The runs below some folders.

    Args:
        folders: run directories, sweeps, or folders that hold such at any depth.
        index: whether to keep an index on disk, which makes the next call fast.

    Raises:
        UserError: a folder does not exist.

    Attributes:
        runs: sorted by name, seed, path.
        left_out: path and reason of every folder that looks like a run and could not be used.
    """

    runs: Sequence[Run]
    left_out: Sequence[tuple[Path, str]]

    def __init__(self, folders: Sequence[str | Path], *, index: bool = True) -> None:
        raise NotImplementedError

    def where(self, conditions: Sequence[str]) -> ResultsAggregator:
        """Only the runs that meet all conditions, each `name=value`, `name!=value`, `name<value` and so on.

        A name is a setting's dotted name or its unique ending, a part (`optimizer=rgd`), or `status`, `name`, `seed`.
        """
        raise NotImplementedError

    def groups(self, by: Sequence[str] | None = None) -> list[Group]:
        """Runs that differ only in their seed; or, with `by`, runs that agree in these settings or parts."""
        raise NotImplementedError

    def differing(self) -> list[str]:
        """The settings in which the runs differ, seed and places apart."""
        raise NotImplementedError
