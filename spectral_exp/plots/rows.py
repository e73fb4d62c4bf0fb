"""Rows of values with a mean and an interval each, for groups or differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from spectral_exp.plots.series import bulk_limits
from spectral_exp.plots.text import number_axis, plain_number
from spectral_exp.plots.theme import Theme

ROW_INCHES = 0.235
"""Height of a row, which has room for one line of text."""


@dataclass(frozen=True)
class Row:
    """One line of a figure.

    Attributes:
        label: at the left.
        dots: single values.
        mean: their mean; None draws the dots only.
        interval: of the mean, or None.
        filled: whether the mean's marker is filled rather than hollow.
        muted: whether it is grey, as the baseline.
        note: at the right, behind mean and interval.
        heading: whether it is the heading of the rows below it and has no values.
    """

    label: str
    dots: Sequence[float] = ()
    mean: float | None = None
    interval: tuple[float, float] | None = None
    filled: bool = False
    muted: bool = False
    note: str = ""
    heading: bool = False


def draw_rows(
    axes: Axes, rows: Sequence[Row], theme: Theme, reference: float | None = None
) -> None:
    """Draw dots, mean and interval of each row from top to bottom, with numbers at the right.

    Values far outside the range of the others become an arrow at the edge.

    Args:
        reference: the place of a vertical line across all rows.
    """
    limits = row_limits(rows, reference)
    if reference is not None:
        axes.axvline(
            reference,
            color=theme.muted,
            linewidth=theme.rule_width * 1.5,
            linestyle=(0, (4, 3)),
            zorder=1,
        )
    for y, row in enumerate(rows):
        _draw_row(axes, row, y, limits, theme)
        _edge_arrow(axes, row, y, limits, theme)
    axes.set_xlim(*limits)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), labels=[row.label for row in rows])
    for row, text in zip(rows, axes.get_yticklabels(), strict=True):
        if row.heading:
            text.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    number_axis(axes, "x", 6)
    for y, text_of_row in enumerate(row_texts(rows, signed=reference == 0.0)):
        axes.text(
            1.025,
            y,
            text_of_row,
            transform=axes.get_yaxis_transform(),
            va="center",
            ha="left",
            color=theme.text,
        )


def _draw_row(axes: Axes, row: Row, y: int, limits: tuple[float, float], theme: Theme) -> None:
    """Draw the dots, the interval and the mean of a row."""
    color = theme.muted if row.muted else theme.series[0]
    size = theme.marker_size
    inside = [dot for dot in row.dots if limits[0] <= dot <= limits[1]]
    offset = 0.0 if row.mean is None else 0.24
    dot_size = 0.62 * size if row.mean is not None else size
    heights = [y + offset] * len(inside)
    axes.plot(inside, heights, "o", color=theme.muted, markersize=dot_size, alpha=0.8, mew=0)
    if row.interval is not None:
        width = 1.4 * theme.line_width
        axes.plot(row.interval, [y, y], color=color, linewidth=width, solid_capstyle="butt")
    if row.mean is not None:
        face = color if row.filled else theme.panel
        marker: dict[str, Any] = {"markersize": 1.35 * size, "mew": theme.line_width}
        axes.plot(row.mean, y, "D", color=color, markerfacecolor=face, **marker)


def _edge_arrow(axes: Axes, row: Row, y: int, limits: tuple[float, float], theme: Theme) -> None:
    """Draw an arrow towards values of a row outside of `limits`."""
    values = [*row.dots, *([row.mean] if row.mean is not None else [])]
    arrow: dict[str, Any] = {
        "color": theme.alert,
        "markersize": 1.3 * theme.marker_size,
        "mew": 0,
        "clip_on": False,
    }
    if any(value < limits[0] for value in values):
        axes.plot(0.006, y, "<", transform=axes.get_yaxis_transform(), **arrow)
    if any(value > limits[1] for value in values):
        axes.plot(0.994, y, ">", transform=axes.get_yaxis_transform(), **arrow)


def row_limits(rows: Sequence[Row], reference: float | None = None) -> tuple[float, float]:
    """Return the horizontal range of all rows with some room, without extreme rows."""
    parts = [
        np.array([*row.dots, *(row.interval or ()), *([row.mean] if row.mean is not None else [])])
        for row in rows
    ]
    parts = [part for part in parts if part.size]
    low, high = bulk_limits(parts) if parts else (0.0, 0.0)
    if reference is not None:
        low, high = min(low, reference), max(high, reference)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def row_texts(rows: Sequence[Row], *, signed: bool = False) -> list[str]:
    """Return mean, interval and note of every row, to the digits that intervals resolve."""
    widths = [row.interval[1] - row.interval[0] for row in rows if row.interval is not None]
    dots = [float(np.ptp(row.dots)) for row in rows if len(row.dots) > 1]
    scale = float(np.median(widths or dots or [abs(row.mean or 0.0) for row in rows] or [1.0]))
    decimals = min(6, max(0, 1 - math.floor(math.log10(scale)))) if scale > 0 else 3
    found = []
    for row in rows:
        center = float(np.mean(row.dots)) if row.mean is None and row.dots else row.mean
        words = [] if center is None else [plain_number(center, decimals, signed=signed)]
        if row.interval is not None:
            low, high = (plain_number(value, decimals, signed=signed) for value in row.interval)
            words.append(f"[{low}, {high}]")
        found.append("  ".join([*words, *([row.note] if row.note else [])]))
    return found
