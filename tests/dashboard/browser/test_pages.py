"""The pages of a run and of a comparison in a browser, and what holds for all pages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spectral_exp.runs.lock import RunLock
from tests.dashboard.browser.served import ERROR, HOSTILE, served, visit
from tests.dashboard.browser.test_runs_page import expect, row
from tests.results.made_runs import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OpenPage = Callable[..., Any]

TABS = [
    "curves", "inside", "samples", "evaluations", "log", "settings", "checkpoints", "cost", "files",
]  # fmt: skip


def keys_of(page: Page) -> dict[str, str]:
    """The keys of all runs by their ids."""
    answer = page.evaluate("async () => (await fetch('api/runs?since=0')).json()")
    return {run["id"]: run["key"] for run in answer["runs"]}


def groups_of(page: Page) -> dict[str, str]:
    """The ids of all groups by their labels."""
    answer = page.evaluate("async () => (await fetch('api/groups')).json()")
    return {group["label"]: group["id"] for group in answer["rows"]}


def all_views(page: Page) -> list[str]:
    """Addresses of every page and every tab."""
    keys, groups = keys_of(page), groups_of(page)
    key, other = (keys[f"{name}_20260101_000001_abcd1234"] for name in ("phasor", "wave"))
    compared = f"{groups['classic']},{groups['wave']}"
    tabs = [f"#/run/{key}?tab={tab}" for tab in (*TABS, f"settings&against={other}")]
    overviews = ["#/runs", "#/compare", f"#/compare?groups={compared}"]
    return [*overviews, *tabs, "#/run/unknown", "#/nowhere"]


def settle(page: Page) -> None:
    """Wait until a view has its content."""
    expect(page.locator(".loading")).to_have_count(0, timeout=20_000)
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(open_page: OpenPage, dashboard: str, scheme: str) -> None:
    """The rules of axe, contrast included, find nothing."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(open_page, dashboard, color_scheme=scheme)
    page.keyboard.press("?")
    found = {}
    for view in [None, *all_views(page)]:
        if view is not None:
            page.keyboard.press("Escape")
            page.evaluate("view => { location.hash = view; }", view)
            settle(page)
        if view == "#/runs":
            page.get_by_role("button", name="Export").click()
        violations = axe.run(page).response["violations"]
        summary = [
            (item["id"], [node["target"] for node in item["nodes"]][:3]) for item in violations
        ]
        if summary:
            found[view] = summary
    assert found == {}, json.dumps(found, indent=1)


def test_no_page_scrolls_sideways(open_page: OpenPage, dashboard: str) -> None:
    """However long the words of a run are; on a phone the chosen tab is in sight."""
    page = visit(open_page, dashboard)
    for view in all_views(page):
        page.evaluate("view => { location.hash = view; }", view)
        settle(page)
        for width in (1440, 820, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)
    key = keys_of(page)["phasor_20260101_000001_abcd1234"]
    page.evaluate("view => { location.hash = view; }", f"#/run/{key}?tab=files")
    page.reload()
    expect(page.get_by_role("tab", name="Files")).to_be_in_viewport(ratio=1)
    expect(page.locator(".notice").first).to_have_text(ERROR)


