"""The addresses under which an exported file holds the answers of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote


def address(path: str, parameters: Mapping[str, Any]) -> str:
    """Return the address under which the page looks for an answer.

    Parameters are sorted by name and written as a browser does; empty ones are left out.
    """
    pairs: list[tuple[str, str]] = []
    for name in sorted(parameters):
        value = parameters[name]
        values = value if isinstance(value, tuple) else (value,)
        pairs += [(name, str(one)) for one in values if one not in (None, "", [])]
    query = "&".join(f"{_quote(name)}={_quote(value)}" for name, value in pairs)
    return f"{path}?{query}" if query else path


def _quote(text: str) -> str:
    """Return a text as URLSearchParams writes it."""
    return quote(text, safe="*-._ ", errors="replace").replace(" ", "+").replace("~", "%7E")


def path_part(name: str) -> str:
    """Return a name as encodeURIComponent writes it."""
    return quote(name, safe="!~*'()", errors="replace")
