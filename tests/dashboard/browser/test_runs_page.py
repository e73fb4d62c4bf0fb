"""The runs page in a browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spectral_exp.commands import compare
from tests.dashboard.browser.served import HOSTILE, served, visit
from tests.results.made_runs import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Any]


def expect(locator: Locator) -> Any:
    """Wait until a locator meets what is asked of it."""
    from playwright.sync_api import expect

    return expect(locator)


def row(page: Page, label: str) -> Locator:
    """The row of a group."""
    header = page.get_by_role("rowheader").filter(has_text=re.compile(f"^{re.escape(label)}"))
    return page.locator("tr").filter(has=header)


def test_the_table_shows_what_compare_prints(
    open_page: OpenPage, dashboard: str, runs_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Value, interval, difference and the verdict; text of a run is text, whatever it holds."""
    assert compare.main([str(runs_folder)]) == 0
    printed = capsys.readouterr().out
    wave = re.findall(r"^  wave +4 +(\S+) +(\[[^]]+\])(?: +(\S+))?", printed, re.MULTILINE)
    classic = re.search(r"^  classic \(baseline\) +4 +(\S+) +(\[[^]]+\])", printed, re.MULTILINE)
    assert len(wave) == 2
    assert classic

    page = visit(open_page, dashboard)
    (mean, interval, _), (difference, bounds, better) = wave
    for text in (f"{mean} {interval}", f"{difference} {bounds}", better):
        expect(row(page, "wave").get_by_role("cell", name=text).first).to_be_visible()
    expect(row(page, "wave").locator(".separated")).to_contain_text(difference)
    assert re.search(r"^  wave .* better$", printed, re.MULTILINE)
    value = f"{classic[1]} {classic[2]}"
    expect(row(page, "classic").get_by_role("cell", name=value)).to_be_visible()
    expect(row(page, "classic")).to_contain_text("baseline")

    # The source of a number.
    row(page, "wave").get_by_text(mean).first.hover()
    source = page.get_by_role("tooltip")
    expect(source).to_contain_text("val_bpb")
    expect(source).to_contain_text("wave_20260101_000001_abcd1234")

    # Hostile text: shown, its invisible characters as escapes, and never interpreted.
    shown = HOSTILE.replace("\u202e", "\\u202e")
    expect(page.get_by_role("rowheader", name=shown)).to_be_visible()
    assert page.locator("main img").count() == 0

    # The baseline is chosen on the page.
    page.get_by_label("Baseline").select_option("wave")
    expect(row(page, "wave")).to_contain_text("baseline")
    assert "baseline=wave" in page.url