def test_a_hostile_run_is_text_everywhere(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    page.on("dialog", lambda dialog: pytest.fail(f"a run has opened a dialog: {dialog.message}"))
    expect(page.get_by_role("rowheader").first).to_be_visible()
    for view in all_views(page):
        page.evaluate("view => { location.hash = view; }", view)
        settle(page)
        assert page.locator("img[src=x]").count() == 0
        assert "\u202e" not in page.locator("body").inner_text()
    shown = HOSTILE.replace("\u202e", "\\u202e")
    page.evaluate("view => { location.hash = view; }", all_views(page)[3] + "&tab=settings")
    key = keys_of(page)["phasor_20260101_000001_abcd1234"]
    page.evaluate("view => { location.hash = view; }", f"#/run/{key}?tab=settings")
    expect(page.get_by_role("cell", name=shown).first).to_be_visible()


def test_settings_show_what_differs_from_the_defaults(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    keys = keys_of(page)
    tab = f"#/run/{keys['phasor_20260101_000001_abcd1234']}?tab=settings"
    page.evaluate("view => { location.hash = view; }", tab)
    expect(page.get_by_role("tab")).to_have_text([name.capitalize() for name in TABS])
    settings = page.get_by_role("region", name="Settings", exact=True).get_by_role("row")
    page.get_by_label("Only changed").check()
    expect(settings).to_have_count(3)
    expect(settings.filter(has_text="model.mlp.activation")).to_contain_text("none")
    expect(settings.filter(has_text="<img")).to_contain_text("custom")
    page.get_by_label("Only changed").uncheck()
    expect(settings.filter(has_text="model.n_embd")).to_contain_text("the same")
    # The bar does not cover what gets the focus.
    search = page.get_by_label("Find settings")
    search.evaluate("input => scrollBy(0, input.getBoundingClientRect().top - 10)")
    search.focus()
    covered = """input => {
        const bar = document.querySelector("#bar").getBoundingClientRect();
        return input.getBoundingClientRect().top < bar.bottom;
    }"""
    assert not search.evaluate(covered)
    # A run of an earlier version has not recorded its defaults.
    tab = f"#/run/{keys['wave_20260101_000001_abcd1234']}?tab=settings"
    page.evaluate("view => { location.hash = view; }", tab)
    expect(settings.filter(has_text="model.n_embd")).to_have_count(1)
    expect(page.get_by_role("columnheader", name="Default")).to_have_count(0)


def test_the_scores_of_a_run_are_shown(open_page: OpenPage, dashboard: str) -> None:
    """The newest first, with foreign text as text; without scores there is no tab."""
    page = visit(open_page, dashboard)
    keys = keys_of(page)
    tab = f"#/run/{keys['phasor_20260101_000001_abcd1234']}?tab=evaluations"
    page.evaluate("view => { location.hash = view; }", tab)
    rows = page.get_by_role("region", name="Evaluations").get_by_role("row")
    expect(rows).to_have_count(3)
    cells = rows.nth(1).get_by_role("cell")
    expected = ["test text of the run", "100", "256", "64", "2.1643", "0.0123", "1.5000", "-", ""]
    assert cells.all_inner_texts()[:9] == expected
    expect(rows.nth(2)).to_contain_text(HOSTILE.replace("\u202e", "\\u202e"))
    assert rows.nth(2).get_by_role("cell").all_inner_texts()[4:7] == ["nan", "-", "1e+300"]
    tab = f"#/run/{keys['wave_20260101_000001_abcd1234']}?tab=evaluations"
    page.evaluate("view => { location.hash = view; }", tab)
    expect(page.get_by_role("heading", level=1)).to_contain_text("wave_20260101_000001")
    expect(page.get_by_role("tab", name="Curves")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Evaluations")).to_have_count(0)
    # What says nothing about the model comes last.
    panels = page.locator(".panel > summary")
    expect(panels).to_have_text(["Training3", "Validation3", "Cost1"])


def find_the_needle(page: Page, log: Any) -> None:
    """Search a log, and go to the line that is found."""
    page.keyboard.press("/")
    page.keyboard.type("Needle")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="the needle is here").click()
    expect(log.locator(".marked")).to_have_text("[WARNING] the needle is here")
    expect(log.locator(".marked")).to_be_in_viewport()


def test_the_whole_log_is_searched(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard)
    key = keys_of(page)["phasor_20260101_000001_abcd1234"]
    page.evaluate("view => { location.hash = view; }", f"#/run/{key}?tab=log")
    log = page.get_by_role("region", name="Log")
    expect(log).to_contain_text("line 4999 <b>bold</b>")
    expect(log).not_to_contain_text("the needle")
    find_the_needle(page, log)
    page.get_by_role("button", name="End").click()
    log.scroll_into_view_if_needed()
    expect(log.get_by_text("line 4999")).to_be_in_viewport()
    page.get_by_role("button", name="Next warning").click()
    expect(log.locator(".marked")).to_be_in_viewport()
    page.get_by_role("button", name="Start").click()
    expect(log.get_by_text("line 0 ")).to_be_in_viewport()


def test_two_groups_are_compared(open_page: OpenPage, dashboard: str) -> None:
    page = visit(open_page, dashboard, expected="400 (Bad Request)")
    row(page, "<img").get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="val_bpb minus that of classic")).to_be_visible()
    difference = page.get_by_role("region", name="val_bpb minus that of classic")
    expect(difference).to_contain_text("-0.3950")
    difference.get_by_text("-0.3950").hover()
    source = page.get_by_role("tooltip")
    expect(source).to_contain_text("mean of the differences by seed")
    expect(source).to_contain_text("wave_20260101_000004_abcd1234")
    page.keyboard.press("i")
    expect(page.get_by_role("dialog")).to_contain_text("median: median of the runs")
    page.keyboard.press("Escape")
    expect(difference).to_contain_text("[-0.3987, -0.3913]")
    over_steps = page.get_by_role("region", name="Difference over steps")
    expect(over_steps).to_contain_text("n = 4 pairs of equal seed: separated from step 50 on")
    figure = page.get_by_role("region", name="Figures").locator("img").first
    expect(figure).to_be_visible(timeout=30_000)
    loaded = "image => image.complete && image.naturalWidth > 0"
    for _ in range(100):
        if figure.evaluate(loaded):
            break
        page.wait_for_timeout(100)
    assert figure.evaluate(loaded)
    code = page.get_by_role("region", name="Differences in configuration")
    expect(code).to_contain_text("gelu -> resonance")
    page.reload()
    expect(difference).to_contain_text("-0.3950")
    # A question without an answer shows nothing of the one before it.
    page.evaluate("location.hash += '&at=best&metric=learning_rate'")
    expect(page.locator(".notice")).to_contain_text("learning_rate")
    expect(page.get_by_role("region", name="Tables")).to_be_hidden()
    page.go_back()
    expect(difference).to_be_visible()


