"""From run directories to tables, statistics and a paper, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_exp.results.frames import load_runs as load_runs


def __getattr__(name: str) -> Any:
    """Import `load_runs` when it is first used: most modules of this package do not need it."""
    if name != "load_runs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spectral_exp.results.frames import load_runs

    return load_runs
