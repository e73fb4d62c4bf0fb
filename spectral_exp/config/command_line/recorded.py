"""Read the recorded command line of a run back, for `resume=`.

The recorded overrides come first and those of the user win. `consent` decides which recorded ones
are used without asking.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from spectral_exp.config import packages, trust
from spectral_exp.config.command_line.consent import trusted_overrides
from spectral_exp.config.command_line.grammar import (
    MAX_TEXT,
    format_value,
    is_readable,
    text_of,
)
from spectral_exp.config.command_line.recording import SEARCH_PATH
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import HYDRA_OVERRIDES_NAME, RunPaths
from spectral_exp.runs.overrides import is_among, quote, setting_of
from spectral_exp.runs.record import read_intact_config
from spectral_exp.runs.renamed import former_defaults

# These name the place of a run, not its experiment, so the recorded values are never used.
_PLACE_KEYS = ("experiment_id", "resume", "outputs", "sweep")
_SEARCH_FLAGS = ("--config-dir", "--config-name")
_MAX_YAML_BYTES = 1 << 20
# A YAML list of texts, as Hydra writes it: without nesting and without aliases, by which a short
# file could expand to an endless list.
_FLAT_LIST = re.compile(r"\[\]\n?|(?:(?:- ['\"\w~+]|  ).*(?:\n|$)|\n)*")


def arguments_to_resume(
    resume: str, overrides: Sequence[str], flags: Sequence[str], source: str
) -> tuple[list[str], list[str]]:
    """Return the overrides that continue a run, its recorded ones before those given, which win,
    and the flags that locate its configuration files.

    Defaults that have changed since the run was recorded come first.

    Args:
        resume: the run directory.
        overrides: the overrides on the command line.
        flags: the flags on the command line.
        source: the value of `resume=` as given: a URL if the run was fetched from its backup.

    Raises:
        UserError: there is no run, or a recorded override needs the consent of the user.
    """
    paths = RunPaths(Path(resume))
    if not paths.root.is_dir():
        raise UserError(
            f"resume={resume} is not a directory; name the run to continue, for example "
            "outputs/<run>, or the URL of its backup, for example s3://bucket/folder/<run>"
        )
    if source == resume:  # a backup is fetched to `outputs`
        _refuse_other_place(overrides, paths.root)
    record = _record(paths, resume)
    search = _recorded_search(record, overrides, flags, resume)
    given = tuple(setting_of(override) for override in overrides)
    files = [
        key
        for key in trust.PATH_SETTINGS
        if trust.has_fingerprint(key, record.get("dataset") or {})
    ]
    absolute = _absolute_paths(record, [key for key in files if key not in given])
    replaced = {*given, *absolute, *_PLACE_KEYS}
    recorded = _with_places(_require_overrides(record.get("overrides"), resume), record)
    kept = [override for override in recorded if setting_of(override) not in replaced]
    _refuse_secrets(kept)
    kept = trusted_overrides(kept, f"resume={resume}", files, source=source)
    config = record.get("config")
    former = former_defaults(config) if isinstance(config, Mapping) else {}
    defaults = [f"{key}={value}" for key, value in former.items() if not is_among(key, given)]
    moved = [f"{key}={quote(path)}" for key, path in absolute.items()]
    place = [
        f"experiment_id={quote(paths.root.resolve().name)}",
        f"hydra.run.dir={quote(resume)}",
    ]
    return [*defaults, *kept, *moved, *overrides, *place], search


def _refuse_other_place(overrides: Sequence[str], root: Path) -> None:
    """Raise a UserError if the overrides name another place than that of the run."""
    place = root.resolve()
    for override in overrides:
        key = setting_of(override)
        if key not in ("outputs", "experiment_id", "hydra.run.dir"):
            continue
        named = Path(text_of(override))
        if key == "outputs":
            is_elsewhere = named.resolve() not in place.parents
        elif key == "experiment_id":
            is_elsewhere = place.parts[-len(named.parts) :] != named.parts
        else:
            is_elsewhere = named.resolve() != place
        if is_elsewhere:
            raise UserError(
                f"{override} names another place, and resume={root} continues the run where it "
                f"is; leave {key} out, or copy the run first"
            )


def _record(paths: RunPaths, resume: str) -> dict[str, Any]:
    """Return the record of a run; if it is missing or damaged, that of Hydra (overrides only)."""
    try:
        return dict(read_intact_config(paths.config_file))
    except UserError as error:
        hydra_file = paths.hydra / HYDRA_OVERRIDES_NAME
        if hydra_file.is_file() and paths.checkpoint_steps():
            return {"overrides": _read_hydra_overrides(hydra_file)}
        if paths.config_file.is_file():
            raise
        raise UserError(
            f"resume={resume} is not a run directory: it holds no {paths.config_file.name}; name "
            "one below outputs/"
        ) from error


def _read_hydra_overrides(file: Path) -> Any:
    try:
        text = read_regular(file, _MAX_YAML_BYTES).decode("utf-8")
        if not _FLAT_LIST.fullmatch(text):
            raise ValueError("it is not a list of texts")
        return yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _require_overrides(value: Any, resume: str) -> list[str]:
    """Return recorded overrides. Raises UserError if they are not a list of readable texts."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"the record in {resume} is damaged: its overrides are not a list of texts")
    for item in value:
        if not is_readable(item):
            raise UserError(
                f"the record in {resume} is damaged: {printable(item, 60)} is not an override"
            )
    return value


