"""What a chart shows, down to the pixel: no spike, NaN or last point is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral_exp.core.series import FloatArray
from tests.dashboard.browser.charts import (
    Charts,
    Pixels,
    has_color,
    hex_color,
    image_pixels,
    rows_with,
)
from tests.dashboard.browser.frames import band_frame, curve_frame
from tests.dashboard.browser.pages import ORIGIN, Site, strict_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

N = 1_000_000
SPIKE_AT = 617_283
SPIKE = 9.5
ZOOMS = [None, (500_000.0, 700_000.0), (617_000.0, 617_900.0), (617_278.0, 617_290.0)]

SMOOTH = 100  # how far the pixels of a mark may differ from its colour
HALF = 135  # a flat line between two rows of pixels has half of its colour in each

Curve = tuple[FloatArray, FloatArray]


def noisy(seed: int, level: float, n: int = N, spike_at: int | None = None) -> Curve:
    """Return a falling loss with noise, and a spike of one step."""
    x = np.arange(n, dtype=float)
    y = level + 2 * np.exp(-x / (0.1 * n)) + 0.05 * np.random.default_rng(seed).normal(size=n)
    if spike_at is not None:
        y[spike_at] = SPIKE
    return x, y


@pytest.fixture(scope="module")
def curves() -> dict[str, Curve]:
    """Return three runs of a million steps; the second, in the middle, has the spike."""
    return {"a": noisy(1, 2.0), "b": noisy(2, 2.1, spike_at=SPIKE_AT), "c": noisy(3, 2.2)}


STYLE = {"a": {"color": 0}, "b": {"color": 1}, "c": {"color": 2}}


def assert_spike(pixels: Pixels, color: Pixels, x: int, top: int, base: int) -> None:
    """Check that opaque pixels show the tip of the spike, and half of its height at least."""
    assert base - top > 60
    assert rows_with(pixels, color, x, range(top, top + 8), reach=2) >= 6
    # Far apart from its neighbours, a point is the tip of a triangle of lines.
    assert rows_with(pixels, color, x, range(top, (top + base) // 2), reach=40) >= 0.4 * (
        base - top
    )


@pytest.mark.parametrize("smoothing", [0, pytest.param(0.95, marks=pytest.mark.slow)])
def test_a_spike_of_one_step_in_a_million_is_visible_at_every_zoom(
    charts: Charts, curves: dict[str, Curve], smoothing: float
) -> None:
    """The raw extent is drawn as it is, under a smoothed line too."""
    for zoom in ZOOMS:
        view = {"x": zoom and list(zoom), "smoothing": smoothing}
        charts.show("chart", curve_frame(curves, zoom), style=STYLE, view=view)
        x, top = charts.at("chart", SPIKE_AT, SPIKE)
        _, base = charts.at("chart", SPIKE_AT, 2.6)
        full = charts.color("chart", 1)
        assert_spike(charts.pixels("chart"), full, x, top, base)


@pytest.mark.parametrize("smoothing", [pytest.param(0, marks=pytest.mark.slow), 0.95])
def test_a_spike_of_one_run_is_visible_in_its_group_at_every_zoom(
    charts: Charts, smoothing: float
) -> None:
    """The extremes of single runs stand out of the band of their group."""
    n, at = 50_000, 30_864
    groups = {
        "g": [noisy(seed, 2.0, n) for seed in range(3)],
        "h": [noisy(10, 2.1, n), noisy(11, 2.1, n, spike_at=at), noisy(12, 2.1, n)],
        "i": [noisy(seed, 2.2, n) for seed in range(20, 23)],
    }
    style = {key: {"color": i, "kind": "band"} for i, key in enumerate(groups)}
    for zoom in (None, (25_000.0, 35_000.0), (30_800.0, 30_900.0)):
        view = {"x": zoom and list(zoom), "smoothing": smoothing}
        charts.show("chart", band_frame(groups, zoom), style=style, view=view)
        x, top = charts.at("chart", at, SPIKE)
        _, base = charts.at("chart", at, 2.6)
        found = rows_with(
            charts.pixels("chart"), charts.color("chart", 1), x, range(top, base), reach=2
        )
        assert found >= 0.8 * (base - top)


def test_a_group_that_falls_from_its_first_point_on_has_no_spike_there(charts: Charts) -> None:
    steps = np.arange(20.0, 260.0, 20.0)
    runs = [(steps, offset + 3 + 400 / steps) for offset in (0.0, 0.5, 1.0)]
    charts.show("chart", band_frame({"g": runs}), style={"g": {"color": 1, "kind": "band"}})
    x, first = charts.at("chart", steps[0], runs[0][1].min() + 0.5 + 400 / 20 - 400 / 240)
    _, second = charts.at("chart", steps[0], 3 + 400 / steps[1])
    rows = range(first + 12, second)
    assert len(rows) > 20
    assert rows_with(charts.pixels("chart"), charts.color("chart", 1), x, rows, reach=0) == 0


@pytest.mark.parametrize("smoothing", [0.95, pytest.param(0, marks=pytest.mark.slow)])
def test_the_exported_svg_shows_the_spike(
    charts: Charts, curves: dict[str, Curve], open_page: Callable[..., Page], smoothing: float
) -> None:
    """A picture drawn from the file has the spike, NaN marks, labels and the legend."""
    changed = {key: (x, y.copy()) for key, (x, y) in curves.items()}
    changed["a"][1][300_000] = np.nan
    options = {"title": "loss <b>", "yLabel": "nats", "xLabel": "Step", "xKind": "count"}
    view = {"smoothing": smoothing}
    charts.show("chart", curve_frame(changed), style=STYLE, view=view, options=options)
    svg = charts.get("chart", "chart.toSVG()")
    for text in ("loss &lt;b&gt;", "nats", "Step", "200k", ">a<", ">b<", ">c<"):
        assert text in svg
    assert "<b>" not in svg
    site = Site()
    site.files["chart.svg"] = svg.encode()
    page = open_page(viewport={"width": 480, "height": 340})
    site.attach(page)
    page.goto(ORIGIN + "chart.svg")
    pixels = image_pixels(page.screenshot())
    shift = 25  # height of the title
    x, top = charts.at("chart", SPIKE_AT, SPIKE)
    _, base = charts.at("chart", SPIKE_AT, 2.6)
    found = rows_with(pixels, charts.color("chart", 1), x, range(top + shift, base + shift), 2)
    assert found >= 0.8 * (base - top)
    bottom = charts.get("chart", "chart.scene.plot.bottom") + shift
    x, _ = charts.at("chart", 300_000, 2.0)
    assert rows_with(pixels, charts.color("chart", 0), x, range(bottom - 8, bottom), 3, SMOOTH) >= 3


@pytest.mark.slow
def test_every_value_is_covered_by_its_column(charts: Charts) -> None:
    """The smallest and largest value of each bin are pixels of the curve, whatever the data."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(500, 30_000))
        y = rng.standard_cauchy(n) if seed % 2 else rng.normal(size=n) * rng.random(n)
        charts.show("chart", curve_frame({"a": (np.arange(n, dtype=float), y)}, n_bins=300))
        color, pixels = charts.color("chart", 0), charts.pixels("chart")
        pale = "(await import('./chart/theme.js')).mix(chart.theme.series[0], '#ffffff', 0.62)"
        envelope = hex_color(charts.get("chart", pale))
        # The line of the means lies on the pale envelope, with smooth edges.
        least, most = np.minimum(color, envelope) - 2, np.maximum(color, envelope) + 2
        covered = np.all((pixels >= least) & (pixels <= most), axis=-1)
        rows = charts.get(
            "chart",
            """chart.list[0].x.reduce((rows, x, row) => {
                const { scaleX, scaleY } = chart.scene;
                const column = Math.floor(scaleX.toPixel(x));
                const { lo, hi } = chart.list[0];
                return [...rows, [column, scaleY.toPixel(hi[row]), scaleY.toPixel(lo[row])]];
            }, [])""",
        )
        for column, top, bottom in rows:
            reach = slice(max(0, column - 1), column + 2)
            for y_pixel in range(int(np.ceil(top)), int(bottom)):
                assert covered[y_pixel, reach].any()


