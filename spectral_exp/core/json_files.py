"""JSON files: atomic writes, and reads that check the content."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import write_atomic
from spectral_exp.core.json_text import read_object
from spectral_exp.core.json_value import jsonable


def write_json_atomic(path: Path, content: Any) -> None:
    """Write indented JSON durably: a reader finds either the old file or the whole new one."""
    write_atomic(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return `content` as an indented JSON file."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate represents a byte of a file name that is not UTF-8.
    return f"{text}\n".encode(errors="backslashreplace")


def content_crc32(content: Mapping[str, Any]) -> str:
    """Return the checksum of all entries but `crc32`, independent of their formatting."""
    rest = {key: value for key, value in content.items() if key != "crc32"}
    text = json.dumps(jsonable(rest), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises UserError if it is missing or unreadable."""
    return read_object(path)


def read_intact_json(path: Path) -> dict[str, Any]:
    """Read a JSON file as `read_json` does. Raises UserError too if its checksum is wrong."""
    content = read_json(path)
    if "crc32" in content and content["crc32"] != content_crc32(content):
        raise UserError(f"{path} was changed or damaged since it was written")
    return content
