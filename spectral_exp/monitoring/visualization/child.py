"""The process that draws: drawings in, PNG files out, without torch, models or disk access."""

from __future__ import annotations

import time
import traceback

from spectral_exp.core.helper import serve
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.plots.run import DrawFigure, Style

NICE = 5
"""Below training in priority; at 19 it would starve beside threads that spin while they wait."""


def main() -> None:
    """Answer every (drawing, style).

    An answer is a PNG file or an error, and the processor seconds of this process so far.
    """
    serve(lambda send: lambda request: (_draw(*request), time.process_time()), NICE)


def _draw(drawing: DrawFigure, style: Style) -> bytes | tuple[str, str]:
    """Return the PNG file, or the error and its traceback."""
    try:
        import_matplotlib()
        from spectral_exp.plots.theme import SCREEN_THEMES, render

        return render(drawing, SCREEN_THEMES[style.theme], style.dpi, style.subject)
    except Exception as error:
        return f"{type(error).__name__}: {error}", traceback.format_exc()
