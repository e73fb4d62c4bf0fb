"""Limits on the effects of a recorded configuration that is used again.

A run directory may come from a stranger. Its record may choose parts and their settings (see
`roles.py`) and read the text that the run was trained on, identified by its fingerprint (see
`data/known_text.py`). It may not send data away, write outside the run directory or contact an
address that this package does not know, unless the user has named that address on this machine.
It may import no package but this one, unless the user has named it (see `packages.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.config.packages import (
    recorded_entries,
    remember_packages,
    without_foreign_packages,
)
from spectral_exp.config.remembered import recall, remember
from spectral_exp.core.errors import UserError

PATH_SETTINGS = ("data.path", "tokenizer.path")
"""Settings that name a file to read; relative paths start at the folder of the run's command."""

_BACKUP_URLS, _CONFIG_DIRS, _TRACKERS = "backup_places", "config_folders", "trackers"


def recorded_config(record: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration in a run's record, adapted to the current working directory.

    Paths relative to the folder of the run's command become absolute. Recorded web addresses are
    removed, so that the text comes from the cache or from the address that this package knows. So
    are packages that the user has not named on this machine; `packages` are those named now.
    """
    config = copy.deepcopy(dict(record["config"]))
    config = without_foreign_packages(config, recorded_entries(record), packages)
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


def remember_choices(config: Mapping[str, Any], config_dir: str | None) -> None:
    """Record what the user has named in a command, so that its runs may name it again.

    Args:
        config: checked. A recorded address, tracker or package is in it only if the user has named
            it.
        config_dir: the folder of the user's own configuration files.
    """
    from spectral_exp.core.redact import redact_text

    monitoring = config["monitoring"]
    if url := monitoring["backup"]["url"]:
        remember_backup_url(url)
    for target in monitoring.get("companion", {}).get("mirrors", ()):
        if redact_text(target) == target:
            remember(_TRACKERS, target)
    remember_packages(config)
    if config_dir is not None:
        remember_config_dir(config_dir)


# --- backup addresses and trackers ----------------------------------------------------------------


def may_back_up(url: str, source: str | None) -> bool:
    """Return whether a recorded run may send its backups to `url`.

    It may if the user has named that address on this machine: as the `backup_url` of an earlier
    run, or now as `source`, the address of a run below it.
    """
    url = url.rstrip("/")
    return bool(source and source.startswith(f"{url}/")) or url in recall(_BACKUP_URLS)


def may_mirror(target: str) -> bool:
    """Return whether a recorded run may be mirrored to a tracker.

    It may if that stays on this machine, or if the user has named the tracker on it.
    """
    # Imported here because the modules import numpy, which --help does not need.
    from spectral_exp.monitoring.companion.targets import Target

    kind, _, where = target.partition(":")
    return Target(kind, where).stays_here or target in recall(_TRACKERS)


def remember_backup_url(url: str) -> None:
    """Record that this user sends backups to `url`."""
    remember(_BACKUP_URLS, url.rstrip("/"))


# --- folders of configuration files ---------------------------------------------------------------


def remember_config_dir(folder: str | Path) -> None:
    """Record that this user uses the configuration files in `folder`."""
    remember(_CONFIG_DIRS, str(Path(folder).resolve()))


def is_known_config_dir(folder: str | Path) -> bool:
    """Return whether the user has used the configuration files in `folder` on this machine."""
    return str(Path(folder).resolve()) in recall(_CONFIG_DIRS)
