"""What a recorded run may make this machine do, where its configuration is used again.

A run directory may come from a stranger. What it records may choose parts and their settings (see
`roles.py`) and read the text that it was trained on, known by its fingerprint (see
`data/known_text.py`); it sends nothing away, writes nothing outside the run, and asks no address
but those that this package knows, unless the person at the keyboard has named the place.
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
"""Settings that name a file to read; a relative one is looked for where the run was started."""

_MAX_BYTES = 1 << 20


def recorded_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a run's record, to build its parts from wherever this command is given.

    Relative paths are those of the folder where the run was started. Recorded web addresses are
    left out, so that the text comes from the cache or from the address that this package knows.
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


def files_named(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings of `config` that name a file to read, with its path."""
    nodes = {key: config.get(key.partition(".")[0]) for key in PATH_SETTINGS}
    paths = {key: node.get("path") for key, node in nodes.items() if isinstance(node, Mapping)}
    return {key: path for key, path in paths.items() if isinstance(path, str)}


def has_fingerprint(key: str, fingerprints: Mapping[str, Any]) -> bool:
    """Whether the file that the setting `key` names can be known again by what the run recorded of
    its text."""
    from spectral_exp.data.known_text import TEXT_ENTRIES, TOKENIZER_ENTRY  # here: it brings torch

    entries = TEXT_ENTRIES if key == PATH_SETTINGS[0] else (TOKENIZER_ENTRY,)
    return all(entry in fingerprints for entry in entries)


def require_fingerprints(
    run: Path, config: Mapping[str, Any], fingerprints: Mapping[str, Any]
) -> None:
    """Raise a UserError if the recorded `config` names a file by its path alone."""
    for key, path in files_named(config).items():
        if not has_fingerprint(key, fingerprints):
            raise UserError(
                f"the record of {run} names {key}={path} and has no fingerprint to know that file by, so it is not "
                f"read; if you know the run, continue it with resume={run} {key}=..., which records one"
            )


def refuse_other_files(
    run: Path, config: Mapping[str, Any], fingerprints: Mapping[str, Any]
) -> None:
    """Raise a UserError if a file that the recorded `config` names is another one than the run
    had."""
    from spectral_exp.data import Gpt2, KnownText, TextFile

    require_fingerprints(run, config, fingerprints)
    known = KnownText(str(run), fingerprints)
    for key, path in files_named(config).items():
        if key == PATH_SETTINGS[0]:
            known.read(TextFile(path, str(config["data"].get("pattern", "*"))), Path())
        else:
            known.check_tokenizer(Gpt2(path).build(None, Path()))


def working_directory(record: Mapping[str, Any]) -> Path | None:
    """The folder in which the command of a run was given; None if the record does not say."""
    host = record.get("host")
    folder = host.get("cwd") if isinstance(host, Mapping) else None
    return Path(folder) if isinstance(folder, str) and folder else None


def absolute_path(config: Mapping[str, Any], key: str, folder: Path) -> str | None:
    """The file that the relative path `key` named for a command in `folder`; None if it is
    absolute, or not there."""
    group, _, name = key.partition(".")
    node = config.get(group)
    value = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(value, str) or not value or Path(value).expanduser().is_absolute():
        return None
    then = folder / value
    try:
        elsewhere = then.exists() and not (Path(value).exists() and then.samefile(value))
    except (OSError, ValueError):
        return None
    return str(then) if elsewhere else None


# --- places for backups ---------------------------------------------------------------------------


def may_back_up(url: str, named: str | None) -> bool:
    """Whether a recorded run may send its backups to `url`.

    It may if the user has named the place on this machine: as `backup_url` of a run before, or now,
    by the address of a run below it, `named`.
    """
    url = url.rstrip("/")
    return bool(named and named.startswith(f"{url}/")) or url in _known_places()


def remember_place(url: str) -> None:
    """Note that this user sends backups to `url`."""
    url = url.rstrip("/")
    if "\n" in url or url in _known_places():
        return
    try:
        file = _places_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(
            file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        with os.fdopen(descriptor, "a", encoding="utf-8") as lines:
            lines.write(f"{url}\n")
    except OSError as error:
        # The place has to be named again when the run is continued.
        log.debug("cannot note the place of backups %s: %s", url, error)


def _known_places() -> set[str]:
    """The places that this user has named on this machine; none if anybody else could have written
    them."""
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
