"""JSON files, written whole and read with a check of their content."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import atomic_writer
from spectral_exp.core.json_text import read_object
from spectral_exp.core.json_value import NON_FINITE as NON_FINITE
from spectral_exp.core.json_value import jsonable as jsonable


def write_json_atomic(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, durably: a reader finds the old file or the whole new one."""
    text = json_bytes(content)
    with atomic_writer(path) as file:
        file.write(text)


def json_bytes(content: Any) -> bytes:
    """`content` as an indented JSON file."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate stands for a byte of a file name that is not UTF-8.
    return f"{text}\n".encode(errors="backslashreplace")


def content_crc32(content: Mapping[str, Any]) -> str:
    """The checksum that a JSON file may carry as its entry `crc32`: of all other entries, however they are printed."""
    rest = {key: value for key, value in content.items() if key != "crc32"}
    text = json.dumps(jsonable(rest), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing, unreadable or no JSON object."""
    return read_object(path)


def read_intact_json(path: Path) -> dict[str, Any]:
    """As `read_json`, and the content agrees with its checksum, where it has one; else raises UserError as well."""
    content = read_json(path)
    if "crc32" in content and content["crc32"] != content_crc32(content):
        raise UserError(f"{path} was changed or damaged since it was written")
    return content
