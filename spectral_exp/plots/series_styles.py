"""Label, colour, line and marker of each run or group in a figure."""

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
    """Label, colour, line style and marker of a run or group."""

    label: str
    color: str
    line: LineStyle
    marker: str


def style_series(
    labels: Sequence[str], theme: Theme, limit: int = 30, ranks: Sequence[int] | None = None
) -> list[SeriesStyle]:
    """Return a style for each label: colour and line are unique up to 32, with markers up to 56.

    Args:
        labels: names; long ones are shortened to `limit` characters.
        theme: for its colours.
        ranks: places among all groups, so that a group has the same style in every figure;
            0, 1, 2, ... by default.
    """
    return [
        SeriesStyle(
            name,
            theme.series[index % len(theme.series)],
            LINE_STYLES[index // len(theme.series) % len(LINE_STYLES)],
            MARKERS[index % len(MARKERS)],
        )
        for index, name in zip(
            ranks or range(len(labels)), short_labels(labels, limit), strict=True
        )
    ]


def short_labels(labels: Sequence[str], limit: int = 30) -> list[str]:
    """Return short names, without time stamp and hash of run ids if they stay distinct."""
    names = [_RUN_SUFFIX.sub("", name) for name in labels]
    if len(set(names)) < len(set(labels)):
        names = list(labels)
    return [printable(name, limit) or "unnamed" for name in names]


def side_labels(
    axes: Axes, values: Sequence[float], styles: Sequence[SeriesStyle], theme: Theme, inches: float
) -> None:
    """Write each label at the right of the panel beside its value, without overlaps.

    Limits and scale of the vertical axis must be set. A value outside is labelled at the edge.

    Args:
        inches: height of the panel, about.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    true_heights = [float(to_axes.transform((0.0, value))[1]) for value in values]
    heights = [min(1.0, max(0.0, height)) for height in true_heights]
    gap = 1.25 * theme.font_size / 72 / inches
    for place, value, height, style in zip(
        spread_apart(heights, gap), values, true_heights, styles, strict=True
    ):
        edge = min(1.0, max(0.0, height))
        beside: dict[str, Any] = {
            "color": style.color,
            "transform": axes.transAxes,
            "clip_on": False,
        }
        axes.plot(
            [1.0, 1.012, 1.03], [edge, edge, place], linewidth=0.6 * theme.rule_width, **beside
        )
        axes.plot(1.045, place, style.marker, markersize=theme.marker_size, **beside)
        arrow = "▲" if height > 1 else "▼"
        outside = "" if 0 <= height <= 1 else f" {arrow} {short_number(value)}"
        axes.text(1.065, place, style.label + outside, va="center", ha="left", **beside)
