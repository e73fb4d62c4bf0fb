"""A local web page on folders of runs: the server, which reads run directories only.

It knows runs through `runs` and `results`, and loads neither torch nor matplotlib; figures are
drawn in a helper process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_exp.dashboard.notebook import show as show


def __getattr__(name: str) -> Any:
    """Import `show` when it is first used: the server does not need it."""
    if name != "show":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spectral_exp.dashboard.notebook import show

    return show
