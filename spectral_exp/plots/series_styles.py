"""How each of several runs or groups appears in every panel of a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from spectral_exp.plots.text import printable, short_number, spread_apart
from spectral_exp.plots.theme import LINE_STYLES, MARKERS, LineStyle, Theme

_RUN_SUFFIX = re.compile(r"_\d{8}_\d{6}_[0-9a-z]+$")


@dataclass(frozen=True)
class SeriesStyle:
    """Name, colour, line and marker of one."""

    label: str
    color: str
    line: LineStyle
    marker: str


def style_series(
    labels: Sequence[str], theme: Theme, limit: int = 30, ranks: Sequence[int] | None = None
) -> list[SeriesStyle]:
    """A style for each: colour and line style are a pair of its own up to 32, colour and marker up to 56.

    Args:
        labels: what each is called; long names are shortened to `limit` characters.
        theme: for its colours.
        ranks: among all that appear in other figures, so that each keeps its style; 0, 1, 2, ... where not given.
    """
    return [
        SeriesStyle(
            name,
            theme.series[index % len(theme.series)],
            LINE_STYLES[index // len(theme.series) % len(LINE_STYLES)],
            MARKERS[index % len(MARKERS)],
        )
        for index, name in zip(ranks or range(len(labels)), short_labels(labels, limit), strict=True)
    ]


def short_labels(labels: Sequence[str], limit: int = 30) -> list[str]:
    """Names that fit: without the time stamp and hash of an experiment id where they stay distinct, then shortened."""
    names = [_RUN_SUFFIX.sub("", name) for name in labels]
    if len(set(names)) < len(set(labels)):
        names = list(labels)
    return [printable(name, limit) or "unnamed" for name in names]


def side_labels(
    axes: Axes, values: Sequence[float], styles: Sequence[SeriesStyle], theme: Theme, inches: float
) -> None:
    """Write each name at the right of the panel beside its value, moved apart where they would overlap.

    Limits and scale of the vertical axis must be set. A value outside of it is named at the edge.

    Args:
        inches: height of the panel, about.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    true_heights = [float(to_axes.transform((0.0, value))[1]) for value in values]
    heights = [min(1.0, max(0.0, height)) for height in true_heights]
    gap = 1.25 * theme.font_size / 72 / inches
    for place, value, height, style in zip(spread_apart(heights, gap), values, true_heights, styles, strict=True):
        edge = min(1.0, max(0.0, height))
        beside: dict[str, Any] = {"color": style.color, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.0, 1.012, 1.03], [edge, edge, place], linewidth=0.6 * theme.rule_width, **beside)
        axes.plot(1.045, place, style.marker, markersize=theme.marker_size, **beside)
        outside = "" if 0 <= height <= 1 else f" {'▲' if height > 1 else '▼'} {short_number(value)}"
        axes.text(1.065, place, style.label + outside, va="center", ha="left", **beside)
