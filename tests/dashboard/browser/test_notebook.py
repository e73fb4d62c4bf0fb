"""The dashboard in a page that holds the output of a notebook's cell."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spectral_exp.dashboard import show
from tests.dashboard.browser.served import served
from tests.dashboard.browser.test_runs_page import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OpenPage = Callable[..., Any]

JUPYTER = "frame-ancestors 'self'; report-uri /api/security/csp-report"
VSCODE = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src https: http: data:; font-src https:; connect-src https:; child-src https: data:"
)

OUTPUT_AREA = b"""<!doctype html><html style="color-scheme: light dark"><head><meta charset="utf-8">
<link rel="icon" href="data:,"><title>Notebook</title></head>
<body><div class="jp-OutputArea-child"><div class="jp-RenderedHTMLCommon jp-RenderedHTML
jp-OutputArea-output" data-mime-type="text/html"></div></div></body></html>"""


@contextmanager
def notebook(policy: str) -> Iterator[str]:
    """Serve an empty output area; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(OUTPUT_AREA)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def render(page: Page, output: str) -> Any:
    """Put a cell's output into the page as Jupyter does; return the frame in it."""
    page.evaluate(
        "html => { document.querySelector('.jp-RenderedHTML').innerHTML = html; }", output
    )
    return page.frame_locator("iframe")


@pytest.mark.parametrize(
    ("policy", "scheme"), [(JUPYTER, "light"), (VSCODE, "dark")], ids=["jupyter", "vscode"]
)
def test_a_cell_shows_a_view(
    open_page: OpenPage, runs_folder: Path, policy: str, scheme: str
) -> None:
    """The page works without an address: links, filters, charts and the way back."""
    shown = show(runs_folder, where="name=wave", metric="val_loss")
    with notebook(policy) as address:
        page = open_page(address, color_scheme=scheme)
        page.goto(address)
        frame = render(page, shown._repr_html_())
        expect(frame.get_by_role("rowheader")).to_have_count(1)
        expect(frame.get_by_role("rowheader")).to_contain_text("wave")
        expect(frame.get_by_label("Metric")).to_have_value("val_loss")
        expect(frame.locator("html")).to_have_attribute("data-theme", scheme)
        frame.get_by_role("button", name="Log", exact=True).click()
        expect(frame.get_by_role("button", name="Log", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )
        frame.get_by_role("button", name="Runs of").click()
        frame.get_by_role("link", name="seed 2").click()
        expect(frame.get_by_role("heading", level=1)).to_contain_text("wave_20260101_000002")
        loss = frame.get_by_role("region", name="Loss", exact=True).get_by_role("img")
        expect(loss).to_have_attribute("aria-label", re.compile("wave"))
        frame.get_by_role("tab", name="Settings").click()
        expect(frame.get_by_role("cell", name="resonance").first).to_be_visible()
        frame.get_by_role("button", name="Actions").click()
        expect(frame.get_by_role("menuitem", name="Copy the path")).to_be_visible()
        expect(frame.get_by_role("menuitem", name="Copy the address")).to_have_count(0)
        page.keyboard.press("Escape")
        frame.get_by_role("link", name="Runs", exact=True).click()
        expect(frame.get_by_label("Metric")).to_have_value("val_loss")
        assert page.url == address


def test_a_page_that_forbids_scripts_says_so(open_page: OpenPage, runs_folder: Path) -> None:
    """Nothing depends on the style sheets of the page around the frame."""
    with notebook("default-src 'none'") as address:
        page = open_page(address, expected="Content Security Policy")
        page.goto(address)
        frame = render(page, show(runs_folder, height=500)._repr_html_())
        expect(frame.get_by_text("The script of this view is blocked here")).to_be_visible()
        box = page.locator("iframe").bounding_box()
        assert box is not None
        assert box["height"] >= 500
        assert box["width"] > 600


def test_a_cell_shows_a_running_dashboard(open_page: OpenPage, runs_folder: Path) -> None:
    """A frame of a named page is answered, one of any other page is not."""
    with notebook(JUPYTER) as address, served(runs_folder, "--embed", f"{address}lab") as dashboard:
        page = open_page("http://", expected="frame-ancestors")
        page.goto(address)
        inside = dashboard.replace("127.0.0.1", "localhost") + "#/compare"
        output = f'<iframe width="100%" height="640" src="{inside}"></iframe>'
        frame = render(page, output)
        expect(frame.get_by_role("heading", name="Choose two to eight groups")).to_be_visible()
        frame.get_by_role("link", name="Runs", exact=True).click()
        expect(frame.get_by_role("rowheader").first).to_be_visible()
        expect(frame.locator(".connection")).to_have_text("Live")
        with notebook(JUPYTER) as other:
            page.goto(other)
            with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
                frame = render(page, output)
            expect(frame.locator("#main")).to_have_count(0)
