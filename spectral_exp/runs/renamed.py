"""Former names of parts in the records of older versions, and their current names.

Every public name that a configuration may hold stays valid: add an entry to `renamed.json` when you
move or rename a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

RENAMED: dict[str, str] = json.loads(
    (resources.files(__package__) / "renamed.json").read_text(encoding="utf-8")
)


UNSET = {"init_from": None, "init_optimizer": False, "init_partial": False}
"""Settings that older records lack, with the values that have no effect."""


def update_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which every part has its current name.

    Settings of `UNSET` without effect are left out, so that records of all versions are equal.
    """
    return {
        key: _rename(key, value)
        for key, value in config.items()
        if key not in UNSET or value is not UNSET[key]
    }


def _rename(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {inner: _rename(inner, item) for inner, item in value.items()}
    if isinstance(value, list):
        return [_rename("", item) for item in value]
    return RENAMED.get(value, value) if key == "_target_" and isinstance(value, str) else value
