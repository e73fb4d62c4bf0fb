"""The dark look of all figures, and the small pieces of drawing every figure shares."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

BACKGROUND = "#0f141b"
PANEL = "#161c26"
GRID = "#2b3443"
TEXT = "#e3e8ef"
MUTED = "#a3aebd"
ALERT = "#ff7a59"

SERIES = ("#56b4e9", "#e69f00", "#2cc79a", "#e78ac3", "#f0e442", "#e8633a", "#8c8cf0", "#c9ced6")
"""Okabe and Ito's colour-blind-safe set, its dark members raised until they stand out from a dark panel."""

LineStyle = str | tuple[int, tuple[float, ...]]

LINE_STYLES: tuple[LineStyle, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))

WIDTH = 12.0
"""Figure width in inches: 1800 pixels at 150 dpi, so that 13 pt text is still 13 px high in a 900 px column."""

_RC: dict[str, object] = {
    "figure.facecolor": BACKGROUND,
    "savefig.facecolor": BACKGROUND,
    "axes.facecolor": PANEL,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 13.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 13,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": TEXT,
    # Token texts and experiment names may hold dollar signs; no text of ours is mathematics.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "figure.titlesize": 17,
    "figure.titleweight": "bold",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.facecolor": PANEL,
    "legend.edgecolor": GRID,
    "legend.framealpha": 0.85,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}

_style_lock = threading.Lock()


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the house style whatever the caller's own matplotlib settings, which are put back afterwards.

    matplotlib's settings are global to the process: the lock keeps two threads from restoring each other's.
    """
    with _style_lock, matplotlib.style.context(_RC, after_reset=True):
        yield


def render(draw: Callable[[], Figure], dpi: int) -> bytes:
    """The PNG file of the figure that `draw` returns."""
    with styled():
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()


def new_figure(height: float, title: str, note: str = "") -> Figure:
    """An empty figure of the house width with its heading: `title` in bold, a short `note` muted at its right."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left")
    if note:
        figure.text(0.988, 1 - 0.14 / height, note, ha="right", va="top", color=MUTED)
    return figure


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Name a panel and its two axes."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend_above(axes: Axes) -> None:
    """The panel's legend on the line of its title, to the right, where it covers no data."""
    names = axes.get_legend_handles_labels()[1]
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(names), frameon=False, borderpad=0.1, columnspacing=1.4
    )


def number_axis(axes: Axes, which: Literal["x", "y"], n_ticks: int = 5, *, integer: bool = False) -> None:
    """Few, short tick labels on a linear axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(n_ticks, integer=integer, steps=[1, 2, 5, 10], min_n_ticks=1 if integer else 2))
    axis.set_major_formatter(ShortNumbers())


def log_axis(axes: Axes) -> None:
    """A logarithmic vertical axis with plain labels, also where it spans less than a decade."""
    axes.set_yscale("log", nonpositive="mask")
    low, high = sorted(axes.get_ylim())
    decades = math.log10(high / low) if low > 0 else 9.0
    subs: Sequence[float] = (1, 2, 5) if decades < 2.5 else (1,)
    if decades < 0.6:
        number_axis(axes, "y")
    else:
        axes.yaxis.set_major_locator(LogLocator(10, subs=subs, numticks=6))
        axes.yaxis.set_major_formatter(ShortNumbers(common=False))
    axes.yaxis.set_minor_formatter(NullFormatter())


class ShortNumbers(Formatter):
    """Tick labels such as 0.25, 40k, 1.5M or 3e-5, with just the digits that tell neighbours apart.

    Args:
        common: give all ticks the same scale and decimals (linear axes); else each its own (logarithmic axes).
    """

    def __init__(self, common: bool = True) -> None:
        self.common = common

    def __call__(self, value: float, pos: int | None = None) -> str:
        """The label of one tick."""
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks of an axis."""
        if not self.common:
            return [short_number(value) for value in values]
        largest = max((abs(value) for value in values), default=0.0)
        gaps = [abs(b - a) for a, b in pairwise(values) if b != a]
        scale, suffix = _scale(largest)
        step = min(gaps, default=largest or 1.0) / scale
        decimals = next((d for d in range(9) if abs(round(step, d) - step) < 1e-6 * step), 9)
        return [f"{value / scale:.{decimals}f}{suffix}" if value else "0" for value in values]


def _scale(largest: float) -> tuple[float, str]:
    """Divisor and suffix that make numbers up to `largest` short."""
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if scale <= largest < 1e15:
            return (1e3, suffix) if suffix == "k" else (scale, suffix)
    if largest >= 1e15 or 0 < largest < 1e-2:
        exponent = math.floor(math.log10(largest) + 1e-9)
        return 10.0**exponent, f"e{exponent}"
    return 1.0, ""


def short_number(value: float, digits: int = 3) -> str:
    """`value` in about `digits` significant digits: 1.234, 56.1k, 3e-5; NaN and infinities by name."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
    scale, suffix = _scale(abs(value))
    scaled = value / scale
    if not suffix and abs(scaled) >= 10**digits:
        return f"{scaled:.0f}"
    return f"{scaled:.{digits}g}{suffix}"


@lru_cache(maxsize=4)
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(family)).get_charmap())


def printable(text: str, limit: int = 0) -> str:
    """`text` with every character the font lacks as an escape, shortened in its middle to `limit` characters."""
    glyphs = _glyphs("DejaVu Sans") & _glyphs("DejaVu Sans Mono")
    shown = "".join(
        c if c.isprintable() and ord(c) in glyphs else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )
    if limit and len(shown) > limit:
        tail = (limit - 1) // 2
        shown = f"{shown[: limit - 1 - tail]}…{shown[len(shown) - tail :]}"
    return shown


def token_text(text: str, limit: int = 10) -> str:
    """A token's text as a label: blanks as `·`, line ends as `\\n`, nothing invisible."""
    return printable(text.replace(" ", "·").replace("␣", "·"), limit) or "∅"