def marked_rows(charts: Charts, name: str, color: int, x: float, edge: str) -> int:
    """Return how many pixels high the marks at an edge of the plot are; their edges are smooth."""
    place = charts.get(name, f"chart.scene.plot.{edge}")
    rows = range(place, place + 8) if edge == "top" else range(place - 8, place - 1)
    column, _ = charts.at(name, x, 1.0)
    return rows_with(charts.pixels(name), charts.color(name, color), column, rows, 3, SMOOTH)


@pytest.mark.parametrize("n", [300, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["curve", "band"])
def test_nan_and_infinities_are_marked_at_the_edges(charts: Charts, n: int, kind: str) -> None:
    """Raw points, bins and groups mark what has no place in the plot."""
    x = np.arange(n, dtype=float)
    y = 2.0 + np.sin(x / n * 20)
    y[n // 5], y[2 * n // 5], y[3 * n // 5] = np.nan, np.inf, -np.inf
    others = [(x, 2.0 + np.cos(x / n * 20)) for _ in range(2)]
    frame = curve_frame({"a": (x, y)}) if kind == "curve" else band_frame({"a": [(x, y), *others]})
    charts.show("chart", frame, style={"*": {"kind": kind, "color": 3}})
    assert marked_rows(charts, "chart", 3, n // 5, "bottom") >= 3
    assert marked_rows(charts, "chart", 3, 2 * n // 5, "top") >= 3
    assert marked_rows(charts, "chart", 3, 3 * n // 5, "bottom") >= 3
    assert marked_rows(charts, "chart", 3, 4 * n // 5, "top") == 0
    assert marked_rows(charts, "chart", 3, 4 * n // 5, "bottom") == 0


def test_values_beyond_the_axis_are_marked(charts: Charts, curves: dict[str, Curve]) -> None:
    """A chart without outliers shows where they are."""
    charts.show("chart", curve_frame(curves), style=STYLE, view={"clip": True})
    assert charts.get("chart", "chart.scene.scaleY.domain[1]") < SPIKE
    assert marked_rows(charts, "chart", 1, SPIKE_AT, "top") >= 3


def test_a_logarithm_marks_what_it_does_not_know(charts: Charts) -> None:
    """Zero and negative values are hollow triangles; the positive ones keep their places."""
    x = np.arange(200.0)
    y = 10 ** (3 * np.sin(x / 15))
    y[50], y[120] = 0.0, -5.0
    charts.show("chart", curve_frame({"a": (x, y)}), view={"yScale": "log"})
    low, high = charts.get("chart", "chart.scene.scaleY.domain")
    assert 0 < low < y[y > 0].min()
    assert high > y.max()
    assert marked_rows(charts, "chart", 0, 50, "bottom") >= 3
    assert marked_rows(charts, "chart", 0, 120, "bottom") >= 3
    pixels, color = charts.pixels("chart"), charts.color("chart", 0)
    for step in (30, 90, 199):
        column, row = charts.at("chart", step, y[step])
        assert has_color(pixels[row - 2 : row + 3, column - 2 : column + 3], color).any()


@pytest.mark.parametrize(
    "n", [300, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 100_003))]
)
def test_the_last_point_is_never_lost(charts: Charts, n: int) -> None:
    """A value that only the last step has is seen at the right edge."""
    x, y = np.arange(n, dtype=float), np.ones(n)
    y[-1] = 7.0
    charts.show("chart", curve_frame({"a": (x, y)}), style={"a": {"color": 1}})
    pixels, color = charts.pixels("chart"), charts.color("chart", 1)
    column, row = charts.at("chart", n - 1, 7.0)
    assert has_color(pixels[row - 1 : row + 4, column - 2 : column + 2], color, HALF).any()


ODD_SERIES: dict[str, list[float]] = {
    "empty": [],
    "one point": [3.0],
    "one NaN": [np.nan],
    "constant": [3.0] * 50,
    "zero": [0.0] * 5,
    "all NaN": [np.nan] * 50,
    "all infinite": [np.inf, -np.inf, np.inf],
    "huge": [1e300, -1e300, 5e299],
    "largest": [1.7e308, -1.7e308, 0.0],
    "tiny": [1e-300, 3e-300, 2e-300],
    "smallest": [5e-324, 0.0, 5e-324],
    "large offset": [1e15, 1e15 + 1, 1e15 + 2],
    "alternating": [1.0, np.nan, 2.0, np.nan, 3.0],
}


@pytest.mark.parametrize(
    "scale", ["linear", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("log", "symlog"))]
)
def test_odd_series_have_a_chart(charts: Charts, scale: str) -> None:
    """Axes are finite and ticks differ for every series; each finite value is visible."""
    series = {name: np.array(values) for name, values in ODD_SERIES.items()}
    for name, y in series.items():
        frame = curve_frame({"a": (np.arange(len(y), dtype=float), y)})
        view = {"yScale": scale}
        charts.show(name, frame, style={"a": {"color": 1}}, view=view, is_awaited=False)
    charts.page.evaluate("harness.drawn()")
    for name, y in series.items():
        axis: dict[str, Any] = charts.get(
            name,
            """({ domain: chart.scene.scaleY.domain, x: chart.scene.scaleX.domain,
                  labels: chart.scene.ticksY.map(({ label }) => label).filter(Boolean) })""",
        )
        assert np.isfinite([*axis["domain"], *axis["x"]]).all(), name
        assert axis["domain"][0] < axis["domain"][1], name
        assert len(set(axis["labels"])) == len(axis["labels"]) <= 25, (name, axis)
        # The smallest number lies on a logarithmic axis itself.
        visible = np.isfinite(y) if scale != "log" else (y > 1e-300) & np.isfinite(y)
        seen = has_color(charts.pixels(name), charts.color(name, 1), HALF)
        assert seen.any() or not len(y), name
        for step in np.flatnonzero(visible):
            column, row = charts.at(name, float(step), float(y[step]))
            assert seen[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4].any(), name


@pytest.mark.slow
def test_dark_theme_and_dense_pixels_show_the_spike(
    browser: Browser, curves: dict[str, Curve]
) -> None:
    """The colours are those of the page; two device pixels are as opaque as one."""
    with strict_pages(browser) as open_one:
        page = open_one(viewport={"width": 500, "height": 300}, device_scale_factor=2)
        charts = Charts(page, Site())
        charts.show("chart", curve_frame(curves, n_bins=420), style=STYLE)
        light = charts.color("chart", 1)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate("window.dispatchEvent(new Event('themechange'))")
        page.evaluate("harness.drawn()")
        dark, pixels = charts.color("chart", 1), charts.pixels("chart")
        assert (dark != light).any()
        background = hex_color(charts.get("chart", "chart.theme.background"))
        assert has_color(pixels[:4, :4], background).all()
        assert background.max() < 60
        x, top = charts.at("chart", SPIKE_AT, SPIKE)
        _, base = charts.at("chart", SPIKE_AT, 2.6)
        assert rows_with(pixels, dark, x, range(top, base), 2) >= 0.9 * (base - top)
        # The bins are wider than a column, and the envelope has no gaps between them.
        row = charts.at("chart", SPIKE_AT, 2.2)[1]
        left, right = charts.at("chart", 400_000, 2.2)[0], charts.at("chart", 990_000, 2.2)[0]
        assert not has_color(pixels[row, left:right], background).any()


def test_a_chart_follows_the_size_of_its_host(charts: Charts) -> None:
    """The canvas has as many pixels as the host, and the spike stays in it."""
    x, y = noisy(1, 2.0, 10_000, spike_at=6_000)
    charts.show("chart", curve_frame({"a": (x, y)}))
    for width in (900, 240):
        charts.do("chart", f"chart.root.parentElement.style.width = '{width}px'")
        pixels = charts.pixels("chart")
        assert pixels.shape[1] == width
        column, top = charts.at("chart", 6_000, SPIKE)
        _, base = charts.at("chart", 6_000, 2.6)
        assert rows_with(pixels, charts.color("chart", 0), column, range(top, base), 2) > 60
