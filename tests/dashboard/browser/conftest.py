"""A Chromium, strict pages, and a page of charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.browser.charts import Charts
from tests.dashboard.browser.pages import ARGUMENTS, CHROMIUM, Site, strict_pages
from tests.dashboard.browser.served import dashboard, runs_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["dashboard", "runs_folder"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages as `strict_pages` does."""
    with strict_pages(browser) as open_one:
        yield open_one


@pytest.fixture(scope="session")
def shared_charts(browser: Browser) -> Iterator[Charts]:
    """Open the page of charts once: that takes longer than most tests."""
    with strict_pages(browser) as open_one:
        yield Charts(open_one(viewport={"width": 1200, "height": 2040}), Site())


@pytest.fixture
def charts(shared_charts: Charts) -> Iterator[Charts]:
    """Return a page without charts. Other complaints than errors fail the last test."""
    yield shared_charts
    shared_charts.reset()
    assert shared_charts.errors == []
