"""The modules of the page as one script, for a page that can load none.

Each module becomes a function that runs once, after those that it imports, and returns its exports.
Modules use named imports and exported declarations alone; anything else is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

_IMPORT = re.compile(r'^import\s*(?:\{([^{}]*)\}\s*from\s*)?"(\.{1,2}/[^"]+)";$', re.MULTILINE)
_EXPORT = re.compile(
    r"^export (?=(?:async function\*?|function\*?|class|const) (\w+))", re.MULTILINE
)
_REFUSED = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def join_modules(entry: str, read: Callable[[str], str]) -> str:
    """Return a script that does what a module does.

    Args:
        entry: name of the module.
        read: returns the source of a module by its name, a path relative to the page.

    Raises:
        ValueError: a module imports or exports in another way, or modules import each other.
    """
    parts: list[str] = []
    variables: dict[str, str | None] = {}

    def add(name: str) -> None:
        if name in variables:
            if variables[name] is None:
                raise ValueError(f"{name} is imported by a module that it imports")
            return
        variables[name] = None
        source = read(name)
        for _, path in _IMPORT.findall(source):
            add(_resolve(name, path))
        variable = f"module{len(parts)}"
        parts.append(
            f"const {variable} = (() => {{\n{_function_body(name, source, variables)}}})();"
        )
        variables[name] = variable

    add(entry)
    return _escape_end_of_script("\n".join([*parts, ""]))


def _function_body(name: str, source: str, variables: Mapping[str, str | None]) -> str:
    def take_imports(match: re.Match[str]) -> str:
        names = re.sub(r"\s+as\s+", ": ", match[1] or "")
        module = variables[_resolve(name, match[2])]
        return f"const {{{names}}} = {module};" if names else ""

    exports = _EXPORT.findall(source)
    body = _EXPORT.sub("", _IMPORT.sub(take_imports, source))
    if (refused := _REFUSED.search(body)) is not None:
        raise ValueError(f"{name} cannot be joined with others: {refused[0]}")
    return f"{body}\nreturn {{ {', '.join(exports)} }};\n"


def _resolve(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _escape_end_of_script(script: str) -> str:
    """Return a script whose texts cannot end or hide the element around it."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
