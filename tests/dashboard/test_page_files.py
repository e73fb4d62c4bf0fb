"""The files of the page: what no browser is needed to check."""

from __future__ import annotations

import re
from pathlib import Path

from spectral_exp.dashboard.page_files import SCRIPT, page_file

PAGE = Path(__file__).parent.parent.parent / "spectral_exp" / "dashboard" / "page"


def test_the_page_has_every_module_and_links_every_style_sheet() -> None:
    index = (PAGE / "index.html").read_text()
    styles = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.css")}
    assert set(re.findall(r'rel="stylesheet" href="([^"]+)"', index)) == styles
    assert f'<script type="module" src="{SCRIPT}"></script>' in index
    content, media_type = page_file(SCRIPT) or (b"", "")
    assert media_type.startswith("text/javascript")
    assert content.count(b"= (() => {\n/**") == len(list(PAGE.rglob("*.js")))


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
