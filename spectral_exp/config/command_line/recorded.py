"""What a run recorded of its command line, for `resume=`, `reproduce` and the next run.

A record may come from a stranger. So only plain values and choices are taken from it: nothing that
reads the environment, changes Hydra, loads a file from elsewhere or sends data away. The person at
the keyboard may give any of that again on the command line.
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
    is_interpolated,
    is_readable,
    parse,
    strings_in,
    written,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import HYDRA_OVERRIDES_NAME, RunPaths
from spectral_exp.runs.overrides import quoted, setting_of
from spectral_exp.runs.record import read_intact_config

# Where a run lies is no property of the experiment: these never come back from a recorded command
# line.
_PLACE_KEYS = ("experiment_id", "resume", "outputs")
_BACKUP_KEYS = ("backup_url", "monitoring.backup.url")
_OPTION = re.compile(r"[\w-][\w.-]*")
_SEARCH_FLAGS = ("--config-dir", "--config-name")
_MAX_YAML_BYTES = 1 << 20
# A list of texts, as Hydra writes it: nothing nested, no reference by which a short file becomes an
# endless list.
_IS_FLAT = re.compile(r"\[\]\n?|(?:(?:- ['\"\w~+]|  ).*(?:\n|$)|\n)*")
_SEARCH_PATH = "hydra.searchpath"


# --- writing a record -----------------------------------------------------------------------------


def recordable(hydra: Any, config: Mapping[str, Any]) -> list[str]:
    """The overrides of the job that runs now, such that they mean the same later: interpolations
    become their values.

    Args:
        hydra: the job's `hydra` node.
        config: its resolved configuration.
    """
    raw = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(raw, list)
    choices = {str(key): value for key, value in hydra.runtime.choices.items()}
    return [_with_values(str(override), config, choices) for override in raw]


def _with_values(override: str, config: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    if "${" not in override or not is_interpolated(parse(override).value()):
        return override
    key = override.partition("=")[0]
    name = setting_of(override)
    if name in choices:
        return f"{key}={written(choices[name])}"
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return override  # a later override has removed it
        value = value[part]
    return f"{key}={written(value)}"


def search_arguments(hydra: Any) -> list[str]:
    """The arguments of the job that runs now that say where configuration files are looked for."""
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


# --- reading one ----------------------------------------------------------------------------------


def arguments_to_resume(
    resume: str, overrides: Sequence[str], flags: Sequence[str], source: str
) -> list[str]:
    """The overrides that continue the run in the folder `resume`: its recorded ones first, so that
    `overrides` win.

    Args:
        resume: the run directory.
        overrides: those on the command line.
        flags: the flags on the command line.
        source: what the user named, which is a URL if the run was fetched from its backup.

    Raises:
        UserError: there is no run, or its record asks for what only the command line may ask for.
    """
    paths = RunPaths(Path(resume))
    if not paths.root.is_dir():
        raise UserError(
            f"resume={resume} is not a directory; name the run to continue, for example outputs/<run>, or the URL of "
            "its backup, for example s3://bucket/folder/<run>"
        )
    record = _record(paths, resume)
    _refuse_forgotten_search(record, overrides, flags, resume)
    given = {setting_of(override) for override in overrides}
    files = [
        key
        for key in trust.PATH_SETTINGS
        if trust.has_fingerprint(key, record.get("dataset") or {})
    ]
    paths_then = _paths_then(record, [key for key in files if key not in given])
    kept = [
        o
        for o in _texts(record.get("overrides"), resume)
        if setting_of(o) not in {*given, *_PLACE_KEYS}
    ]
    kept = [override for override in kept if setting_of(override) not in paths_then]
    _refuse_secrets(kept)
    kept = trusted_overrides(kept, f"resume={resume}", files, backups=source)
    moved = [f"{key}={quoted(path)}" for key, path in paths_then.items()]
    place = [
        f"experiment_id={quoted(paths.root.resolve().name)}",
        f"hydra.run.dir={quoted(resume)}",
    ]
    return [*kept, *moved, *overrides, *place]


def trusted_overrides(
    overrides: Iterable[str], run: str, files: Collection[str], backups: str | None = None
) -> list[str]:
    """Those of the recorded `overrides` that a record may ask for.

    Addresses of other machines are left out: the defaults of this package take their place.

    Args:
        overrides: as recorded.
        run: how messages name the run.
        files: settings that may name a file, which is known by its fingerprint before it is used.
        backups: what the user named to continue the run; recorded backups may go on if it lies
            below their place.

    Raises:
        UserError: one of the others has an effect that only the person at the keyboard may ask for.
    """
    kept = []
    for override in overrides:
        try:
            if not is_readable(override):
                raise UserError
            parsed = parse(override)
        except UserError:
            raise _needs_consent(override, run, "cannot be read") from None
        if reason := _reason_to_ask(parsed, files):
            raise _needs_consent(override, run, reason)
        key = str(parsed.key_or_group)
        if key in _BACKUP_KEYS and parsed.value() is not None:
            url = str(parsed.value())
            if not trust.may_back_up(url, backups):
                raise _needs_consent(
                    override,
                    run,
                    "sends backups to a place that nobody has named on this machine",
                    f"{key}=null",
                )
        elif key.endswith(".url"):
            continue
        kept.append(override)
    return kept


def _needs_consent(override: str, run: str, reason: str, instead: str = "") -> UserError:
    text = printable(override, MAX_TEXT if is_readable(override) else 60)
    other = f", or {instead} to do without" if instead else ""
    return UserError(
        f"{run}: its record holds {text}, which {reason}, and is not trusted with that; if you know the run, "
        f"give it again on the command line: {shlex.quote(text)}{other}"
    )


def _reason_to_ask(parsed: Override, files: Collection[str]) -> str | None:
    """Why an override may not come from a record; None if it may."""
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
    return (
        None
        if named <= set(files) or value is None
        else "names a file that no fingerprint tells from others"
    )


@cache
def _top_settings() -> frozenset[str]:
    return frozenset(str(key) for key in OmegaConf.load(CONF_DIR / "config.yaml")) - {
        "defaults",
        "hydra",
    }


def _record(paths: RunPaths, resume: str) -> dict[str, Any]:
    """The record of a run, or Hydra's own of its overrides where ours is missing or damaged."""
    try:
        return dict(read_intact_config(paths.config_file))
    except UserError as error:
        hydras = paths.hydra / HYDRA_OVERRIDES_NAME
        if hydras.is_file() and paths.checkpoint_steps():
            return {"overrides": _hydras_overrides(hydras)}
        if paths.config_file.is_file():
            raise
        message = f"resume={resume} holds no {paths.config_file.name}, so it is no run; name the run itself"
        raise UserError(message) from error


