"""Numbers and names in figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import (
    FixedLocator,
    Formatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)


def number_axis(
    axes: Axes, which: Literal["x", "y"], n_ticks: int = 5, *, integer: bool = False
) -> None:
    """Set few, short tick labels on a linear axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(
        MaxNLocator(n_ticks, integer=integer, steps=[1, 2, 5, 10], min_n_ticks=1 if integer else 2)
    )
    axis.set_major_formatter(ShortNumbers())


def log_axis(axes: Axes) -> None:
    """Make the vertical axis logarithmic with plain labels, also below one decade."""
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


def log_values_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, with ticks at a few `values` or round numbers."""
    axes.set_xscale("log")
    few = len(values) <= 8
    axes.xaxis.set_major_locator(
        FixedLocator(values) if few else LogLocator(10, subs=(1, 2, 5), numticks=8)
    )
    axes.xaxis.set_major_formatter(ShortNumbers(common=False))
    axes.xaxis.set_minor_locator(NullLocator())


class ShortNumbers(Formatter):
    """Tick labels such as 0.25, 40k, 1.5M or 3e-5, with as many digits as neighbours need.

    Args:
        common: whether all ticks share scale and decimals, as on a linear axis.
    """

    def __init__(self, common: bool = True) -> None:
        self.common = common

    def __call__(self, value: float, pos: int | None = None) -> str:
        """The label of one tick."""
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks of an axis."""
        if not self.common:
            return [_true_minus(short_number(value)) for value in values]
        largest = max((abs(value) for value in values), default=0.0)
        gaps = [abs(b - a) for a, b in pairwise(values) if b != a]
        scale, suffix = _scale(largest)
        step = min(gaps, default=largest or 1.0) / scale
        decimals = next((d for d in range(9) if abs(round(step, d) - step) < 1e-6 * step), 9)
        return [
            _true_minus(f"{value / scale:.{decimals}f}{suffix}") if value else "0"
            for value in values
        ]


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
    """Return `value` in about `digits` significant digits: 1.234, 56.1k, 3e-5, NaN."""
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
    """Return `text` with escapes for missing glyphs, cut in its middle to `limit` characters."""
    glyphs = _glyphs("DejaVu Sans") & _glyphs("DejaVu Sans Mono")
    shown = "".join(
        c
        if c.isprintable() and ord(c) in glyphs
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )
    if limit and len(shown) > limit:
        tail = (limit - 1) // 2
        shown = f"{shown[: limit - 1 - tail]}…{shown[len(shown) - tail :]}"
    return shown


def token_text(text: str, limit: int = 10) -> str:
    """A token's text as a label: blanks as `·`, line ends as `\\n`, nothing invisible."""
    return printable(text.replace(" ", "·").replace("␣", "·"), limit) or "∅"


def plain_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a number with fixed decimals, large ones shortened; `signed` adds a plus."""
    text = short_number(value, 4) if abs(value) >= 1e5 else f"{value:.{decimals}f}"
    return f"+{text}" if signed and value > 0 else _true_minus(text)


def _true_minus(text: str) -> str:
    return "\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text


def spread_apart(
    places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0
) -> list[float]:
    """Return places for labels, at least `gap` apart and close to `places`, in the same order.

    Labels that would overlap form a block around their common middle (isotonic regression by
    pooling neighbours). All stay within `low` and `high` as long as there is room.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []  # sum of (place - rank * gap), number of labels
    for rank, index in enumerate(order):
        blocks.append([places[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    levels = [total / count for total, count in blocks for _ in range(int(count))]
    top = high - gap * (len(places) - 1)
    found = [0.0] * len(places)
    for rank, index in enumerate(order):
        found[index] = max(low, min(levels[rank], top)) + rank * gap
    return found
