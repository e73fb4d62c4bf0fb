"""Record the command line of a run, and read it back for `resume=` and `reproduce`.

A record may come from a stranger. So only overrides with plain values and options are used: none
that reads the environment, changes Hydra, loads a file from elsewhere or sends data away. The user
may give such an override again on the command line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from spectral_exp.config import trust
from spectral_exp.config.command_line.grammar import (
    MAX_TEXT,
    format_value,
    is_interpolated,
    is_readable,
    parse,
    strings_in,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import HYDRA_OVERRIDES_NAME, RunPaths
from spectral_exp.runs.overrides import quote, setting_of
from spectral_exp.runs.record import read_intact_config

# These name the place of a run, not its experiment, so the recorded values are never used.
_PLACE_KEYS = ("experiment_id", "resume", "outputs")
_BACKUP_KEYS = ("backup_url", "monitoring.backup.url")
_OPTION = re.compile(r"[\w-][\w.-]*")
_SEARCH_FLAGS = ("--config-dir", "--config-name")
_MAX_YAML_BYTES = 1 << 20
# A YAML list of texts, as Hydra writes it: without nesting and without aliases, by which a short
# file could expand to an endless list.
_FLAT_LIST = re.compile(r"\[\]\n?|(?:(?:- ['\"\w~+]|  ).*(?:\n|$)|\n)*")
_SEARCH_PATH = "hydra.searchpath"


# --- writing a record -----------------------------------------------------------------------------


def resolve_overrides(hydra: Any, config: Mapping[str, Any]) -> list[str]:
    """Return the overrides of the running job with interpolations replaced by their values.

    Args:
        hydra: the `hydra` node of the job.
        config: the resolved configuration of the job.
    """
    raw = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(raw, list)
    choices = {str(key): value for key, value in hydra.runtime.choices.items()}
    return [_resolve(str(override), config, choices) for override in raw]


def _resolve(override: str, config: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    if "${" not in override or not is_interpolated(parse(override).value()):
        return override
    key = override.partition("=")[0]
    name = setting_of(override)
    if name in choices:
        return f"{key}={format_value(choices[name])}"
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return override  # a later override has removed it
        value = value[part]
    return f"{key}={format_value(value)}"


def search_arguments(hydra: Any) -> list[str]:
    """Return the arguments of the running job that locate further configuration files."""
    arguments = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            arguments += ["--config-dir", str(Path(source.path).absolute())]
    if hydra.job.config_name not in (None, "config"):
        arguments += ["--config-name", str(hydra.job.config_name)]
    given = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    assert isinstance(given, list)
    return [
        *arguments,
        *(str(override) for override in given if setting_of(str(override)) == _SEARCH_PATH),
    ]


# --- reading a record -----------------------------------------------------------------------------


def arguments_to_resume(
    resume: str, overrides: Sequence[str], flags: Sequence[str], source: str
) -> list[str]:
    """Return the overrides that continue a run: its recorded ones, then `overrides`, which win.

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
    record = _record(paths, resume)
    _refuse_forgotten_search(record, overrides, flags, resume)
    given = {setting_of(override) for override in overrides}
    files = [
        key
        for key in trust.PATH_SETTINGS
        if trust.has_fingerprint(key, record.get("dataset") or {})
    ]
    absolute = _absolute_paths(record, [key for key in files if key not in given])
    replaced = {*given, *absolute, *_PLACE_KEYS}
    recorded = _require_overrides(record.get("overrides"), resume)
    kept = [override for override in recorded if setting_of(override) not in replaced]
    _refuse_secrets(kept)
    kept = trusted_overrides(kept, f"resume={resume}", files, source=source)
    moved = [f"{key}={quote(path)}" for key, path in absolute.items()]
    place = [
        f"experiment_id={quote(paths.root.resolve().name)}",
        f"hydra.run.dir={quote(resume)}",
    ]
    return [*kept, *moved, *overrides, *place]


