"""The figures of a running experiment: plain NumPy arrays in, a matplotlib `Figure` out.

`histories`, `internals` and `runs` copy the arrays out of histories, models and run directories and
return a `Drawing`. Training waits for them, so the drawing does all other work. Like `tokens` they
load neither matplotlib nor torch; the drawing modules load matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing: TypeAlias = "Callable[[], Figure]"
"""A function of these modules with its arguments, which another process can unpickle and call."""