def _hydras_overrides(file: Path) -> Any:
    try:
        text = read_regular(file, _MAX_YAML_BYTES).decode("utf-8")
        if not _IS_FLAT.fullmatch(text):
            raise ValueError("it is not a list of texts")
        return yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _texts(value: Any, resume: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"the record in {resume} is damaged: its overrides are not a list of texts")
    for item in value:
        if not is_readable(item):
            raise UserError(
                f"the record in {resume} is damaged: no override is like {printable(item, 60)}"
            )
    return value


def _refuse_secrets(overrides: Sequence[str]) -> None:
    from spectral_exp.core.redact import (
        REDACTED,
    )  # here: it brings numpy, which --help can do without

    secret = [setting_of(override) for override in overrides if REDACTED in override]
    if secret:
        raise UserError(
            f"{', '.join(secret)} was given on the command line and is a secret, which no file keeps; give it again"
        )


def _paths_then(record: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Those of the settings `keys` whose relative path the run found where it was started -> that
    path, absolute."""
    config, folder = record.get("config"), trust.working_directory(record)
    if not isinstance(config, Mapping) or folder is None:
        return {}
    found = {key: trust.absolute_path(config, key, folder) for key in keys}
    return {key: path for key, path in found.items() if path is not None}


def _refuse_forgotten_search(
    record: Mapping[str, Any], overrides: Sequence[str], flags: Sequence[str], resume: str
) -> None:
    """Raise a UserError if the run was made with configuration files from elsewhere and this
    command names none."""
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
            ["python", "-m", "spectral_exp.train", *words, f"resume={quoted(resume)}"]
        )
        raise UserError(
            f"resume={resume} was made with configuration files from elsewhere ({', '.join(wanted)}), which are not "
            f"taken from a record; if you know the run, name them again: {command}"
        )