def _with_places(overrides: list[str], record: Mapping[str, Any]) -> list[str]:
    """Return recorded overrides with the places of the packages, by whichever file they were named.

    A package that was found in the folder of the run's command is not found in another folder.
    """
    entries = packages.recorded_entries(record)
    if not entries:
        return overrides
    others = [override for override in overrides if setting_of(override) != packages.SETTING]
    return [*others, f"{packages.SETTING}={format_value(entries)}"]


def _refuse_secrets(overrides: Sequence[str]) -> None:
    # Imported here because the module imports numpy, which --help does not need.
    from spectral_exp.core.redact import REDACTED

    secret = [setting_of(override) for override in overrides if REDACTED in override]
    if secret:
        raise UserError(
            f"{', '.join(secret)} is a secret, which is never written to a file; give it again on "
            "the command line"
        )


def _absolute_paths(record: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Return setting -> absolute path for the `keys` whose path is relative to the run's command.

    Paths that do not exist there are left out (see `trust.absolute_path`).
    """
    config, folder = record.get("config"), trust.working_directory(record)
    if not isinstance(config, Mapping) or folder is None:
        return {}
    found = {key: trust.absolute_path(config, key, folder) for key in keys}
    return {key: path for key, path in found.items() if path is not None}


def _recorded_search(
    record: Mapping[str, Any], overrides: Sequence[str], flags: Sequence[str], resume: str
) -> list[str]:
    """Return the recorded flags that locate further configuration files and are not given again.

    Raises:
        UserError: there are such files, and the user has not named their folder on this machine.
    """
    attempts = record.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    search = last.get("search") if isinstance(last, Mapping) else None
    if not isinstance(search, list) or not search:
        return []
    given = {flag.partition("=")[0] for flag in flags} | {
        setting_of(override) for override in overrides
    }
    aliases = {"--config-dir": "-cd", "--config-name": "-cn"}
    wanted = [
        flag for flag in _SEARCH_FLAGS if flag in search and not given & {flag, aliases[flag]}
    ]
    if SEARCH_PATH not in given and any(setting_of(str(item)) == SEARCH_PATH for item in search):
        wanted.append(SEARCH_PATH)
    if wanted:
        if (known := known_search(search)) is not None:
            return [word for flag in wanted for word in (flag, known[flag])]
        words = [printable(word, MAX_TEXT) for word in search]
        command = shlex.join(
            ["python", "-m", "spectral_exp.train", *words, f"resume={quote(resume)}"]
        )
        raise UserError(
            f"resume={resume} was made with configuration files from elsewhere "
            f"({', '.join(wanted)}), which are not taken from a record; if you trust the run, name "
            f"them again: {command}"
        )
    return []


def known_search(search: Sequence[Any]) -> dict[str, str] | None:
    """Return recorded search arguments by their flags, or None if the user has to name them again.

    They count if they name one folder, in which the user has had configuration files before.
    """
    names = plain_search(search)
    return names if names is not None and trust.is_known_config_dir(names["--config-dir"]) else None


def plain_search(search: Sequence[Any]) -> dict[str, str] | None:
    """Return recorded search arguments by their flags, or None if they name more than one folder
    and a file in it."""
    names = dict(zip(search[::2], search[1::2], strict=False))
    words = [word for pair in names.items() for word in pair]
    folder = names.get("--config-dir")
    is_plain = words == list(search) and all(isinstance(word, str) for word in search)
    if not is_plain or not names.keys() <= {*_SEARCH_FLAGS} or folder is None:
        return None
    if not re.fullmatch(r"[\w-]+", names.get("--config-name", "config")):
        return None
    return names
