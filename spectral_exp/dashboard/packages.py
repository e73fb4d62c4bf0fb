"""The packages that the dashboard needs beside those of the rest."""

from __future__ import annotations

from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import install


def require_packages() -> None:
    """Raise UserError with the command that installs what is missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the dashboard needs {error.name}, which is not installed: {install('dashboard')}"
        ) from error
