"""How each of several runs or groups appears in every panel of a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spectral_exp.plots.text import printable
from spectral_exp.plots.theme import LINE_STYLES, MARKERS, LineStyle, Theme

_RUN_SUFFIX = re.compile(r"_\d{8}_\d{6}_[0-9a-z]+$")


@dataclass(frozen=True)
class Look:
    """Name, colour, line and marker of one."""

    label: str
    color: str
    line: LineStyle
    marker: str


def looks_of(labels: Sequence[str], theme: Theme, limit: int = 30) -> list[Look]:
    """A look for each: colour and line style are a pair of its own up to 32, colour and marker up to 56."""
    return [
        Look(
            name,
            theme.series[index % len(theme.series)],
            LINE_STYLES[index // len(theme.series) % len(LINE_STYLES)],
            MARKERS[index % len(MARKERS)],
        )
        for index, name in enumerate(short_labels(labels, limit))
    ]


def short_labels(labels: Sequence[str], limit: int = 30) -> list[str]:
    """Names that fit: without the time stamp and hash of an experiment id where they stay distinct, then shortened."""
    names = [_RUN_SUFFIX.sub("", name) for name in labels]
    if len(set(names)) < len(set(labels)):
        names = list(labels)
    return [printable(name, limit) or "unnamed" for name in names]
