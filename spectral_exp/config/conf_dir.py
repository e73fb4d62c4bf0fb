"""The folder of the configuration files."""

from __future__ import annotations

from pathlib import Path

import spectral_exp

_PACKAGE = Path(spectral_exp.__file__).resolve().parent

CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The folder of the configuration files: in the package (wheel) or beside it (checkout)."""
