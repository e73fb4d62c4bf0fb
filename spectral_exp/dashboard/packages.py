"""The packages that the dashboard needs beside those of the rest."""

from __future__ import annotations

import importlib

from spectral_exp.core.errors import explain_missing


def require_packages() -> None:
    """Raise UserError with the command that installs what is missing."""
    for package in ("starlette", "uvicorn"):
        need = f"the dashboard needs {package}, which is not installed"
        with explain_missing(need, "dashboard"):
            importlib.import_module(package)
