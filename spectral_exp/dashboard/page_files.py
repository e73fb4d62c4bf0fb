"""The files of the page: HTML, style and modules, which lie beside this one.

The page loads its modules as one script, `page.js`, which no file holds: a request for each of them
takes longer than all the rest of opening the page.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

from spectral_exp.dashboard.page_script import join_modules

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
SCRIPT = "page.js"

_ENTRY = "app.js"
_PERIOD_S = 2.0  # after which changed files are seen
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def page_files() -> Mapping[str, Path]:
    """Return the files of the page by their names in an address, as of a moment ago."""
    return _list_files(_period())


@functools.lru_cache(maxsize=1)
def _list_files(_: int) -> Mapping[str, Path]:
    return {
        path.relative_to(FOLDER).as_posix(): path
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }


def page_file(name: str) -> tuple[bytes, str] | None:
    """Return content and media type of a file of the page, or None."""
    if name == SCRIPT:
        return page_script().encode(), _TYPES[".js"]
    path = page_files().get(name or INDEX)
    return None if path is None else (path.read_bytes(), _TYPES[path.suffix])


def page_script() -> str:
    """Return all modules as one script, as of a moment ago."""
    return _join_modules(_period())


@functools.lru_cache(maxsize=1)
def _join_modules(_: int) -> str:
    return join_modules(_ENTRY, read_page_file)


def read_page_file(name: str) -> str:
    """Return the text of a file of the page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _period() -> int:
    """Return the number of the present period, in which files are listed and joined once."""
    return int(time.monotonic() / _PERIOD_S)
