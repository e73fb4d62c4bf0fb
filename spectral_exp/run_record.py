"""What a run recorded of itself, read without changing it, and how two records differ."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import read_regular
from spectral_exp.run_dir import RunPaths
from spectral_exp.runs.record import Attempt, Git, known_settings, read_intact_config

PLACE = ("resume", "outputs", "backup_url", "experiment_id", "hydra")
"""Settings that say where a run and its copies lie."""

WATCHING = ("monitoring.backup", "monitoring.checkpoint", "monitoring.visualization", "monitoring.tracking")
"""Settings of what keeps and shows a run: they change no number that is logged."""

AROUND_STEPS = (
    "monitoring",
    "training.eval_interval",
    "training.patience",
    "training.min_delta",
    "training.restore_best",
    "training.max_bad_steps",
    "training.sample_tokens",
    "training.sample_prompt",
    "training.profile_steps",
    "training.stop_signals",
)
"""Settings that decide when to look at training and when to give up: they change nothing that a step computes."""

# What computes the numbers: of all packages these are told first.
_COMPUTING = ("python", "torch", "numpy")
_MAX_SHOWN = 20
_MAX_PATCH_BYTES = 64 << 20
_NO_GIT: Git = {"hash": None, "dirty": None, "untracked": [], "diff_truncated": False, "diff_file": None}


def read_record(run: Path) -> dict[str, Any]:
    """The content of a run's `config.json`; its `attempts` are those that left something behind.

    Raises:
        UserError: `run` is no run of the training command, or the file is damaged.
    """
    file = RunPaths(run).config_file
    if not file.is_file():
        raise UserError(f"{run} is not a run directory: it holds no {file.name}; name one below outputs/")
    record = read_intact_config(file)
    config, attempts = record.get("config", {}), record.get("attempts")
    are_groups = isinstance(config.get("training"), dict) and isinstance(config.get("monitoring", {}), dict)
    if not are_groups or not attempts:
        raise UserError(f"{run} was not made by python -m spectral_exp.train: only its runs can be done again")
    if findings := known_settings(dict(flat(config)), file.name)[1]:
        raise UserError(f"{file} is damaged: {findings[0]}")
    return {**record, "git": {**_NO_GIT, **record.get("git", {})}, "attempts": last_beginning(attempts)}


def last_beginning(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that left something behind: one that ended before its first checkpoint was done over by the next."""
    beginning = max((i for i, attempt in enumerate(attempts) if attempt["from_step"] == 0), default=0)
    return list(attempts[beginning:])


def recorded_patch(paths: RunPaths, git: Mapping[str, Any]) -> bytes:
    """How the code of a run differed from the commit that `git`, a section of its record, names."""
    if not git.get("diff_file"):
        return b""
    try:
        return read_regular(paths.git_diff_file, _MAX_PATCH_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"cannot read {paths.git_diff_file}: {error.strerror}") from error


# --- settings --------------------------------------------------------------------------------------------------------


def setting_of(override: str) -> str:
    """The setting that an override changes, without sign, package and value: `+model/size@x=tiny` -> `model/size`."""
    return re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0]


def is_among(setting: str, names: Sequence[str]) -> bool:
    """Whether a setting, by its dotted name or as a group (`monitoring/metrics`), is one of `names` or below one."""
    dotted = setting.replace("/", ".")
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def matters_for_logs(setting: str) -> bool:
    """Whether a setting may change a number that is logged."""
    return not is_among(setting, (*PLACE, *WATCHING))


def matters_for_steps(setting: str) -> bool:
    """Whether a setting may change what a training step computes."""
    return not is_among(setting, (*PLACE, *AROUND_STEPS))


def changed_settings(
    attempts: Sequence[Mapping[str, Any]], matters: Callable[[str], bool] = matters_for_logs
) -> list[tuple[int, str]]:
    """Where a run was continued with other settings that matter: after which step, and what changed."""
    found = []
    for before, now in pairwise(attempts):
        # Of several overrides of a setting the last one wins.
        old, new = (
            {setting_of(o): o for o in attempt["overrides"] if matters(setting_of(o))} for attempt in (before, now)
        )
        changed = [
            f"{old.get(key, 'default')} -> {new.get(key, 'default')}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
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
