"""The folder for a user's state: below $XDG_STATE_HOME, else ~/.local/state."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """The folder, which may not exist yet. Raises OSError if there is no home folder."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".local/state"
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from error
    return base / "spectral_exp"
