"""Parse untrusted JSON: limited in size, depth and digits, and without duplicate keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.regular_file import read_regular

MAX_BYTES = 32 << 20
"""Maximal size of a record. Those of real runs hold about 10 kB."""

MAX_DEPTH = 110
"""Maximal depth of nesting, a little more than `json_value` writes."""

_MAX_DIGITS = 4300  # of whole numbers, as `json_value` writes them


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in `content`.

    Raises:
        ValueError: it is not a JSON object in UTF-8, is nested too deeply, or has a duplicate key
            or a whole number of too many digits.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"is not valid JSON: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"holds a JSON {type(value).__name__} where an object was expected")
    if _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: the file is missing, unreadable, too large, not a regular file, or refused by
            `parse_object`.
    """
    with explain_os_error(f"read {path}"):
        content = read_regular(path, MAX_BYTES)
    try:
        return parse_object(content)
    except ValueError as error:
        raise UserError(f"{path} {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {printable(twice, 60)} twice in one object")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"holds a whole number of {len(digits)} digits")
    return int(digits)


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            child for node in level if isinstance(node, dict | list) for child in _children(node)
        ]
        if not level:
            return False
    return True


def _children(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node
