"""Charts under the hands of a user: zoom, cursor, keyboard, legend, files."""

from __future__ import annotations

import base64
import csv
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral_exp.core.series import FloatArray
from tests.dashboard.browser.charts import Charts, decode_image, has_color
from tests.dashboard.browser.frames import band_frame, curve_frame
from tests.dashboard.browser.pages import Site, strict_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

OPTIONS = {"xKind": "count", "xLabel": "Step", "yLabel": "nats", "title": "Loss"}


def wave(n: int, shift: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Return a curve of `n` steps."""
    x = np.arange(n, dtype=float)
    return x, shift + np.sin(x / 50)


def drag(charts: Charts, name: str, start: float, end: float, **heights: float) -> None:
    """Drag the mouse between shares of the width of a plot, at half its height or at others."""
    box = charts.box(name)
    width, height = box["right"] - box["left"], box["bottom"] - box["top"]
    mouse = charts.page.mouse
    y0 = box["top"] + heights.get("top", 0.5) * height
    y1 = box["top"] + heights.get("bottom", 0.5) * height
    mouse.move(box["left"] + start * width, y0)
    mouse.down()
    mouse.move(box["left"] + (start + end) / 2 * width, (y0 + y1) / 2)
    mouse.move(box["left"] + end * width, y1)
    mouse.up()
    charts.page.evaluate("harness.drawn()")


def zoom_of(charts: Charts, name: str) -> Any:
    return charts.get(name, "chart.view.x")


def test_an_update_never_changes_the_zoom(charts: Charts) -> None:
    """A drag zooms and is reported; new data, also longer ones, keep what is shown."""
    charts.show("chart", curve_frame({"a": wave(1000)}), options=OPTIONS)
    drag(charts, "chart", 0.25, 0.5)
    zoom = zoom_of(charts, "chart")
    assert zoom == pytest.approx([250, 500], abs=5)
    assert charts.calls("onZoom") == [zoom]
    longer = curve_frame({"a": wave(3000), "b": wave(3000, 1.0)})
    charts.show("chart", longer, view={"extent": [0, 2999]})
    charts.do("chart", "chart.setView({ smoothing: 0.5 })")
    assert zoom_of(charts, "chart") == zoom
    assert charts.get("chart", "chart.scene.window") == zoom
    charts.page.keyboard.press("Escape")
    assert zoom_of(charts, "chart") is None
    assert charts.calls("onZoom")[-1] is None
    charts.do("chart", "0")
    assert charts.get("chart", "chart.scene.window") == [0, 2999]


def test_a_box_zooms_both_axes_and_a_double_click_resets_them(charts: Charts) -> None:
    """Shift makes a box of a drag; both axes stay until they are reset."""
    charts.show("chart", curve_frame({"a": wave(1000)}), options=OPTIONS)
    low, high = charts.get("chart", "chart.scene.scaleY.domain")
    charts.page.keyboard.down("Shift")
    drag(charts, "chart", 0.2, 0.6, top=0.25, bottom=0.75)
    charts.page.keyboard.up("Shift")
    charts.show("chart", curve_frame({"a": wave(2000)}))
    shown = charts.get("chart", "chart.scene.scaleY.domain")
    quarter = (high - low) / 4
    assert shown == pytest.approx([low + quarter, high - quarter], abs=quarter / 10)
    box = charts.box("chart")
    charts.page.mouse.dblclick(box["left"] + 100, box["top"] + 50)
    assert charts.get("chart", "[chart.view.x, chart.view.y]") == [None, None]


@pytest.mark.slow
def test_wheel_and_keys_zoom_and_pan_the_focused_chart(charts: Charts) -> None:
    """The page scrolls over a chart without focus; keys and wheel never leave the data."""
    view = {"extent": [0, 999]}
    charts.show("chart", curve_frame({"a": wave(1000)}), view=view, options=OPTIONS)
    box = charts.box("chart")
    middle = (box["left"] + box["right"]) / 2
    charts.page.mouse.move(middle, box["top"] + 20)
    charts.page.mouse.wheel(0, -200)
    charts.do("chart", "0")
    assert zoom_of(charts, "chart") is None
    charts.do("chart", "chart.plot.focus()")
    charts.page.mouse.wheel(0, -200)
    while zoom_of(charts, "chart") is None:
        charts.do("chart", "0")
    low, high = zoom_of(charts, "chart")
    assert 0 < low < 499.5 < high < 999
    assert (low + high) / 2 == pytest.approx(499.5, abs=5)
    for _ in range(12):
        charts.page.keyboard.press("ArrowRight")
        charts.do("chart", "0")
    panned = zoom_of(charts, "chart")
    assert panned[1] == pytest.approx(999)
    assert panned[1] - panned[0] == pytest.approx(high - low)
    charts.page.keyboard.press("+")
    charts.do("chart", "0")
    nearer = zoom_of(charts, "chart")
    assert nearer[1] - nearer[0] < high - low
    for _ in range(12):
        charts.page.keyboard.press("-")
        charts.do("chart", "0")
    assert zoom_of(charts, "chart") is None


def test_the_readout_names_values_and_extremes(charts: Charts) -> None:
    """It shows run, step and value, the extent of a bin, and interval and runs of a group."""
    x, y = wave(100_000)
    y[49_900] = 9.0
    markup = "<img src=x onerror=alert(1)>"
    charts.show("bins", curve_frame({"a": (x, y)}), style={"*": {"label": markup}}, options=OPTIONS)
    groups = {"g": [wave(200, 0.1 * shift) for shift in range(12)]}
    charts.show(
        "band", band_frame(groups), style={"*": {"kind": "band", "label": "wave"}}, options=OPTIONS
    )
    texts = {}
    for name, step in {"bins": 49_875, "band": 100}.items():
        box = charts.box(name)
        column, _ = charts.at(name, step, 0.0)
        offset = charts.get(name, "chart.scene.plot.left")
        charts.page.mouse.move(box["left"] - offset + column, (box["top"] + box["bottom"]) / 2)
        charts.do(name, "0")
        texts[name] = charts.page.locator(f"#{name} .chart-readout").inner_text()
    assert markup in texts["bins"]
    assert "to 9" in texts["bins"]
    assert "Step 49,875" in texts["bins"]
    for part in ("wave", "Step 100", "n = 12", "runs", "to"):
        assert part in texts["band"]
    charts.page.mouse.move(0, 0)
    assert charts.page.locator(".chart-readout:visible").count() == 0


def test_linked_charts_share_cursor_and_zoom(charts: Charts) -> None:
    """One chart is used, all follow; each reports its own hover only."""
    for name in ("first", "second"):
        charts.show(name, curve_frame({"a": wave(1000)}), is_linked=True, options=OPTIONS)
    drag(charts, "first", 0.1, 0.6)
    assert zoom_of(charts, "second") == zoom_of(charts, "first") is not None
    cursor = charts.get("first", "chart.view.cursor")
    assert charts.get("second", "chart.view.cursor") == cursor is not None
    assert charts.get("second", "chart.readout.box.hidden")
    assert len(charts.calls("onZoom")) == 1
    charts.page.mouse.move(0, 0)
    assert charts.get("second", "chart.view.cursor") is None


def test_shift_and_arrows_speak_the_values_of_the_next_step(charts: Charts) -> None:
    """A chart can be read without a mouse and without eyes."""
    from playwright.sync_api import expect

    x = np.arange(5.0)
    charts.show(
        "chart",
        curve_frame({"a": (x, 10 * x)}),
        style={"a": {"label": "classic"}},
        options=OPTIONS,
    )
    charts.do("chart", "chart.plot.focus()")
    spoken = []
    for _ in range(3):
        charts.page.keyboard.press("Shift+ArrowRight")
        spoken.append(charts.page.locator(".chart-live").text_content())
    assert spoken == ["Step 0: classic 0", "Step 1: classic 10", "Step 2: classic 20"]
    summary = "Loss over Step: 1 series. classic: last 40, between 0 and 40, from 0 to 4."
    expect(charts.page.get_by_role("img", name=summary)).to_be_visible()


def test_the_legend_hides_and_shows_series(charts: Charts) -> None:
    """A click on an entry removes the curve and is reported; its pixels are gone."""
    charts.show(
        "chart",
        curve_frame({"a": wave(500), "b": wave(500, 3.0)}),
        style={"a": {"color": 0, "label": "classic"}, "b": {"color": 1, "label": "wave\u202e"}},
        options=OPTIONS | {"legend": True},
    )
    orange = charts.color("chart", 1)
    assert has_color(charts.pixels("chart"), orange).any()
    button = charts.page.get_by_role("button", name="wave\\u202e")
    button.click()
    charts.page.mouse.move(0, 0)
    charts.do("chart", "0")
    assert charts.calls("onHide") == [["b"]]
    assert not has_color(charts.pixels("chart"), orange).any()
    assert "wave" not in charts.get("chart", "chart.toSVG()")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    charts.do("chart", "0")
    assert has_color(charts.pixels("chart"), orange).any()


@pytest.mark.slow
def test_a_click_near_a_curve_picks_it(charts: Charts) -> None:
    """The nearest curve is reported; a click far from all is not."""
    frame = curve_frame({"a": wave(500), "b": wave(500, 6.0)})
    charts.show("chart", frame, options=OPTIONS)
    left, top = charts.get(
        "chart", "(({ left, top }) => [left, top])(chart.plot.getBoundingClientRect())"
    )
    for value in (6.0, 3.0):
        x, y = charts.at("chart", 314, value)
        charts.page.mouse.click(left + x, top + y)
    assert charts.calls("onPick") == ["b"]


@pytest.mark.slow
def test_files_hold_what_is_shown(charts: Charts) -> None:
    """PNG has twice the resolution and the curve; CSV every row, quoted for spreadsheets."""
    x = np.arange(4.0)
    y = np.array([1.0, np.nan, np.inf, 0.1])
    label = '=cmd|"x"'
    charts.show("chart", curve_frame({"a": (x, y)}), style={"a": {"label": label}}, options=OPTIONS)
    rows = list(csv.DictReader(charts.get("chart", "chart.toCSV()").splitlines()))
    assert [(row["series"], row["x"], row["value"]) for row in rows] == [
        ("'" + label, "0", "1"),
        ("'" + label, "1", "nan"),
        ("'" + label, "2", "inf"),
        ("'" + label, "3", "0.1"),
    ]
    bytes_of = "Array.from(new Uint8Array(await (await chart.toPNG()).arrayBuffer()))"
    content = bytes(charts.get("chart", bytes_of))
    pixels = decode_image(base64.b64encode(content).decode())
    assert pixels.shape[1] == 2 * 480
    assert has_color(pixels, charts.color("chart", 0)).sum() > 20


@pytest.mark.slow
def test_ticks_of_any_axis_differ_and_keep_their_distance(charts: Charts) -> None:
    """For random ranges of every kind and scale: in the range, no label twice, no overlap."""
    rng = np.random.default_rng(0)
    cases: list[tuple[float, float, str, float]] = []
    for kind in ("count", "percent", "duration", "date", "number"):
        for _ in range(40):
            low = float(rng.normal() * 10 ** rng.uniform(-6, 9)) if kind == "number" else 0.0
            low += 1.7e9 if kind == "date" else 0.0
            width = float(10 ** rng.uniform(-3 if kind != "count" else 1, 8))
            cases.append((low, low + width, kind, float(rng.uniform(150, 1500))))
    charts.show("chart", curve_frame({"a": wave(5)}))
    source = """cases => Promise.all([import("./chart/layout.js"), import("./chart/text.js")])
        .then(([{ layoutAxes }, { measureText }]) => cases.map(([lo, hi, xKind, width]) => {
            const measure = (text, size) => measureText(text, size, "sans-serif");
            const view = { xScale: "linear", yScale: "linear", xKind, yKind: "number" };
            const axes = layoutAxes({ width, height: 200, ratio: 1 }, view,
                { x: [lo, hi], y: [lo, hi] }, { x: "", y: "" }, measure);
            return axes.ticksX.map(({ value, label, width }) =>
                [value, label, axes.scaleX.toPixel(value) - width / 2, width]);
        }))"""
    for case, ticks in zip(cases, charts.page.evaluate(source, cases), strict=True):
        assert ticks, case
        labels = [label for _, label, _, _ in ticks if label]
        slack = 1e-9 * (case[1] - case[0])
        assert all(case[0] - slack <= value <= case[1] + slack for value, *_ in ticks), case
        assert len(set(labels)) == len(labels) or case[2] == "date", (case, labels)
        spans = sorted((left, left + width) for _, label, left, width in ticks if label)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans)), (case, labels)


def test_a_cut_answer_is_an_error(charts: Charts) -> None:
    """An answer that ends early is refused, not drawn in part."""
    whole = curve_frame({"a": wave(50)})
    source = """async ([text, sizes]) => {
        const { decodeFrame } = await import("./frame.js");
        const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
        return sizes.map((size) => {
            try {
                decodeFrame(bytes.buffer.slice(0, size));
                return "";
            } catch (error) {
                return error.message;
            }
        });
    }"""
    sizes = [0, 3, 20, len(whole) - 8, len(whole)]
    messages = charts.page.evaluate(source, [base64.b64encode(whole).decode(), sizes])
    assert [bool(message) for message in messages] == [True, True, True, True, False]
    assert messages[3] == "The answer ends within the column y."


@pytest.mark.slow
def test_two_fingers_zoom_and_one_moves_the_cursor(browser: Browser) -> None:
    """A phone zooms without a mouse, and the page can still be scrolled."""
    with strict_pages(browser) as open_one:
        page = open_one(viewport={"width": 500, "height": 300}, has_touch=True)
        charts = Charts(page, Site())
        view = {"extent": [0, 999]}
        charts.show("chart", curve_frame({"a": wave(1000)}), view=view, options=OPTIONS)
        session = page.context.new_cdp_session(page)

        def touch(kind: str, *columns: float) -> None:
            points = [{"x": x, "y": 100, "id": index} for index, x in enumerate(columns)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            page.evaluate("harness.drawn()")

        touch("touchStart", 300)
        touch("touchMove", 320)
        assert charts.get("chart", "[chart.selection, chart.readout.box.hidden]") == [None, False]
        touch("touchEnd")
        middle = "chart.scene.scaleX.toValue(230 - chart.plot.getBoundingClientRect().left)"
        before = charts.get("chart", middle)
        touch("touchStart", 200)
        touch("touchStart", 200, 260)
        touch("touchMove", 140, 320)
        touch("touchEnd")
        low, high = zoom_of(charts, "chart")
        assert high - low == pytest.approx(999 / 3, rel=0.02)
        # What lay between the fingers stays there.
        assert charts.get("chart", middle) == pytest.approx(before, abs=2)
        assert page.evaluate(
            "getComputedStyle(document.querySelector('.chart-plot')).touchAction"
        ) == ("pan-y")
