"""The plots of a run: `<kind>_step_<step>_<time>.png` in its folder of visualizations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import RunPaths

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_NAME = re.compile(
    r"(?P<kind>\w[\w-]{0,99})_step_(?P<step>\d{1,15})_(?P<time>\d{8}_\d{6})\.png", flags=re.ASCII
)
_MAX_BYTES = 32 << 20
_HEADER_BYTES = 33  # the signature and the chunk with the size of the image


@dataclass(frozen=True)
class NamedPlot:
    """A plot, as its file name describes it.

    Attributes:
        file: the file.
        kind: what it shows.
        step: of the run.
        time: when it was drawn, as `20260131_235959`.
    """

    file: Path
    kind: str
    step: int
    time: str


def named_plots(paths: RunPaths) -> Iterator[NamedPlot]:
    """Yield the plots of a run, by file name."""
    folder = paths.visualizations
    for file in sorted(folder.glob("*.png")) if folder.is_dir() else ():
        if match := _NAME.fullmatch(file.name):
            yield NamedPlot(file, match["kind"], int(match["step"]), match["time"])


def read_png(file: Path) -> bytes | None:
    """Return the content of a PNG file; None if it is no PNG or cannot be read."""
    try:
        content = read_regular(file, _MAX_BYTES)
    except OSError:
        return None
    return content if content.startswith(PNG_SIGNATURE) and len(content) >= _HEADER_BYTES else None
