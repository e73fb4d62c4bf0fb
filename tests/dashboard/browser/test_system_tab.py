"""The System tab of a run in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.dashboard import show
from spectral_exp.runs.lock import RunLock
from tests.dashboard.browser.served import served, visit
from tests.dashboard.browser.test_pages import keys_of
from tests.dashboard.browser.test_runs_page import expect
from tests.dashboard.test_system import HOSTILE, measure
from tests.results.made_runs import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OpenPage = Callable[..., Any]


def described(last: int, extent: str, end: str) -> re.Pattern[str]:
    """Return what a chart of the processors reports of its curve."""
    return re.compile(f"over Time: .*last {last}, {extent}, from 0 to {end}")


def test_the_machine_of_a_run_is_drawn_while_it_trains(open_page: OpenPage, tmp_path: Path) -> None:
    """The tab appears with the first measurement, follows the file, and is in a saved file."""
    run = make_run(tmp_path / "runs", "wave", 1, status=None)
    whole = described(77, "between 40 and 77", "20 s")
    with RunLock(run), served(run.parent) as address:
        page = visit(open_page, address)
        page.on("dialog", lambda dialog: pytest.fail(f"a run has opened {dialog.message}"))
        page.evaluate("view => { location.hash = view; }", f"#/run/{keys_of(page)[run.name]}")
        with page.expect_response(lambda answer: "watch=" in answer.url):
            expect(page.get_by_role("tab", name="Cost")).to_be_visible()
        expect(page.get_by_role("tab", name="System")).to_have_count(0)
        measure(run, [40.0, 45.0], more=HOSTILE)
        page.get_by_role("tab", name="System").click()
        chart = page.get_by_role("region", name="CPU", exact=True).get_by_role("img")
        expect(chart).to_be_visible()
        expect(page.locator(".chart-card")).to_have_count(3)
        assert page.locator("img[src=x]").count() == 0
        expect(chart).to_have_attribute("aria-label", described(45, "between 40 and 45", "10 s"))
        measure(run, [77.0], first=2)
        expect(chart).to_have_attribute("aria-label", whole)
        page.close()
    file = tmp_path / "run.html"
    show(run).save(file)
    page = open_page("file://")
    page.goto(file.as_uri())
    page.get_by_role("tab", name="System").click()
    saved = page.get_by_role("region", name="CPU", exact=True).get_by_role("img")
    expect(saved).to_have_attribute("aria-label", whole)