@pytest.mark.slow
def test_the_state_is_in_the_address(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    row(page, "wave").get_by_role("button", name="Runs of").click()
    row(page, "classic").get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Log", exact=True).click()
    page.get_by_label("Metric").select_option("val_loss")
    head = page.get_by_role("columnheader", name="Validation loss")
    head.get_by_role("button").click()
    page.get_by_label("Find charts").fill("loss")

    def check() -> None:
        expect(page.get_by_label("Metric")).to_have_value("val_loss")
        expect(page.get_by_role("link", name="seed 3")).to_be_visible()
        expect(row(page, "classic").get_by_role("checkbox")).not_to_be_checked()
        expect(row(page, "wave").get_by_role("checkbox")).to_be_checked()
        expect(page.get_by_role("button", name="Log", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )
        expect(page.get_by_role("columnheader", name="Validation loss")).to_have_attribute(
            "aria-sort", "ascending"
        )
        expect(page.locator(".chart-card")).to_have_count(2)

    check()
    page.reload()
    check()

    # A zoom by dragging is that of all charts, and of the address.
    chart = page.locator(".chart-plot").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    assert "zoom=" in page.url
    page.get_by_role("button", name="Reset zoom").click()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_hidden()
    # None of it reaches the server.
    assert "#" in page.url
    assert "?" not in page.url.partition("#")[0]


@pytest.mark.slow
def test_what_concerns_the_charts_alone_leaves_the_table(
    open_page: OpenPage, dashboard: str
) -> None:
    page = visit(open_page, dashboard)
    expect(page.locator(".chart-plot").first).to_be_visible()
    before = row(page, "wave").element_handle()
    page.get_by_role("button", name="Log", exact=True).click()
    expect(page.get_by_role("button", name="Log", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("Find charts").fill("val_bpb")
    expect(page.locator(".chart-card")).to_have_count(1)
    assert "y=log" in page.url
    assert before.evaluate("row => row.isConnected")
    page.get_by_label("Baseline").select_option("wave")
    expect(row(page, "wave")).to_contain_text("baseline")
    assert not before.evaluate("row => row.isConnected")


def test_the_keyboard_is_enough(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    expect(row(page, "wave")).to_be_visible()
    page.keyboard.press("j")
    expect(row(page, "wave")).to_have_class(re.compile("active"))
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("x")
    expect(row(page, "wave").get_by_role("checkbox")).not_to_be_checked()
    page.keyboard.press("e")
    expect(page.get_by_role("link", name="seed 2")).to_be_visible()
    page.keyboard.press("b")
    expect(page.get_by_label("Baseline")).to_have_value("wave")
    page.keyboard.press("l")
    expect(page.get_by_role("button", name="Log", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.keyboard.press("i")
    expect(page.get_by_role("dialog")).to_contain_text("mean of the runs")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Make the group the baseline")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    # Without --edit a mark says how it could be set.
    page.keyboard.press("p")
    expect(page.locator("#toast")).to_contain_text("--edit")
    page.keyboard.press("o")
    expect(page.get_by_role("heading", level=1)).to_contain_text("wave_20260101")
    # Back to the runs as they were left.
    page.keyboard.press("u")
    expect(page.get_by_label("Baseline")).to_have_value("wave")


@pytest.mark.slow
def test_the_filter_completes_and_reports_errors(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    page.keyboard.press("/")
    box = page.get_by_role("combobox", name="Filter runs")
    expect(box).to_be_focused()
    box.press_sequentially("emb")
    option = page.get_by_role("option", name="embedding", exact=True)
    expect(option).to_be_visible()
    expect(page.get_by_role("option", name="activation")).to_have_count(0)
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("embedding=")
    expect(page.get_by_role("option", name=re.compile("embedding=standard"))).to_be_visible()
    box.fill("embedding=standard")
    box.press("Enter")
    expect(row(page, "wave")).to_have_count(0)
    expect(row(page, "classic")).to_have_count(1)
    page.get_by_role("button", name="Remove condition embedding=standard").click()
    expect(row(page, "wave")).to_have_count(1)
    # A condition that no run meets.
    box.fill("embedding=none")
    box.press("Enter")
    expect(page.get_by_role("heading", name="No run meets the filter.")).to_be_visible()
    page.get_by_role("link", name="Show all runs").click()
    expect(row(page, "wave")).to_have_count(1)


@pytest.mark.slow
def test_an_address_may_name_what_there_is_not(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard, "#/runs?x=no&y=no&band=no&sort=no&smooth=7&zoom=a:b&show=no")
    expect(row(page, "wave")).to_be_visible()
    expect(page.get_by_label("x", exact=True)).to_have_value("step")
    page.evaluate("location.hash = '#/compare?groups=no'")
    expect(page.get_by_role("heading", name="Choose two to eight groups")).to_be_visible()
    page.evaluate("location.hash = '#/run/%E0%A4%A'")
    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
    page.evaluate("location.hash = '#/nowhere'")
    expect(page.get_by_role("heading", name="There is no such page.")).to_be_visible()


@pytest.mark.slow
def test_copies_of_the_table_escape_what_their_formats_would_read(
    open_page: OpenPage, dashboard: str
) -> None:
    page = visit(open_page, dashboard)
    expect(row(page, "wave")).to_be_visible()
    markdown, latex, cells = page.evaluate(
        """async () => {
            const { toCsv, toLatex, toMarkdown } = await import("./copy_table.js");
            const columns = [{ title: "a_b", text: (row) => row }];
            const rows = ["=1+1", 'a"b,c', "x|y_z", "50 % & $5", "-3"];
            return [toMarkdown(columns, rows), toLatex(columns, rows), toCsv(columns, rows)];
        }"""
    )
    assert r"x\|y\_z" in markdown
    assert r"a\_b" in latex
    assert r"50 \% \& \$5" in latex
    assert list(csv.reader(cells.splitlines())) == [
        ["a_b"], ["'=1+1"], ['a"b,c'], ["x|y_z"], ["50 % & $5"], ["-3"],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_table_is_exported(open_page: OpenPage, dashboard: str, tmp_path: Path) -> None:
    page = visit(open_page, dashboard)
    expect(row(page, "wave")).to_be_visible()
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Save as CSV").click()
    download.value.save_as(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = {line["Group"]: line for line in csv.DictReader(file)}
    assert float(rows["wave"]["Validation bits / byte"]) == pytest.approx(2.13)
    assert float(rows["wave"]["Difference high"]) < 0
    assert rows["classic"]["Difference"] == ""


@pytest.mark.slow
def test_columns_fit_into_the_width(open_page: OpenPage, dashboard: str) -> None:
    """A narrow table leaves out what matters least; the reader may choose the columns."""
    page = visit(open_page, dashboard, viewport={"width": 1280, "height": 800})
    table = page.get_by_role("region", name="Groups of runs")
    heads = table.get_by_role("columnheader")
    expect(row(page, "wave")).to_be_visible()

    def columns() -> list[str]:
        """Return the columns, of which none is out of sight."""
        assert table.evaluate("table => table.scrollWidth <= table.clientWidth")
        return [text.strip() for text in heads.all_inner_texts()]

    titles = columns()
    assert {"Group", "Status", "n", "Validation bits / byte", "Difference"} < set(titles)
    expect(heads.filter(has_text="Monitoring")).to_have_count(0)
    expect(page.get_by_role("button", name="Columns")).to_contain_text(f"{len(titles) - 1} of ")
    page.set_viewport_size({"width": 960, "height": 800})
    expect(heads).not_to_have_count(len(titles))
    narrow = columns()
    assert set(narrow) < set(titles)
    page.set_viewport_size({"width": 2600, "height": 800})
    expect(heads.filter(has_text="Monitoring")).to_have_count(1)
    assert set(columns()) > set(titles)
    page.set_viewport_size({"width": 960, "height": 800})
    expect(heads).to_have_count(len(narrow))
    page.get_by_role("button", name="Columns").click()
    for name in ("Monitoring", "Status"):
        item = page.get_by_role("menuitemcheckbox", name=name)
        was_checked = item.get_attribute("aria-checked") == "true"
        item.click()
        expect(item).to_have_attribute("aria-checked", "false" if was_checked else "true")
    expect(heads.filter(has_text="Monitoring")).to_have_count(1)
    expect(heads.filter(has_text="Status")).to_have_count(0)
    page.reload()
    expect(heads.filter(has_text="Monitoring")).to_have_count(1)
    expect(heads.filter(has_text="Status")).to_have_count(0)
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("menuitem", name="As many as fit").click()
    expect(heads).to_have_count(len(narrow))
    # Of many settings, those that tell the most groups apart are shown first.
    ranks = page.evaluate(
        """async () => {
            const { runColumns } = await import("./columns.js");
            const names = ["a", "b", "c", "d"];
            const rows = [1, 2, 3].map((n) => ({ settings: { a: 0, b: n, c: 0, d: n > 1 } }));
            const settings = names.map((name) => ({ name, short: name }));
            const columns = runColumns({ rows, settings, metric: {}, baseline: null }, {});
            return columns.filter(({ title }) => names.includes(title)).map(({ rank }) => rank);
        }"""
    )
    assert ranks[1] < ranks[3] < ranks[0] < ranks[0] + 1 < ranks[2]


@pytest.mark.slow
def test_a_table_of_many_groups_builds_the_rows_in_sight(
    open_page: OpenPage, tmp_path: Path
) -> None:
    for number in range(300):
        settings = {"optimizer.learning_rate": number + 1}
        make_run(tmp_path, "classic", 1, steps=20, settings=settings)
    with served(tmp_path) as address:
        page = visit(open_page, address)
        table = page.locator(".table-host table")
        expect(table).to_have_attribute("aria-rowcount", "301", timeout=30_000)
        expect(page.locator(".connection")).to_have_text("Live", timeout=30_000)
        assert table.locator("tbody tr").count() < 80
        for _ in range(299):
            page.keyboard.press("j")
        page.keyboard.press("j")
        expect(table.locator("tr.active")).to_have_attribute("aria-rowindex", "301")
        expect(table.locator("tr.active")).to_be_in_viewport()
        # At most eight groups are drawn until more are chosen.
        page.locator(".table-scroll").evaluate("element => { element.scrollTop = 0; }")
        expect(table.get_by_role("checkbox", checked=True)).to_have_count(8)
        page.close()


@pytest.mark.slow
def test_an_empty_folder_says_how_runs_come(open_page: OpenPage, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        page = visit(open_page, address)
        expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        make_run(tmp_path, "classic", 1)
        expect(page.get_by_role("rowheader", name="classic")).to_be_visible(timeout=20_000)
        page.close()
