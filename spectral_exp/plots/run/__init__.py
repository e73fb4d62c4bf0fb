"""Figures of a running experiment: plain NumPy arrays in, a matplotlib `Figure` out.

`histories`, `internals` and `runs` copy arrays out of histories, models and run directories and
return a `DrawFigure`. Training waits for the copy; a `DrawFigure` does the rest, usually in another
process. These three modules and `tokens` import neither matplotlib nor torch at the top; the other
modules import matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DrawFigure: TypeAlias = "Callable[[], Figure]"
"""A picklable callable that draws a figure: a function of these modules with its arguments."""


@dataclass(frozen=True)
class Style:
    """How figures look.

    Attributes:
        dpi: dots per inch.
        theme: dark or light.
        subject: the name of what they show, which follows every title.
    """

    dpi: int
    theme: str = "dark"
    subject: str = ""
