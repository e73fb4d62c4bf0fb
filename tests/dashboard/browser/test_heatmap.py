"""The map of histograms over steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.dashboard.browser.charts import Charts, has_color, hex_color, rows_with

pytestmark = pytest.mark.browser

N_BINS = 24


def histograms(n_steps: int, lone_step: int) -> dict[str, Any]:
    """Return histograms with all values in the middle, and one value elsewhere at one step."""
    counts = np.zeros((n_steps, N_BINS), dtype=int)
    counts[:, 10:14] = 20_000
    counts[lone_step, 20] = 1
    nan = np.zeros(n_steps, dtype=int)
    nan[0] = 3
    return {
        "edges": np.linspace(0, 6, N_BINS + 1).tolist(),
        "steps": (50 * np.arange(n_steps)).tolist(),
        "counts": counts.tolist(),
        "nan": nan.tolist(),
        "unit": "radians",
    }


@pytest.mark.parametrize(
    "n_steps",
    [60, pytest.param(3, marks=pytest.mark.slow), pytest.param(3000, marks=pytest.mark.slow)],
)
def test_a_single_value_at_a_single_step_is_visible(charts: Charts, n_steps: int) -> None:
    """Where steps lie closer than pixels, the rarest value is seen as well."""
    lone = n_steps // 2
    charts.show_heat("map", histograms(n_steps, lone), title="Phases")
    x, y = charts.at("map", 50.0 * lone, 5.125)
    pixels = charts.pixels("map")
    background = hex_color(charts.get("map", "chart.theme.background"))
    assert not has_color(pixels[y, x - 1 : x + 2], background, 20).all()
    away, _ = charts.at("map", 50.0 * n_steps / 10, 5.125)
    assert has_color(pixels[y, away], background)
    # The axis line is grey as well, so the cross is looked for above it.
    bottom = charts.get("map", "chart.scene.plot.bottom")
    text = hex_color(charts.get("map", "chart.theme.text"))
    left, _ = charts.at("map", 0.0, 1.0)
    assert rows_with(pixels, text, left, range(bottom - 8, bottom - 2), 4, 90) >= 2
    assert charts.get("map", "chart.toSVG()").count("<rect") > 3


def test_a_map_made_outside_of_the_document_has_the_colors_of_the_page(charts: Charts) -> None:
    charts.page.evaluate("() => document.body.style.setProperty('--chart-bg', '#102030')")
    try:
        charts.show_heat("map", histograms(10, 5), title="Phases", isDetached=True)
        assert charts.get("map", "chart.theme.background") == "#102030"
        x, y = charts.at("map", 100.0, 5.125)
        assert has_color(charts.pixels("map")[y, x], hex_color("#102030"))
    finally:
        charts.page.evaluate("() => document.body.style.removeProperty('--chart-bg')")


def test_the_readout_counts_the_values_of_a_bin(charts: Charts) -> None:
    """Pointer and arrow keys choose a bin; its step, range and share are shown and spoken."""
    charts.show_heat("map", histograms(10, 5), title="Phases")
    left, top = charts.get(
        "map", "(({ left, top }) => [left, top])(chart.plot.getBoundingClientRect())"
    )
    x, y = charts.at("map", 250.0, 5.125)
    charts.page.mouse.move(left + x, top + y)
    charts.do("map", "0")
    text = charts.page.locator(".chart-readout").inner_text()
    assert text.splitlines() == ["Step 250", "5 to 5.25 radians", "1 of 80,001 (0.00125%)"]
    charts.do("map", "chart.plot.focus()")
    charts.page.keyboard.press("ArrowLeft")
    spoken = charts.page.locator(".chart-live").text_content()
    assert spoken == "Step 200, 5 to 5.25 radians, 0 of 80,000 (0%)"


def test_maps_without_data_have_axes(charts: Charts) -> None:
    """Nothing, one step and steps without values are drawn without an error."""
    empty: dict[str, Any] = {"edges": [], "steps": [], "counts": []}
    one = {"edges": [0, 1, 2], "steps": [7], "counts": [[0, 0]]}
    octaves = {"edges": [2.0**k for k in range(-40, 9)], "steps": [0, 5], "counts": [[1] * 48] * 2}
    for name, data in {"empty": empty, "one": one, "octaves": octaves}.items():
        charts.show_heat(name, data, title=name)
        assert charts.get(name, "chart.scene.ticksY.length") >= 2
    assert charts.get("empty", "chart.base.ariaLabel") == "empty: no data."
    assert charts.get("octaves", "chart.scene.scaleY.kind") == "log"


def test_the_colours_are_equal_steps_to_the_eye(charts: Charts) -> None:
    """Neighbours differ equally in Oklab, and lightness only rises."""
    stops = charts.page.evaluate("import('./chart/colormap.js').then(({ STOPS }) => STOPS)")
    labs = np.array([oklab(stop) for stop in stops])
    distances = np.linalg.norm(np.diff(labs, axis=0), axis=1)
    assert distances.max() / distances.min() < 1.1
    assert (np.diff(labs[:, 0]) > 0.03).all()


def oklab(color: str) -> Any:
    """Return lightness, a and b of a colour (Ottosson, 2020)."""
    encoded = hex_color(color) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(to_cones @ linear)
