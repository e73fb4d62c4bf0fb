"""Folders of the jobs of a sweep: what was swept, the seed, and a hash that identifies the job.

`phasor_lr0.004_seed1_1a2b3c4d` describes the job to people. The hash alone decides whether two
jobs are the same one, so a folder is found again after the sweep was extended by other settings.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.runs.overrides import PLACE, flatten, is_among, setting_of

_NOT_IDENTITY = (
    *PLACE, "name", "monitoring", "device", "threads", "distributed", "search", "study",
)  # fmt: skip
"""Settings that do not make another job."""

_SHORT = {
    "learning_rate": "lr",
    "weight_decay": "wd",
    "batch_size": "batch",
    "max_steps": "steps",
}
_SPEAKING_GROUPS = ("experiment", "optimizer", "loss", "attention", "embedding", "mlp", "size")
"""Groups whose choice says what it is: `rgd` for `optimizer=rgd`."""

_MAX_PART = 32  # characters
_MAX_NAME = 120  # characters, without seed and hash
_FOLDER = re.compile(r".*_([0-9a-f]{8})", re.DOTALL)


def job_key(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], overrides: Iterable[str] = ()
) -> str:
    """Return the hash (8 hexadecimal digits) of a job's difference from the defaults.

    A setting that later versions add with a default does not change it.

    Args:
        settings: of the job, as returned by `identity`.
        defaults: of a job without overrides, as returned by `identity`.
        overrides: of the job; those that remove a setting count.
    """
    changed = {
        name: value
        for name, value in settings.items()
        if name not in defaults or defaults[name] != value
    }
    removed = sorted(override for override in overrides if override.startswith("~"))
    text = json.dumps([changed, removed] if removed else [changed], sort_keys=True)
    return hashlib.sha1(text.encode(errors="backslashreplace")).hexdigest()[:8]


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make a job what it is: dotted name -> value.

    Args:
        config: nested, without secrets, as in the record of a run.
    """
    return {name: _normalize(value) for name, value in flatten(config) if _makes_another_job(name)}


@functools.lru_cache(maxsize=4096)  # all jobs share the same few hundred settings
def _makes_another_job(setting: str) -> bool:
    return not is_among(setting, _NOT_IDENTITY)


def _normalize(value: Any) -> Any:
    """Return a value with whole numbers as integers: 1.0 and 1 are the same setting."""
    if isinstance(value, list):
        return [_normalize(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def key_of_folder(name: str) -> str | None:
    """Return the hash at the end of the name of a job's folder, or None for other names."""
    match = _FOLDER.fullmatch(name)
    return match[1] if match else None


def find_folders(sweep: Path) -> dict[str, str]:
    """Return hash -> name of the folders of jobs in a sweep; none if the sweep does not exist."""
    try:
        names = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    except FileNotFoundError:
        return {}
    return {key: name for name in names if (key := key_of_folder(name))}


def swept_settings(jobs: Iterable[Sequence[str]]) -> list[str]:
    """Return the settings whose overrides differ between jobs, without the seed."""
    by_setting: dict[str, set[str]] = {}
    n_jobs = 0
    counts: dict[str, int] = {}
    for overrides in jobs:
        n_jobs += 1
        for setting, override in {setting_of(o): o for o in overrides}.items():
            by_setting.setdefault(setting, set()).add(override)
            counts[setting] = counts.get(setting, 0) + 1
    return [
        setting
        for setting, values in by_setting.items()
        if (len(values) > 1 or counts[setting] < n_jobs)
        and setting != "seed"
        and _makes_another_job(setting)
    ]


def folder_name(
    config: Mapping[str, Any], overrides: Sequence[str], swept: Sequence[str], key: str
) -> str:
    """Return the name of the folder of a new job.

    Args:
        config: resolved configuration of the job.
        overrides: of the job.
        swept: the settings to name, as of `swept_settings`.
        key: the hash of the job.
    """
    given = {setting_of(override): override for override in overrides}
    settings = dict(flatten(config))
    lasts = [_last_word(setting) for setting in swept]
    name = str(config.get("name", ""))
    parts = [name]
    for setting, last in zip(swept, lasts, strict=True):
        if setting not in given:
            continue
        value = settings.get(setting, given[setting].partition("=")[2])
        if last in _SPEAKING_GROUPS and setting not in settings:
            parts += [str(value)] if value != name else []
        else:
            label = _SHORT.get(last, last) if lasts.count(last) == 1 else setting
            parts.append(f"{label}{_value_text(value)}")
    words = [word for part in parts if (word := _safe(part))]
    return f"{'_'.join(words)[:_MAX_NAME] or 'job'}_seed{_safe(str(config.get('seed')))}_{key}"


def _last_word(setting: str) -> str:
    return re.split(r"[./]", setting)[-1]


def _value_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "null"}[value]
    text = repr(value) if isinstance(value, float) else str(value)
    # Between a name and a word: `tokenizer-bpe`, but `lr0.004`.
    return text if text[:1].isdigit() else f"-{text}"


def _safe(text: str) -> str:
    """Return `text` in characters that every file system and shell takes as they are."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text.replace("_", "-"))[:_MAX_PART].strip("-.")