def make_unfinished_run(folder: Path) -> tuple[Path, Path, list[str]]:
    """Return a run with 4 of its lines, the file of its metrics, and all lines of it."""
    run = make_run(folder, "classic", 1, steps=100, status=None)
    metrics = run / "logs" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:4]))
    return run, metrics, lines


def leave_out_rows(route: Any) -> None:
    """Answer without the rows that have changed."""
    answer = route.fetch()
    route.fulfill(response=answer, json={**answer.json(), "runs": []})


def log_without_rows(page: Page, run: Path, status: str, lines: Sequence[str]) -> Any:
    """Visit an unfinished run, log lines whose rows the page does not get, and return its state."""
    page.evaluate("view => { location.hash = view; }", f"#/run/{keys_of(page)[run.name]}")
    shown = page.locator(".run-title .status")
    expect(shown).to_contain_text(f"{status} 40/100")
    page.route("**/api/changes*", leave_out_rows)
    with (run / "logs" / "metrics.jsonl").open("a") as file:
        file.write("".join(lines))
    return shown


def test_a_growing_run_is_followed_until_it_is_deleted(open_page: OpenPage, tmp_path: Path) -> None:
    """Lines, the end and the deletion of a run appear without a reload."""
    run, metrics, lines = make_unfinished_run(tmp_path)
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["training"]["max_steps"] == 100
    with served(tmp_path) as address:
        with RunLock(run):
            # Questions about the run may be on their way while it is deleted.
            page = visit(open_page, address, expected="404 (Not Found)")
            key = keys_of(page)[run.name]
            page.evaluate("view => { location.hash = view; }", f"#/run/{key}")
            status = page.locator(".run-title .status")
            expect(status).to_contain_text("running 40/100")
            chart = page.get_by_role("region", name="Loss", exact=True)
            before = chart.get_by_role("img").get_attribute("aria-label")
            page.set_viewport_size({"width": 800, "height": 300})
            page.evaluate("scrollTo(0, 400)")
            loss = f"{json.loads(lines[7])['loss']:.4f}"
            with metrics.open("a") as file:
                file.write("".join(lines[4:8]))
            expect(status).to_contain_text("running 80/100")
            expect(chart.get_by_role("img")).not_to_have_attribute("aria-label", before or "")
            expect(page.locator(".facts")).to_contain_text(loss)
            assert page.evaluate("scrollY") == 400
        expect(status).to_contain_text("unfinished", timeout=20_000)
        shutil.rmtree(run)
        expect(page.get_by_text("no longer in the folder")).to_be_visible(timeout=20_000)
        expect(status).to_have_text("deleted")
        page.evaluate("view => { location.hash = view; }", "#/runs")
        expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        page.close()


