"""Differences between the records of two runs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import PLACE, flatten, is_among, matters_for_logs
from spectral_exp.runs.run import Run
from spectral_exp.runs.training_record import recorded_patch

# These compute the numbers, so they are listed before all other packages.
_NUMERIC_PACKAGES = ("python", "torch", "numpy")
_MAX_SHOWN = 20


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two values are exactly equal. NaN equals NaN."""
    are_nan = all(isinstance(value, float) and math.isnan(value) for value in (one, other))
    return bool(one == other) or are_nan


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for every entry that differs, sorted by name."""
    return [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted({*before, *now})
        if not are_equal(before.get(key, "absent"), now.get(key, "absent"))
    ]


def run_differences(one: Run, other: Run) -> dict[str, list[str]]:
    """Return a line for each difference before training, by section."""
    settings = (
        {name: value for name, value in run.all_settings.items() if not is_among(name, PLACE)}
        for run in (one, other)
    )
    data, model = (
        list_differences(*(dict(flatten(run.record.get(section) or {})) for run in (one, other)))
        for section in ("dataset", "model")
    )
    git_one, git_other = (run.record.get("git") or {} for run in (one, other))
    patch_one = recorded_patch(RunPaths(one.path), git_one)
    patch_other = recorded_patch(RunPaths(other.path), git_other)
    return {
        "settings": list_differences(*settings),
        "data": data,
        "model": model,
        "code": code_differences(git_one, patch_one, git_other, patch_other),
        "environment": environment_differences(one.record, other.record),
    }


def settings_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    matters: Callable[[str], bool] = matters_for_logs,
) -> list[str]:
    """Return the differences between two configurations in the settings that `matters` accepts."""
    old, new = (
        {key: value for key, value in flatten(config) if matters(key)} for config in (before, now)
    )
    return list_differences(old, new)


def code_differences(
    before: Mapping[str, Any], patch_before: bytes, now: Mapping[str, Any], patch_now: bytes
) -> list[str]:
    """Return the differences between two `git` sections and their patches."""
    return list_differences(_code_version(before, patch_before), _code_version(now, patch_now))


def package_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between the recorded versions of this package, if both are known."""
    old, new = (record.get("package") for record in (before, now))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return []
    return list_differences(
        *({f"spectral_exp {name}": p.get(name) for name in ("version", "hash")} for p in (old, new))
    )


def own_code_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between the user's packages and configuration files of two runs."""
    return list_differences(
        *(
            {name: f"content {str(of.get('sha256'))[:12]}" for name, of in sections.items()}
            for sections in (record.get("own_code") or {} for record in (before, now))
        )
    )


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences in hardware, threads, operating system, Python and packages."""
    pairs = zip(_environment(before), _environment(now), strict=True)
    return [line for old, new in pairs for line in list_differences(old, new)]


def shorten(lines: Sequence[str]) -> list[str]:
    """Return the first 20 lines, and one line with the number of the others."""
    more = len(lines) - _MAX_SHOWN
    return [*lines[:_MAX_SHOWN], f"... and {more} more, in the file"] if more > 0 else list(lines)


def _code_version(git: Mapping[str, Any], patch: bytes) -> dict[str, Any]:
    crc32 = f"{zlib.crc32(patch):08x}" if patch else git.get("diff_crc32")
    changes = f"patch with CRC-32 {crc32}" if crc32 else "none"
    return {"commit": git.get("hash"), "uncommitted changes": changes}


def _environment(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the environment of a run, the most likely reasons for other numbers first."""
    packages = dict(record.get("packages") or {})
    numeric = {name: packages.pop(name, None) for name in _NUMERIC_PACKAGES}
    platform = (record.get("host") or {}).get("platform")
    return [record.get("hardware") or {}, {"platform": platform}, numeric, packages]
