"""Exported files in a browser: they show what the page shows, and ask nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from spectral_exp.dashboard import show
from tests.dashboard.browser.charts import Pixels, decode_image
from tests.dashboard.browser.served import served, visit
from tests.dashboard.browser.test_pages import find_the_needle
from tests.dashboard.browser.test_runs_page import expect, row
from tests.dashboard.served import log_values
from tests.results.made_runs import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OpenPage = Callable[..., Any]


def save_from(page: Page, file: Path) -> None:
    """Save the runs page by its menu."""
    page.get_by_role("button", name="Export").click()
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("menuitem", name="Save as one HTML file").click()
    download.value.save_as(file)


def shown_comparison(page: Page) -> tuple[list[str], Pixels]:
    """Return the texts of a comparison and the pixels of its difference over steps."""
    figures = page.get_by_role("region", name="Figures").get_by_role("figure")
    expect(figures.first).to_be_visible(timeout=60_000)
    captions = figures.get_by_role("img").evaluate_all(
        "images => Promise.all(images.map(i => (i.loading = 'eager', i.decode().then(() => i.alt))))"
    )
    over_steps = page.get_by_role("region", name="Difference over steps")
    canvas = over_steps.locator("canvas[role=img]")
    canvas.scroll_into_view_if_needed()
    expect(canvas).to_have_attribute("aria-label", re.compile("wave minus classic"))
    pixels = decode_image(canvas.evaluate("canvas => canvas.toDataURL()").partition(",")[2])
    tables = page.get_by_role("region", name="Tables").inner_text()
    return [tables, over_steps.inner_text(), *captions], pixels


def test_an_exported_comparison_is_that_of_the_page(open_page: OpenPage, tmp_path: Path) -> None:
    """Tables, figures, and the difference over steps with a spike of one step, by its pixels."""
    runs = tmp_path / "runs"
    for seed in (1, 2, 3):
        values = np.full(3000, 2.0 + 0.01 * seed)
        log_values(make_run(runs, "classic", seed), list(values))
        values[1500] = 9.0 if seed == 2 else values[1500]
        log_values(make_run(runs, "wave", seed), list(values - 0.5))
    with served(runs) as address:
        page = visit(open_page, address, "#/runs?metric=loss")
        expect(row(page, "wave")).to_be_visible()
        save_from(page, tmp_path / "dashboard.html")
        page.get_by_role("button", name="Compare").click()
        texts, pixels = shown_comparison(page)
        page.close()
    page = open_page("file://")
    page.goto((tmp_path / "dashboard.html").as_uri())
    page.get_by_role("button", name="Compare").click()
    saved_texts, saved_pixels = shown_comparison(page)
    assert saved_texts == texts
    assert "loss minus that of classic" in texts[0]
    assert len(texts) >= 6
    assert np.array_equal(saved_pixels, pixels)
    is_colored = np.ptp(pixels, axis=2) > 20
    height, width = is_colored.shape
    spike = np.flatnonzero(is_colored[: height // 3].any(axis=0))
    assert abs(spike - width / 2).max() < width / 10
    assert np.ptp(spike) < 5
    expect(page.get_by_label("Baseline")).to_be_disabled()
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)
    svg = page.get_by_role("link", name="SVG").first
    with page.expect_download() as download:
        svg.click()
    assert download.value.suggested_filename == "intervals_loss.svg"
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.get_by_role("region", name="Tables")).to_contain_text("loss minus")


def test_an_exported_view_needs_no_server(
    open_page: OpenPage, dashboard: str, runs_folder: Path, tmp_path: Path
) -> None:
    """The file shows the table, the charts and the runs, and asks nobody for anything."""
    page = visit(open_page, dashboard)
    expect(row(page, "wave")).to_be_visible()
    value = row(page, "wave").get_by_role("cell").nth(3).inner_text()
    file = tmp_path / "dashboard.html"
    show(runs_folder).save(file)

    page = open_page("file://")
    page.goto(file.as_uri())
    expect(row(page, "wave").get_by_role("cell").nth(3)).to_have_text(value)
    expect(page.get_by_role("button", name="Compare")).to_be_enabled()
    expect(page.locator(".connection")).to_have_text("Exported file")
    loss = page.get_by_role("region", name="Loss", exact=True)
    loss.scroll_into_view_if_needed()
    image = loss.get_by_role("img")
    expect(image).to_have_attribute("aria-label", re.compile("wave"))
    expect(image).to_have_attribute("aria-label", re.compile("classic"))
    row(page, "wave").get_by_role("button", name="Runs of").click()
    page.get_by_role("link", name="seed 2").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("wave_20260101_000002")
    image = page.get_by_role("region", name="Loss", exact=True).get_by_role("img")
    expect(image).to_have_attribute("aria-label", re.compile("wave"))
    page.get_by_role("tab", name="Settings").click()
    expect(page.get_by_role("cell", name="resonance").first).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_exported_run_holds_its_plots_and_log(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "wave", 1)
    (run / "visualizations").mkdir()
    for step in (50, 100):
        Image.new("RGB", (40, 30), "teal").save(run / "visualizations" / f"phase_step_{step}.png")
    lines = [f"line {number} \u65e5\u672c" for number in range(20_000)]
    lines[12_345] = "[WARNING] the needle is here"
    (run / "train.log").write_text("\n".join(lines) + "\n")
    file = tmp_path / "run.html"
    show(run).save(file)
    page = open_page("file://")
    page.goto(f"{file.as_uri()}")
    page.get_by_role("tab", name="Inside").click()
    picture = page.get_by_role("img", name="Phase of wave")
    expect(picture).to_have_js_property("naturalWidth", 40)
    page.get_by_label("Step").press("ArrowLeft")
    expect(page.get_by_role("img", name="at step 50")).to_have_js_property("naturalWidth", 40)
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("region", name="Log")
    expect(log.get_by_text("line 19999 ")).to_be_in_viewport()
    expect(log).not_to_contain_text("the needle")
    find_the_needle(page, log)
    page.get_by_role("button", name="Start").click()
    expect(log.get_by_text("line 0 ")).to_be_in_viewport()
    page.get_by_role("button", name="Next warning").click()
    expect(log.locator(".marked")).to_have_text("[WARNING] the needle is here")
    # Scrolling to either side reads on without a gap.
    for end in ("0", "element.scrollHeight"):
        for _ in range(12):
            log.evaluate(f"element => {{ element.scrollTop = {end}; }}")
            page.wait_for_timeout(20)
    shown = log.locator(".log-lines > div > div").all_inner_texts()
    first = lines.index(shown[0])
    assert shown == lines[first : first + len(shown)]
    assert shown[-1] == lines[-1]