def trusted_overrides(
    overrides: Iterable[str], run: str, files: Collection[str], source: str | None = None
) -> list[str]:
    """Return the recorded `overrides` without web addresses, which fall back to the defaults.

    Args:
        overrides: as recorded.
        run: the name of the run in messages.
        files: settings that may name a file, because a fingerprint of it was recorded.
        source: the run as the user named it; a recorded backup continues if this is a URL below
            the address of the backup.

    Raises:
        UserError: an override has an effect that needs the consent of the user.
    """
    kept = []
    for override in overrides:
        try:
            if not is_readable(override):
                raise UserError
            parsed = parse(override)
        except UserError:
            raise _needs_consent(override, run, "cannot be read") from None
        if reason := _reason_for_consent(parsed, files):
            raise _needs_consent(override, run, reason)
        key = str(parsed.key_or_group)
        if key in _BACKUP_KEYS and parsed.value() is not None:
            url = str(parsed.value())
            if not trust.may_back_up(url, source):
                reason = "sends backups to an address that you have not named on this machine"
                raise _needs_consent(override, run, reason, f"{key}=null")
        elif key.endswith(".url"):
            continue
        kept.append(override)
    return kept


def _needs_consent(override: str, run: str, reason: str, instead: str = "") -> UserError:
    text = printable(override, MAX_TEXT if is_readable(override) else 60)
    other = f", or {instead} to switch it off" if instead else ""
    return UserError(
        f"{run}: its record holds {text}, which {reason}, and is not trusted with that; if you "
        f"trust the run, give it again on the command line: {shlex.quote(text)}{other}"
    )


def _reason_for_consent(parsed: Override, files: Collection[str]) -> str | None:
    """Return why an override may not come from a record, or None if it may."""
    key, package = str(parsed.key_or_group), str(parsed.package or "")
    value = parsed.value()
    changes_hydra = re.split(r"[./]", key)[0] == "hydra" or re.split(r"[.]", package)[0] == "hydra"
    if changes_hydra or not re.fullmatch(r"([a-zA-Z][\w.]*)?", package, flags=re.ASCII):
        return "changes Hydra"
    if parsed.is_sweep_override():
        return "is a sweep"
    if is_interpolated(value):
        return "is computed from something else"
    is_group = "/" in key or ("." not in key and key not in _top_settings())
    if is_group and not isinstance(value, Mapping):
        chosen = list(strings_in(value))
        if not all(_OPTION.fullmatch(option) and ".." not in option for option in chosen):
            return "names a configuration file by its path"
    names = set(strings_in(value)) if isinstance(value, Mapping | list) else set()
    if names & {"url", "backup_url"}:
        return "holds an address"
    named = {key} & set(trust.PATH_SETTINGS) | ({f"{key}.path"} if "path" in names else set())
    if named <= set(files) or value is None:
        return None
    return "names a file without a recorded fingerprint"


@cache
def _top_settings() -> frozenset[str]:
    keys = frozenset(str(key) for key in OmegaConf.load(CONF_DIR / "config.yaml"))
    return keys - {"defaults", "hydra"}


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


def _refuse_forgotten_search(
    record: Mapping[str, Any], overrides: Sequence[str], flags: Sequence[str], resume: str
) -> None:
    """Raise a UserError if the run used further configuration files that this command omits."""
    attempts = record.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    search = last.get("search") if isinstance(last, Mapping) else None
    if not isinstance(search, list) or not search:
        return
    given = {flag.partition("=")[0] for flag in flags} | {
        setting_of(override) for override in overrides
    }
    aliases = {"--config-dir": "-cd", "--config-name": "-cn"}
    wanted = [
        flag for flag in _SEARCH_FLAGS if flag in search and not given & {flag, aliases[flag]}
    ]
    if _SEARCH_PATH not in given and any(setting_of(str(item)) == _SEARCH_PATH for item in search):
        wanted.append(_SEARCH_PATH)
    if wanted:
        words = [printable(word, MAX_TEXT) for word in search]
        command = shlex.join(
            ["python", "-m", "spectral_exp.train", *words, f"resume={quote(resume)}"]
        )
        raise UserError(
            f"resume={resume} was made with configuration files from elsewhere "
            f"({', '.join(wanted)}), which are not taken from a record; if you trust the run, name "
            f"them again: {command}"
        )
