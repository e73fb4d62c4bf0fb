"""What a run recorded of itself, read without changing it, and held against something else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError
from spectral_exp.run_dir import RunPaths, read_intact_json

# Where a run lies and what watches it: nothing of it changes a number that is logged.
_UNINVOLVED = re.compile(
    r"(resume|outputs|experiment_id|hydra\..*|monitoring[./](checkpoint|visualization|tracking)(\..*)?)"
)


def read_record(run: Path) -> dict[str, Any]:
    """The content of a run's `config.json`.

    Raises:
        UserError: `run` is no run of the training command, or the file is damaged.
    """
    file = RunPaths(run).config_file
    if not file.is_file():
        raise UserError(f"{run} is not a run directory: it holds no {file.name}; name one below outputs/")
    record = read_intact_json(file)
    if "training" not in (record.get("config") or {}) or not record.get("attempts"):
        raise UserError(f"{run} was not made by python -m spectral_exp.train: only its runs can be done again")
    return record


def uninvolved(setting: str) -> bool:
    """Whether a setting, by its dotted name, cannot change a number that is logged."""
    return _UNINVOLVED.fullmatch(setting) is not None


def setting_of(override: str) -> str:
    """The setting that an override changes: `+model/size@x=tiny` -> `model/size`."""
    return re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0]


def changed_settings(attempts: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Where a run was continued with settings that may change its numbers: after which step, and what changed."""
    found = []
    for before, now in zip(attempts, attempts[1:], strict=False):
        old, new = _by_setting(before["overrides"]), _by_setting(now["overrides"])
        changed = [
            f"{old.get(k, 'default')} -> {new.get(k, 'default')}" for k in {**old, **new} if old.get(k) != new.get(k)
        ]
        if changed:
            found.append((int(now["from_step"]), ", ".join(changed)))
    return found


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with their dotted names."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def unequal(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for every entry that differs, in the order of their names."""
    return [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted({*before, *now})
        if not same(before.get(key), now.get(key))
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two values are exactly equal; NaN equals NaN here."""
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return bool(one == other) or both_nan


def settings_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Every difference between two resolved configurations that may change a number."""
    old, new = ({k: v for k, v in flat(config) if not uninvolved(k)} for config in (before, now))
    return unequal(old, new)


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Every difference of hardware, threads, operating system, Python and packages between two records."""
    return [
        *unequal(before.get("hardware") or {}, now.get("hardware") or {}),
        *unequal(*({"platform": (record.get("host") or {}).get("platform")} for record in (before, now))),
        *unequal(before.get("packages") or {}, now.get("packages") or {}),
    ]


def _by_setting(overrides: Sequence[str]) -> dict[str, str]:
    """Setting -> the override that wins."""
    return {setting_of(o): o for o in overrides if not uninvolved(setting_of(o))}