def test_the_step_of_a_watched_run_does_not_wait_for_its_row(
    open_page: OpenPage, tmp_path: Path
) -> None:
    run, _, lines = make_unfinished_run(tmp_path)
    with RunLock(run), served(tmp_path) as address:
        page = visit(open_page, address)
        status = log_without_rows(page, run, "running", lines[4:8])
        expect(status).to_contain_text("running 80/100")
        page.unroute_all(behavior="wait")
        page.close()


def test_the_step_of_an_unfinished_run_does_not_wait_for_its_row(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """It may be continued at any moment."""
    run, _, lines = make_unfinished_run(tmp_path)
    with served(tmp_path) as address:
        page = visit(open_page, address)
        status = log_without_rows(page, run, "unfinished", lines[4:8])
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(status).to_contain_text("unfinished 80/100")
        page.unroute_all(behavior="wait")
        page.close()


def test_marks_are_edited_and_written_into_the_run(open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(tmp_path, "classic", 1)
    make_run(tmp_path, "wave", 1)
    with served(tmp_path, "--edit") as address:
        page = visit(open_page, address)
        expect(row(page, "classic")).to_be_visible()
        row(page, "classic").get_by_role("cell", name="completed").click()
        page.keyboard.press("m")
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Tags").fill("paper, v2")
        dialog.get_by_label("Note").fill("The one of <i>the</i> talk.")
        dialog.get_by_role("button", name="Save").click()
        expect(row(page, "classic").locator(".tag")).to_have_text(["paper", "v2"])
        written = json.loads((run / "notes.json").read_text())
        assert written["tags"] == ["paper", "v2"]
        assert written["note"] == "The one of <i>the</i> talk."
        page.keyboard.press("p")
        expect(row(page, "classic").locator(".pinned")).to_be_visible()
        page.keyboard.press("h")
        expect(row(page, "classic")).to_have_count(0)
        page.get_by_label("Archived").check()
        expect(row(page, "classic")).to_contain_text("archived")
        assert run.is_dir()
        page.close()


def test_a_page_without_its_server_keeps_what_it_has(browser: Any, tmp_path: Path) -> None:
    make_run(tmp_path, "classic", 1)
    context = browser.new_context()
    page = context.new_page()
    with served(tmp_path) as address:
        context.request.get(address)
        page.goto(address.partition("?")[0])
        expect(row(page, "classic")).to_be_visible()
        expect(page.locator(".connection")).to_have_text("Live")
    expect(page.locator("#banner")).to_contain_text("does not answer", timeout=20_000)
    expect(page.locator(".connection")).to_have_text("Not connected")
    expect(row(page, "classic")).to_be_visible()
    expect(page.locator("#banner")).to_contain_text(re.compile(r"read at \d{4}-\d\d-\d\d"))
    context.close()
