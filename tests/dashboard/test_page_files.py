"""The files of the page: what no browser is needed to check."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "spectral_exp" / "dashboard" / "page"


def test_the_page_preloads_every_module_and_links_every_style_sheet() -> None:
    """A module that is found only through the imports of another one waits for a round trip."""
    index = (PAGE / "index.html").read_text()
    modules = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.js")}
    styles = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.css")}
    assert set(re.findall(r'rel="modulepreload" href="([^"]+)"', index)) == modules - {"app.js"}
    assert set(re.findall(r'rel="stylesheet" href="([^"]+)"', index)) == styles


def test_no_module_writes_markup() -> None:
    """Text of a run reaches the document through text nodes alone; no style needs an exception
    from the policy."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
        r"|setAttribute\(\"style\"|https?://(?!www\.w3\.org/2000/svg)"
    )
    for path in PAGE.rglob("*.js"):
        found = forbidden.search(path.read_text())
        assert found is None, f"{path.name}: {found}"
