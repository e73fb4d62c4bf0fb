"""The page as one HTML file that opens without a server.

Modules become an import map of data addresses, so their own `import` statements stay what they are
but for the names. The file may load nothing else: its policy allows only what is in it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import posixpath
import re
from collections.abc import Mapping

from spectral_exp.dashboard.page_files import FOLDER, INDEX, page_files

_PREFIX = "page/"
_ENTRY = re.compile(r'<script type="module" src="([^"]+)"></script>')
_STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)" ?/?>')
_PRELOAD = re.compile(r'\s*<link rel="modulepreload" href="[^"]+" ?/?>')
_ICON = re.compile(r'(<link rel="icon" href=")([^"]+)(")')
# `import ... from "./x.js"` and `export ... from "./x.js"`, also over several lines;
# `import "./x.js"`; `import("./x.js")`.
_IMPORT = re.compile(
    r"""^(\s*(?:import|export)\b[^;'"]*?\bfrom\s*|\s*import\s*|.*?\bimport\()"""
    r"""(["'])(\.{1,2}/[^"']+)\2""",
    re.MULTILINE,
)


def bundle(embedded: Mapping[str, Mapping[str, str]], fragment: str = "") -> str:
    """Return the page with its styles and modules, and with answers of the server.

    Args:
        embedded: by address, as the page asks for them; see `export`.
        fragment: of the address at which the page begins, unless it is opened at another.
    """
    text = (FOLDER / INDEX).read_text(encoding="utf-8")
    import_map = json.dumps({"imports": _modules()}, sort_keys=True)
    entry = _ENTRY.search(text)
    if entry is None:
        raise ValueError(f"{INDEX} has no module")
    start = f'import "{_PREFIX}{entry[1]}";'
    view = _in_script(fragment)
    begin = f"if (!location.hash) history.replaceState(null, '', {view});" if fragment else ""
    data = _in_script(dict(embedded))
    scripts = (
        f"<script>{begin}</script>\n"
        f'<script type="importmap">{import_map}</script>\n'
        f'<script type="application/json" id="embedded">{data}</script>\n'
        f'<script type="module">{start}</script>'
    )
    text = _ENTRY.sub(lambda _: scripts, text)
    text = _PRELOAD.sub("", text)
    text = _STYLE.sub(lambda match: f"<style>{_read(match[1])}</style>", text)
    text = _ICON.sub(lambda match: f"{match[1]}{_data_address(match[2])}{match[3]}", text)
    policy = html.escape(_policy(import_map, begin, start))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}" />'
    return text.replace("<head>", f"<head>\n    {meta}", 1)


def _in_script(value: object) -> str:
    """Return JSON that cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(s.encode()).digest())}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes} data:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _modules() -> dict[str, str]:
    """Return the address of each module by its name in import statements."""
    found = {}
    for name in page_files():
        if not name.endswith(".js"):
            continue
        source = name_modules(_read(name), posixpath.dirname(name))
        found[_PREFIX + name] = f"data:text/javascript;base64,{_base64(source.encode())}"
    return found


def name_modules(source: str, folder: str) -> str:
    """Return a module with names of the import map for the relative paths of its imports."""

    def rename(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(_PREFIX, folder, match[3]))
        return f"{match[1]}{match[2]}{path}{match[2]}"

    return _IMPORT.sub(rename, source)


def _data_address(name: str) -> str:
    content = (FOLDER / name).read_bytes()
    return f"data:image/svg+xml;base64,{_base64(content)}"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
