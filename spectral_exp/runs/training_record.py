"""Read the record of a training run, for commands that repeat the run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.record import Attempt, Git, known_settings, read_intact_config

_MAX_PATCH_BYTES = 64 << 20

_NO_GIT: Git = {
    "hash": None,
    "dirty": None,
    "untracked": [],
    "diff_truncated": False,
    "diff_file": None,
}


def read_record(run: Path) -> dict[str, Any]:
    """Return the content of a run's `config.json`, with the `attempts` since `last_beginning`.

    Raises:
        UserError: `run` was not made by the training command, or the file is damaged.
    """
    file = RunPaths(run).config_file
    if not file.is_file():
        raise UserError(
            f"{run} is not a run directory: it holds no {file.name}; name one below outputs/"
        )
    record = read_intact_config(file)
    config, attempts = record.get("config", {}), record.get("attempts")
    are_groups = isinstance(config.get("training"), dict) and isinstance(
        config.get("monitoring", {}), dict
    )
    if not are_groups or not attempts:
        raise UserError(
            f"{run} was not made by python -m spectral_exp.train; only runs of that command can be "
            "repeated"
        )
    if findings := known_settings(dict(flatten(config)), file.name)[1]:
        raise UserError(f"{file} is damaged: {findings[0]}")
    return {
        **record,
        "git": {**_NO_GIT, **record.get("git", {})},
        "attempts": last_beginning(attempts),
    }


def last_beginning(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts since training last began at step 0; earlier ones have no effect."""
    beginning = max(
        (i for i, attempt in enumerate(attempts) if attempt["from_step"] == 0), default=0
    )
    return list(attempts[beginning:])


def recorded_patch(paths: RunPaths, git: Mapping[str, Any]) -> bytes:
    """Return the recorded patch from the commit in `git` to the code of the run, or b""."""
    if not git.get("diff_file"):
        return b""
    with explain_os_error(f"read {paths.git_diff_file}"), suppress(FileNotFoundError):
        return read_regular(paths.git_diff_file, _MAX_PATCH_BYTES)
    return b""


def recorded_patch_crc32(paths: RunPaths, git: Mapping[str, Any]) -> str:
    """Return the CRC-32 of the recorded patch, also of one that is not published, or ""."""
    patch = recorded_patch(paths, git)
    return f"{zlib.crc32(patch):08x}" if patch else str(git.get("diff_crc32") or "")
