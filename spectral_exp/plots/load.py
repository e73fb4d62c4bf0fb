"""Import of matplotlib that works in any environment."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from spectral_exp.core.errors import UserError

_BACKEND, _FOLDER = "MPLBACKEND", "MPLCONFIGDIR"


class MatplotlibError(UserError):
    """matplotlib cannot be imported."""


def import_matplotlib(folder: Path | None = None) -> None:
    """Import matplotlib to draw figures; leave backend and environment as they are.

    An uninstalled backend in `MPLBACKEND`, such as a notebook's, would make the import fail.
    It matters to pyplot only, which none of our figures use.

    Args:
        folder: a place for matplotlib's font list if it finds no other writable folder.

    Raises:
        MatplotlibError: it cannot be imported.
    """
    if "matplotlib.style" in sys.modules:
        return
    backend = os.environ.get(_BACKEND)
    with _environment({_BACKEND: None, **({} if folder is None else writable_folder(folder))}):
        try:
            import matplotlib.font_manager
            import matplotlib.style
        except Exception as error:  # a damaged installation can raise anything
            raise MatplotlibError(
                f"matplotlib cannot be imported ({type(error).__name__}: {error}); reinstall it or"
                " switch the plots off"
            ) from error
    if backend:
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError:
            return  # not installed: pyplot chooses another one


def writable_folder(folder: Path) -> Mapping[str, str]:
    """Return the variable that makes matplotlib use `folder`, if it has no other place."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        home = os.environ.get(_FOLDER) or os.environ.get("HOME", "")
        return {} if os.access(home, os.W_OK) else {_FOLDER: str(folder / ".matplotlib")}
    return {}


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Change environment variables, None for removal, until the block ends."""
    before = {name: os.environ.get(name) for name in changes}
    _change(changes)
    try:
        yield
    finally:
        _change(before)


def _change(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
