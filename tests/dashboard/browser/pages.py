"""Pages that fail on every complaint of the browser, and the files of the page without a server."""

from __future__ import annotations

import mimetypes
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.dashboard.page_files import page_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

ARGUMENTS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]

HERE = Path(__file__).parent
ORIGIN = "http://dashboard.test/"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@contextmanager
def strict_pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages in contexts of their own, and fail if the browser complains about one.

    Errors, warnings of the console, violations of the policy and requests to another origin are
    complaints, but for messages of the console that hold the text `expected`. The other arguments
    are those of `Browser.new_context`.
    """
    complaints: list[str] = []
    with ExitStack() as contexts:

        def open_one(origin: str = ORIGIN, *, expected: str = "", **options: Any) -> Page:
            context: BrowserContext = browser.new_context(**options)
            contexts.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on(
                "console",
                lambda message: (
                    complaints.append(f"console: {message.text}")
                    if message.type in {"error", "warning"}
                    and not (expected and expected in message.text)
                    else None
                ),
            )
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith((origin, "blob:", "data:"))
                    else complaints.append(f"request: {request.url}")
                ),
            )
            return page

        yield open_one
    assert complaints == []


class Site:
    """The files of the page and of the harness of charts, served from memory.

    Attributes:
        files: further contents by address.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def attach(self, page: Page) -> None:
        """Answer all requests of a page."""
        page.route(f"{ORIGIN}**", self._answer)

    def _answer(self, route: Route) -> None:
        name = route.request.url.removeprefix(ORIGIN).partition("?")[0]
        content = self._content(name)
        if content is None:
            route.fulfill(status=404)
            return
        body, kind = content
        headers = {"content-type": kind, "content-security-policy": CONTENT_SECURITY_POLICY}
        route.fulfill(body=body, headers=headers)

    def _content(self, name: str) -> tuple[bytes, str] | None:
        if name in self.files:
            return self.files[name], _media_type(name)
        if name.startswith("harness."):
            return (HERE / name).read_bytes(), _media_type(name)
        return page_file(name)


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
