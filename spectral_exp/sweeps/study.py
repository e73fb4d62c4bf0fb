"""Study files: sweeps that somebody else can repeat, in `conf/study/NAME.yaml`.

    description: Does the wave stack learn faster than the classic one?
    overrides: [training.max_steps=60]      # for all jobs
    experiments: [classic, wave]
    seeds: [1, 2, 3]
    grid:                                   # every combination of these values
      optimizer.learning_rate: [1e-3, 3e-3]
    blocks:                                 # optional; the study is the union of its blocks
      tuning: {seeds: [101, 102]}
      reporting: {seeds: [1, 2, 3, 4, 5], experiments: [wave]}

A block takes what it does not set itself from the top of the file: its `experiments` and `seeds`
replace those there, its `grid` and `overrides` replace single settings and add others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line import format_value, is_readable, quote_text_setting
from spectral_exp.core.errors import UserError, nearest
from spectral_exp.runs.overrides import setting_of

FOLDER = "study"
_KEYS = ("description", "overrides", "experiments", "seeds", "grid", "blocks")
_BLOCK_KEYS = _KEYS[1:-1]
_NAME = re.compile(r"[A-Za-z0-9][\w-]*(/[A-Za-z0-9][\w-]*)*")


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: the default name of its sweep.
        description: what the study is about.
        blocks: block -> overrides with the syntax of a sweep. A study without blocks has one, "".
    """

    name: str
    description: str
    blocks: Mapping[str, list[str]]

    def jobs(self, block: str = "") -> list[list[str]]:
        """Return the overrides of all blocks, or of one.

        Raises:
            UserError: there is no such block.
        """
        if not block:
            return list(self.blocks.values())
        if block not in self.blocks:
            named = ", ".join(filter(None, self.blocks)) or "no blocks"
            raise UserError(
                f"study={self.name}:{block} does not exist{nearest(block, self.blocks)}; the study "
                f"has {named}"
            )
        return [self.blocks[block]]


def read_study(name: str, folders: Sequence[Path]) -> Study:
    """Read a study by its name in one of `folders`, the first that has it, or by its path.

    Raises:
        UserError: there is no such file, or it has mistakes.
    """
    file = _find(name, folders)
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the study {file} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"the study {file} must hold settings, such as seeds: [1, 2, 3]")
    _require_keys(file, "", content, _KEYS)
    top = {key: value for key, value in content.items() if key != "blocks"}
    blocks = content.get("blocks") or {"": {}}
    if not isinstance(blocks, dict):
        raise UserError(f"{file}: blocks must be names with settings")
    overrides = {}
    for block, own in blocks.items():
        own = own or {}
        place = f"blocks.{block}" if block else ""
        if not isinstance(own, dict):
            raise UserError(f"{file}: {place} must hold settings")
        _require_keys(file, place, own, _BLOCK_KEYS if block else ())
        overrides[str(block)] = merge_overrides(
            _overrides(file, "", top), _overrides(file, place, own)
        )
    if not any(overrides.values()):
        raise UserError(f"{file} is empty; a study holds settings, such as seeds: [1, 2, 3]")
    return Study(file.stem, str(content.get("description", "")), overrides)


def merge_overrides(*groups: Sequence[str]) -> list[str]:
    """Return overrides of which each replaces an earlier one of the same setting in its place."""
    merged: dict[str, str] = {}
    for override in (override for group in groups for override in group):
        merged[setting_of(override)] = override
    return list(merged.values())


def _find(name: str, folders: Sequence[Path]) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if _NAME.fullmatch(name):
        for folder in folders:
            if (file := folder / FOLDER / f"{name}.yaml").is_file():
                return file
    known = sorted(
        path.relative_to(folder / FOLDER).with_suffix("").as_posix()
        for folder in folders
        for path in (folder / FOLDER).rglob("*.yaml")
    )
    raise UserError(
        f"study={name} does not exist{nearest(name, known)}; choose from {', '.join(known)}, or "
        "name a YAML file"
    )


def _require_keys(
    file: Path, place: str, content: Mapping[Any, Any], allowed: Sequence[str]
) -> None:
    for key in content:
        if key not in allowed:
            name = f"{place}.{key}" if place else key
            raise UserError(
                f"{file}: {name} is not a part of a study{nearest(str(key), allowed)}; choose from "
                f"{', '.join(allowed)}"
            )


def _overrides(file: Path, place: str, content: Mapping[Any, Any]) -> list[str]:
    """Return one part of a study as overrides with the syntax of a sweep."""
    grid = content.get("grid") or {}
    if not isinstance(grid, dict):
        raise UserError(f"{file}: {_name(place, 'grid')} must be settings with lists of values")
    fixed = []
    for override in _list(file, place, "overrides", content):
        if not isinstance(override, str) or "=" not in override or not is_readable(override):
            raise UserError(
                f"{file}: {override!r} in {_name(place, 'overrides')} must be an override, such as "
                "training.max_steps=60"
            )
        fixed.append(quote_text_setting(override, sweeps=True))
    seeds = _list(file, place, "seeds", content)
    for seed in seeds:
        is_number = isinstance(seed, int | float) and not isinstance(seed, bool)
        if not (is_number and 0 <= seed < 2**63 and seed == int(seed)):
            raise UserError(
                f"{file}: {seed!r} in {_name(place, 'seeds')} must be an integer >= 0 and < 2^63"
            )
    swept = {
        "+experiment": _list(file, place, "experiments", content),
        **{str(key): _list(file, _name(place, "grid"), key, grid) for key in grid},
        "seed": seeds,
    }
    choices = [
        f"{key}={','.join(map(format_value, values))}" for key, values in swept.items() if values
    ]
    return merge_overrides(choices, fixed)


def _list(file: Path, place: str, key: Any, content: Mapping[Any, Any]) -> list[Any]:
    """Return the list at `key`, [] if the key is missing."""
    if key not in content:
        return []
    values = content[key]
    if not isinstance(values, list) or not values:
        raise UserError(f"{file}: {_name(place, key)} must be a list of at least one value")
    return values


def _name(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
