"""Draw a figure and inspect its canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from spectral_exp.plots.theme import DARK, Theme, use_theme

DPI = 50
"""Low, to be quick. Text and layout scale with it."""


@contextmanager
def drawn(draw: Callable[[], Figure], theme: Theme = DARK) -> Iterator[Figure]:
    """The figure, laid out and drawn, while the house style is in force."""
    with use_theme(theme):
        figure = draw()
        figure.set_dpi(DPI)
        figure.canvas.draw()
        yield figure


def texts_drawn(
    draw: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch, theme: Theme
) -> tuple[Figure, list[tuple[str, Bbox]]]:
    """Every text that reaches the canvas with its place in pixels."""
    found: dict[int, tuple[str, Bbox]] = {}
    original = Text.draw

    def recording(self: Text, renderer: RendererBase) -> None:
        if self.get_visible() and self.get_text().strip():
            found[id(self)] = self.get_text(), self.get_window_extent(renderer)
        original(self, renderer)

    monkeypatch.setattr(Text, "draw", recording)
    with drawn(draw, theme) as figure:
        return figure, list(found.values())


def assert_readable(
    draw: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch, theme: Theme = DARK
) -> None:
    """No two texts overlap, and none leaves the figure."""
    figure, texts = texts_drawn(draw, monkeypatch, theme)
    assert texts
    page = figure.bbox
    for text, box in texts:
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < page.x1 + 1 and box.y1 < page.y1 + 1
        assert inside, f"{text!r} leaves the figure"
    for index, (text, box) in enumerate(texts):
        for other, other_box in texts[index + 1 :]:
            common = Bbox.intersection(box, other_box)
            overlaps = common is not None and common.width > 1 and common.height > 1
            assert not overlaps, f"{text!r} overlaps {other!r}"
