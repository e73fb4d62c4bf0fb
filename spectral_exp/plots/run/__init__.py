"""The figures of a run that goes on: plain numpy arrays in, a matplotlib `Figure` out.

`histories`, `internals` and `runs` take the arrays out of histories, models and run directories and give back a
`Drawing`. Training waits for them, so they copy and leave all else to the drawing. Like `tokens` they load neither
matplotlib nor torch; the drawing modules load matplotlib. What they draw with is in `spectral_exp.plots`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing: TypeAlias = "Callable[[], Figure]"
"""A function of one of these modules with its arguments, plain arrays: can be pickled and drawn by another process."""
