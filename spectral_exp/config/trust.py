"""Limits on the effects of a recorded configuration that is used again.

A run directory may come from a stranger. Its record may choose parts and their settings (see
`roles.py`) and read the text that the run was trained on, identified by its fingerprint (see
`data/known_text.py`). It may not send data away, write outside the run directory or contact an
address that this package does not know, unless the user has named that address on this machine.
"""

from __future__ import annotations

import copy
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.user_state import state_folder

log = logging.getLogger(__name__)

PATH_SETTINGS = ("data.path", "tokenizer.path")
"""Settings that name a file to read; relative paths start at the folder of the run's command."""

_MAX_BYTES = 1 << 20


def recorded_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a run's record, adapted to the current working directory.

    Paths relative to the folder of the run's command become absolute. Recorded web addresses are
    removed, so that the text comes from the cache or from the address that this package knows.
    """
    config: dict[str, Any] = copy.deepcopy(dict(record["config"]))
    folder = working_directory(record)
    for key in PATH_SETTINGS:
        group, _, name = key.partition(".")
        if folder is not None and (path := absolute_path(config, key, folder)) is not None:
            config[group][name] = path
    data = config.get("data")
    if isinstance(data, dict):
        data.pop("url", None)
    return config


def named_files(config: Mapping[str, Any]) -> dict[str, str]:
    """Return setting -> path for the settings of `config` that name a file to read."""
    nodes = {key: config.get(key.partition(".")[0]) for key in PATH_SETTINGS}
    paths = {key: node.get("path") for key, node in nodes.items() if isinstance(node, Mapping)}
    return {key: path for key, path in paths.items() if isinstance(path, str)}


def has_fingerprint(key: str, fingerprints: Mapping[str, Any]) -> bool:
    """Return whether the fingerprints identify the file that the setting `key` names."""
    # Imported here because the module imports torch.
    from spectral_exp.data.known_text import TEXT_ENTRIES, TOKENIZER_ENTRY

    entries = TEXT_ENTRIES if key == PATH_SETTINGS[0] else (TOKENIZER_ENTRY,)
    return all(entry in fingerprints for entry in entries)


def require_fingerprints(
    run: Path, config: Mapping[str, Any], fingerprints: Mapping[str, Any]
) -> None:
    """Raise a UserError if the recorded `config` names a file without a fingerprint."""
    for key, path in named_files(config).items():
        if not has_fingerprint(key, fingerprints):
            raise UserError(
                f"the record of {run} names {key}={path} without a fingerprint of that file, so it "
                f"is not read; if you trust the run, continue it with resume={run} {key}=..., "
                "which records the fingerprint"
            )


def refuse_other_files(
    run: Path, config: Mapping[str, Any], fingerprints: Mapping[str, Any]
) -> None:
    """Raise a UserError if a file that the recorded `config` names differs from the run's file."""
    from spectral_exp.data import Gpt2, HuggingFace, KnownText, TextFile

    require_fingerprints(run, config, fingerprints)
    known = KnownText(str(run), fingerprints)
    for key, path in named_files(config).items():
        if key == PATH_SETTINGS[0]:
            known.read(TextFile(path, str(config["data"].get("pattern", "*"))), Path())
        else:
            target = str(config["tokenizer"].get("_target_"))
            spec = HuggingFace(path) if target.endswith(".HuggingFace") else Gpt2(path)
            known.check_tokenizer(spec.build(None, Path()))


def working_directory(record: Mapping[str, Any]) -> Path | None:
    """Return the working directory of a run's command, or None if it is not recorded."""
    host = record.get("host")
    folder = host.get("cwd") if isinstance(host, Mapping) else None
    return Path(folder) if isinstance(folder, str) and folder else None


def absolute_path(config: Mapping[str, Any], key: str, folder: Path) -> str | None:
    """Return the file that the setting `key` names, a path relative to `folder`, as absolute path.

    None if the path is absolute, does not exist, or names the same file in the current folder.
    """
    group, _, name = key.partition(".")
    node = config.get(group)
    value = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(value, str) or not value or Path(value).expanduser().is_absolute():
        return None
    path = folder / value
    try:
        is_elsewhere = path.exists() and not (Path(value).exists() and path.samefile(value))
    except (OSError, ValueError):
        return None
    return str(path) if is_elsewhere else None


# --- backup addresses and trackers ----------------------------------------------------------------


def may_back_up(url: str, source: str | None) -> bool:
    """Return whether a recorded run may send its backups to `url`.

    It may if the user has named that address on this machine: as the `backup_url` of an earlier
    run, or now as `source`, the address of a run below it.
    """
    url = url.rstrip("/")
    return bool(source and source.startswith(f"{url}/")) or url in _known_places()


def may_mirror(target: str) -> bool:
    """Return whether a recorded run may be mirrored to a tracker.

    It may if that stays on this machine, or if the user has named the tracker on it.
    """
    # Imported here because the modules import numpy, which --help does not need.
    from spectral_exp.monitoring.companion.targets import Target

    kind, _, where = target.partition(":")
    return Target(kind, where).stays_here or target in _known_places()


def remember_places(config: Mapping[str, Any]) -> None:
    """Record where this user sends the runs of a configuration: backups and trackers."""
    from spectral_exp.core.redact import redact_text

    monitoring = config["monitoring"]
    if url := monitoring["backup"]["url"]:
        remember_backup_url(url)
    for target in monitoring.get("companion", {}).get("mirrors", ()):
        if redact_text(target) == target:
            _remember(target)


def remember_backup_url(url: str) -> None:
    """Record that this user sends backups to `url`."""
    _remember(url.rstrip("/"))


def _remember(place: str) -> None:
    if "\n" in place or place in _known_places():
        return
    try:
        file = _places_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(
            file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        with os.fdopen(descriptor, "a", encoding="utf-8") as lines:
            lines.write(f"{place}\n")
    except OSError as error:
        # The user has to name the place again to continue the run.
        log.debug("cannot record the place %s: %s", place, error)


def _known_places() -> set[str]:
    """Return the places that this user has named; none if another user can write the file."""
    try:
        with _places_file().open(encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            others = stat.S_IWGRP | stat.S_IWOTH
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & others):
                return set()
            return set(file.read(_MAX_BYTES).splitlines())
    except OSError:
        return set()


def _places_file() -> Path:
    return state_folder() / "backup_places"
