"""The options of each group of configuration files, and the settings that each option brings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from spectral_exp.config.conf_dir import CONF_DIR

ADDED_GROUPS = ("experiment", "recipe", "study")
"""Groups that the defaults list does not mention, so that an option of them is added."""

_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Options:
    """What the configuration files offer.

    Attributes:
        groups: group -> its options; a group such as `monitoring` holds only further groups.
        settings: dotted setting -> the options that bring it, as (group, option); none for a
            setting at the top of the configuration.
    """

    groups: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def choice(self, group: str, option: str) -> str:
        """Return the override that chooses an option."""
        if group == "study":
            return f"study={option}"
        return f"{'+' if group in ADDED_GROUPS else ''}{group}={option}"

    def find(self, option: str) -> list[str]:
        """Return the choices of all options of this name, without Hydra's own groups."""
        return [
            self.choice(group, option)
            for group, names in self.groups.items()
            if option in names and group.split("/")[0] != "hydra"
        ]


def read_options(config_dir: str | None = None) -> Options:
    """Read the options in conf/ and in the folder of the user, if there is one."""
    return _read_options((CONF_DIR, Path(config_dir)) if config_dir else (CONF_DIR,))


@cache
def _read_options(folders: Sequence[Path]) -> Options:
    options = Options()
    top = _read_mapping(CONF_DIR / "config.yaml")
    options.settings.update({str(key): [] for key in top if key not in ("defaults", "hydra")})
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.is_dir() or _is_option(path))
        for path in paths:
            if path.is_dir():
                options.groups.setdefault(path.relative_to(folder).as_posix(), [])
            elif path.parent != folder:
                _add_option(options, path.relative_to(folder).parent.as_posix(), path)
    return options


def _is_option(path: Path) -> bool:
    return path.suffix == ".yaml" and not any(part.startswith(".") for part in path.parts)


def _add_option(options: Options, group: str, path: Path) -> None:
    names = options.groups.setdefault(group, [])
    if path.stem in names:
        return
    names.append(path.stem)
    found = _PACKAGE.search(_read_text(path))
    package = found.group(1) if found else group.replace("/", ".")
    # Files of the whole configuration (experiments) only set what other files bring.
    if group in ADDED_GROUPS or package == "_global_" or group.split("/")[0] == "hydra":
        return
    for name in _setting_names(_read_mapping(path), package):
        options.settings.setdefault(name, []).append((group, path.stem))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_mapping(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a file; an unreadable file, which Hydra reports, has none."""
    try:
        content = yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _setting_names(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the dotted names of the settings in `node` and below, each after `prefix`."""
    for key, value in node.items():
        if key == "defaults" or str(key).startswith("_"):
            continue
        yield f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _setting_names(value, f"{prefix}.{key}")
