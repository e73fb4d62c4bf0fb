"""A copy of a finished run, which a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the module's run at another place."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
