"""Charts on a page without a server, and their pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.dashboard.browser.pages import ORIGIN, Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

Pixels = NDArray[np.int64]


class Charts:
    """The page of the harness. A chart has a name, and stays until `reset`.

    Attributes:
        errors: those of the page.
    """

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._site = site
        self._n_frames = 0
        site.attach(page)
        page.goto(ORIGIN + "harness.html")

    def reset(self) -> None:
        """Remove all charts."""
        self.page.evaluate("harness.reset()")

    def show(
        self,
        name: str,
        *frames: bytes,
        style: Mapping[str, Any] | None = None,
        view: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        is_linked: bool = False,
        is_awaited: bool = True,
    ) -> None:
        """Show frames in a chart and wait until it is drawn, if it is awaited.

        Args:
            style: label, color, dash and kind of each key; "*" is that of all others.
            view, options: as in `chart.js`.
        """
        addresses = []
        for frame in frames:
            self._n_frames += 1
            addresses.append(f"frame-{self._n_frames}")
            self._site.files[addresses[-1]] = frame
        styled = [{"frame": address, "style": style or {}} for address in addresses]
        settings = {
            "view": view or {},
            "options": options or {},
            "isLinked": is_linked,
            "isAwaited": is_awaited,
        }
        self.page.evaluate("a => harness.show(...a)", [name, styled, settings])

    def show_heat(self, name: str, data: Mapping[str, Any], **options: Any) -> None:
        """Show histograms in a heat map."""
        self.page.evaluate("a => harness.heat(...a)", [name, data, options])

    def get(self, name: str, expression: str) -> Any:
        """Evaluate an expression in JavaScript about `chart`."""
        source = f"async name => {{ const chart = harness.charts.get(name); return {expression}; }}"
        return self.page.evaluate(source, name)

    def do(self, name: str, expression: str) -> None:
        """Evaluate an expression and wait until everything is drawn."""
        self.get(name, f"[{expression}, await harness.drawn()].length")

    def calls(self, kind: str) -> list[Any]:
        """Return the values that charts have reported to a callback."""
        calls: list[list[Any]] = self.page.evaluate("harness.calls")
        return [value for _, reported, value in calls if reported == kind]

    def pixels(self, name: str) -> Pixels:
        """Return red, green and blue of the lower canvas: (height, width, 3)."""
        return decode_image(self.get(name, "chart.base.toDataURL()").partition(",")[2])

    def color(self, name: str, index: int) -> Pixels:
        """Return red, green and blue of a colour of series."""
        return hex_color(self.get(name, f"chart.theme.series[{index}]"))

    def at(self, name: str, x: float, y: float) -> tuple[int, int]:
        """Return the pixel of a place in data."""
        place = self.get(
            name, f"[chart.scene.scaleX.toPixel({x}), chart.scene.scaleY.toPixel({y})]"
        )
        return int(place[0]), int(place[1])

    def box(self, name: str) -> dict[str, float]:
        """Return left, right, top and bottom of the plot in the coordinates of the mouse."""
        source = """(() => {
            const { left, top } = chart.plot.getBoundingClientRect();
            const { ratio } = chart.size;
            const { plot } = chart.scene;
            return {
                left: left + plot.left / ratio, right: left + plot.right / ratio,
                top: top + plot.top / ratio, bottom: top + plot.bottom / ratio,
            };
        })()"""
        box: dict[str, float] = self.get(name, source)
        return box


def decode_image(text: str) -> Pixels:
    """Return the pixels of an image in base64."""
    return image_pixels(base64.b64decode(text))


def image_pixels(content: bytes) -> Pixels:
    """Return red, green and blue of an image."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def hex_color(text: str) -> Pixels:
    """Return red, green and blue of `#rrggbb`."""
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.int64)


def has_color(pixels: Pixels, color: Pixels, tolerance: int = 2) -> NDArray[np.bool_]:
    """Return which pixels have a colour, apart from rounding."""
    close: NDArray[np.bool_] = (np.abs(pixels - color) <= tolerance).all(axis=-1)
    return close


def rows_with(
    pixels: Pixels, color: Pixels, x: int, rows: Iterable[int], reach: int = 1, tolerance: int = 2
) -> int:
    """Return the number of rows in which a pixel next to column `x` has a colour."""
    part = pixels[list(rows), max(0, x - reach) : x + reach + 1]
    return int(has_color(part, color, tolerance).any(axis=1).sum())
