"""Packages of the user, whose classes and functions a configuration may name.

A configuration names them in its setting `packages`, by name or by the path of their folder, and
installed distributions by entry points of the group `spectral_exp.parts`. Importing a package runs
its code. So a package that a run's record names is used only if the user has named it on this
machine. It is then named by its path, so that nothing else of that name is imported instead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from spectral_exp.config.remembered import recall, remember
from spectral_exp.core.errors import SettingError
from spectral_exp.runs.layout import OWN_CONFIG_NAME

SETTING = "packages"
ENTRY_POINTS = "spectral_exp.parts"

_LIST = "packages"
_searched: set[Path] = set()
"""Folders of packages that have joined Python's search path here."""

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def find_packages(config: Mapping[str, Any]) -> dict[str, Path]:
    """Return the packages that `config` names, and their folders or files; import none of them.

    A package that Python does not find is looked for in the working directory. The folder in which
    it is found joins the end of Python's search path.

    Raises:
        SettingError: an entry does not name an importable package.
    """
    return dict(map(_find, _entries(config.get(SETTING))))


def own_places(config: Mapping[str, Any], search: Sequence[str]) -> dict[str, Path]:
    """Return the folders of the user's code: packages by name, and configuration files.

    Args:
        config: names the packages.
        search: arguments that locate further configuration files.
    """
    places = find_packages(config)
    for flag, value in pairwise(search):
        if flag == "--config-dir":
            places[OWN_CONFIG_NAME] = Path(value)
    return places


@functools.cache
def entry_point_packages() -> tuple[str, ...]:
    """Return the packages that installed distributions declare as parts.

    The working directory and the folders that hold packages named by `packages` do not count: they
    may hold files that came with somebody's runs.
    """
    places = {Path.cwd().resolve(), *_searched}
    points = [
        point
        for point in metadata.entry_points(group=ENTRY_POINTS)
        if point.dist is not None and Path(str(point.dist.locate_file(""))).resolve() not in places
    ]
    return tuple(sorted({point.value.partition(":")[0].partition(".")[0] for point in points}))


def names_own_part(node: object, packages: Iterable[str]) -> bool:
    """Return whether a section of the configuration has its `_target_` in a package of the user."""
    target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    return target.partition(".")[0] in {*packages, *entry_point_packages()}


def has_own_part(node: object, packages: Iterable[str]) -> bool:
    """Return whether a section of the configuration or one inside it names a part of the user."""
    if not isinstance(node, Mapping):
        return False
    packages = tuple(packages)
    return names_own_part(node, packages) or any(
        has_own_part(inner, packages) for inner in node.values()
    )


def remember_packages(config: Mapping[str, Any]) -> None:
    """Record that this user uses the packages of `config`."""
    for place in find_packages(config).values():
        remember(_LIST, str(place))


def resolve_recorded(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths of recorded packages that the user has named, and the other entries."""
    known, unknown = [], []
    places = [Path(line) for line in sorted(recall(_LIST))]
    for entry in entries:
        if os.sep in entry:
            same = [place for place in places if str(place) == entry]
        else:
            same = [place for place in places if place.stem == entry and place.exists()]
            current = _places(entry)[:1] if same else []
            same = [place for place in same if place in current] or same
        if len(same) == 1:
            known.append(str(same[0]))
        else:
            unknown.append(entry)
    return known, unknown


def recorded_entries(record: Mapping[str, Any]) -> list[str]:
    """Return the packages in a run's record: by their places, if those still exist."""
    config, own_code = record.get("config"), record.get("own_code")
    entries = config.get(SETTING) if isinstance(config, Mapping) else None
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            name = Path(entry).stem
            facts = own_code.get(name) if isinstance(own_code, Mapping) else None
            place = str(facts.get("place")) if isinstance(facts, Mapping) else ""
            # `Path.exists` raises an error for a text that no file can have as its name.
            is_there = Path(place).stem == name and os.path.exists(place)  # noqa: PTH110
            found.append(place if is_there else entry)
    return found


def changed_packages(record: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the packages of a run, with their places, that have changed since it was recorded.

    Args:
        record: of the run.
        config: names the packages that are used now.
    """
    # Imported here because the module imports numpy, which --help does not need.
    from spectral_exp.monitoring.tracking.own_code import content_sha256

    before = record.get("own_code") or {}
    return [
        f"{name} ({place})"
        for name, place in find_packages(config).items()
        if (recorded := before.get(name, {}).get("sha256")) is not None
        and recorded != content_sha256(name, place)
    ]


def without_foreign_packages(
    config: Mapping[str, Any], entries: Iterable[str], allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a recorded configuration with those packages that the user has named.

    Args:
        config: as recorded.
        entries: the packages in the record, see `recorded_entries`.
        allowed: packages that the user names now.
    """
    known, _ = resolve_recorded(entries)
    named = {Path(entry).stem for entry in allowed}
    kept = [*allowed, *(place for place in known if Path(place).stem not in named)]
    rest = {name: value for name, value in config.items() if name != SETTING}
    return {**rest, SETTING: kept} if kept else rest


def _entries(value: Any) -> list[str]:
    entries = value or []
    if not isinstance(entries, list | tuple) or not all(isinstance(e, str) for e in entries):
        raise SettingError(SETTING, value, "a list of packages, such as packages=[mylab]")
    return list(entries)


def _find(entry: str) -> tuple[str, Path]:
    """Return the name and the place of a package. Raises SettingError if it is not there."""
    is_path = os.sep in entry
    wanted = Path(entry).resolve()
    name = wanted.stem if is_path else entry
    if not _NAME.fullmatch(name):
        allowed = "the name of an importable package, without dots, or the path of its folder"
        raise SettingError(SETTING, entry, allowed)
    folder = wanted.parent if is_path else Path.cwd()
    is_there = any((folder / file).exists() for file in (name, f"{name}.py"))
    places = _places(name)
    if not places and is_there:
        sys.path.append(str(folder))
        _searched.add(folder.resolve())
        importlib.invalidate_caches()
        places = _places(name)
    place = places[0] if places else None
    if place is None or (is_path and not is_there):
        remedy = "install it, or give the command in the folder that holds it"
        raise SettingError(SETTING, entry, "a package that can be imported", remedy)
    if is_path and len(places) > 1:
        # A module that the record names could come from any of them.
        folders = " and ".join(map(str, places))
        remedy = f"{name} has files in {folders}; if you trust them all, give {name} alone"
        raise SettingError(SETTING, entry, "the only place of that package", remedy)
    if is_path and place != wanted:
        remedy = f"Python finds another {name} first, {place}; rename one of them"
        raise SettingError(SETTING, entry, "the package that Python imports", remedy)
    return name, place


def _places(name: str) -> list[Path]:
    """Return the folders or the file of a package; none if Python does not find it.

    A package without `__init__.py` has one folder for each entry of the search path that holds it.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ())
    if not places and spec.origin is not None:
        places = [spec.origin]
    return list(dict.fromkeys(Path(place).resolve() for place in places))
