"""The page as one HTML file that opens without a server, also in a frame of a notebook.

Everything is inside, and the policy of the file allows nothing else: it can load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping

from spectral_exp.dashboard.page_files import FOLDER, INDEX, SCRIPT, page_script, read_page_file

_LOADED = f'<script type="module" src="{SCRIPT}"></script>'
_STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)" ?/?>')
# Stays where a page around the file forbids scripts, and there styles and sizes by style too.
_BLOCKED = (
    '<p class="no-script">The script of this view is blocked here. Open it as a file of its own: '
    "show(...).save('runs.html') writes one.</p>"
)
_ICON = re.compile(r'(<link rel="icon" href=")([^"]+)(")')


def bundle(
    embedded: Mapping[str, Mapping[str, str]],
    fragment: str = "",
    theme: str = "auto",
    comparison: str | None = None,
) -> str:
    """Return the page with its styles and modules, and with answers of the server.

    Args:
        embedded: by address, as the page asks for them; see `export`.
        fragment: of the address at which the page begins, unless it is opened at another.
        theme: light, dark, or auto for that of the system.
        comparison: fragment of the address of the comparison that is embedded, if one is.
    """
    script = page_script()
    text = read_page_file(INDEX).replace("</main>", f"{_BLOCKED}</main>", 1)
    saved = _escape_for_script(
        {"view": fragment, "theme": theme, "comparison": comparison, "answers": dict(embedded)}
    )
    scripts = (
        f'<script type="application/json" id="saved">{saved}</script>\n'
        f'<script type="module">{script}</script>'
    )
    text = _STYLE.sub(lambda match: f"<style>{read_page_file(match[1])}</style>", text)
    text = _ICON.sub(lambda match: f"{match[1]}{_data_address(match[2])}{match[3]}", text)
    text = text.replace(_LOADED, scripts, 1)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_policy(script))}" />'
    return text.replace("<head>", f"<head>\n    {meta}", 1)


def _escape_for_script(value: object) -> str:
    """Return JSON that cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _policy(script: str) -> str:
    digest = _base64(hashlib.sha256(script.encode()).digest())
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _data_address(name: str) -> str:
    content = (FOLDER / name).read_bytes()
    return f"data:image/svg+xml;base64,{_base64(content)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
