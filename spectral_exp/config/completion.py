"""Shell completion of the training command: groups, their options and the flags.

Only file names are read, never their content, because a shell waits for the answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

from spectral_exp.config.conf_dir import CONF_DIR

_RUN_SETTINGS = ("resume", "init_from")
_ADDED_GROUPS = ("experiment", "recipe")
"""Groups that have no default, so a command line adds them with a plus sign."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the training command that a shell can complete."""
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    overrides = parser.add_argument("overrides", nargs="*")
    cast(Any, overrides).completer = complete_override


def complete_override(prefix: str, **_: Any) -> list[str]:
    """Return the overrides that begin with `prefix`.

    The last value of a sweep is completed, as in `optimizer=adamw,r`.
    """
    key, sign, value = prefix.partition("=")
    if not sign:
        return [name for name in _group_keys() if name.startswith(prefix)]
    if key in _RUN_SETTINGS:
        folders = [path for path in Path().glob(f"{value}*/") if not path.name.startswith(".")]
        return [f"{key}={path}/" for path in sorted(folders)]
    earlier, comma, last = value.rpartition(",")
    options = [name for name in _options(key.lstrip("+")) if name.startswith(last)]
    return [f"{key}={earlier}{comma}{name}" for name in options]


def _group_keys() -> list[str]:
    folders = (path for path in CONF_DIR.rglob("*") if path.is_dir())
    groups = sorted(path.relative_to(CONF_DIR).as_posix() for path in folders)
    keys = [
        f"+{name}=" if name in _ADDED_GROUPS else f"{name}=" for name in groups if _options(name)
    ]
    return [
        *(key for key in keys if not key.startswith("hydra/")),
        *(f"{key}=" for key in _RUN_SETTINGS),
    ]


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
