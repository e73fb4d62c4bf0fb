"""What a run recorded of itself, read without changing it, and how two records differ."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectral_exp.runs.overrides import flat, matters_for_logs

# What computes the numbers: of all packages these are told first.
_COMPUTING = ("python", "torch", "numpy")
_MAX_SHOWN = 20
# --- settings --------------------------------------------------------------------------------------------------------


# --- differences -----------------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Whether two values are exactly equal; NaN equals NaN here."""
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return bool(one == other) or both_nan


def unequal(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for every entry that differs, in the order of their names."""
    return [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted({*before, *now})
        if not same(before.get(key, "absent"), now.get(key, "absent"))
    ]


def settings_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], matters: Callable[[str], bool] = matters_for_logs
) -> list[str]:
    """Every difference that matters between two resolved configurations."""
    old, new = ({key: value for key, value in flat(config) if matters(key)} for config in (before, now))
    return unequal(old, new)


def code_differences(
    before: Mapping[str, Any], patch_before: bytes, now: Mapping[str, Any], patch_now: bytes
) -> list[str]:
    """Whether two `git` sections, each with the patch that belongs to it, tell of the same code."""
    return unequal(_code(before, patch_before), _code(now, patch_now))


def package_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Whether two records name different versions of this package; a record may name none."""
    old, new = (record.get("package") for record in (before, now))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return []
    return unequal(*({f"spectral_exp {name}": p.get(name) for name in ("version", "hash")} for p in (old, new)))


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Every difference of hardware, threads, operating system, Python and packages between two records."""
    pairs = zip(_environment(before), _environment(now), strict=True)
    return [line for old, new in pairs for line in unequal(old, new)]


def shortened(lines: Sequence[str]) -> list[str]:
    """The first lines of a long list, and how many more there are."""
    more = len(lines) - _MAX_SHOWN
    return [*lines[:_MAX_SHOWN], f"... and {more} more, in the file"] if more > 0 else list(lines)


def _code(git: Mapping[str, Any], patch: bytes) -> dict[str, Any]:
    changes = f"patch with CRC-32 {zlib.crc32(patch):08x}" if patch else "none"
    return {"commit": git.get("hash"), "uncommitted changes": changes}


def _environment(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a record says of its environment, the likeliest reasons for other numbers first."""
    packages = dict(record.get("packages") or {})
    computing = {name: packages.pop(name, None) for name in _COMPUTING}
    platform = (record.get("host") or {}).get("platform")
    return [record.get("hardware") or {}, {"platform": platform}, computing, packages]
