"""The files of the page: HTML, style and modules, which lie beside this one."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"

_LISTED_S = 2.0  # how long a list of the files is used
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
    return _list_files(int(time.monotonic() / _LISTED_S))


@functools.lru_cache(maxsize=1)
def _list_files(_: int) -> Mapping[str, Path]:
    return {
        path.relative_to(FOLDER).as_posix(): path
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }


def page_file(name: str) -> tuple[bytes, str] | None:
    """Return content and media type of a file of the page, or None."""
    path = page_files().get(name or INDEX)
    return None if path is None else (path.read_bytes(), _TYPES[path.suffix])
