"""Read and change the files of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.json_files import content_crc32


def read_files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def read_config(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "config.json").read_text())
    return content


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """Change entries of a JSON file, and give it a right checksum."""
    content = json.loads(path.read_text()) | change
    content["crc32"] = content_crc32(content)
    path.write_text(json.dumps(content))


def assert_refused(
    main: Callable[[list[str]], int],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Check that a command prints one error with `message` and exits with code 2."""
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
