"""The flags and overrides of one call of the training command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from spectral_exp.config.command_line.grammar import (
    is_readable,
    parse,
    quote_text_setting,
    text_of,
)
from spectral_exp.config.command_line.jobs import Job, open_composer
from spectral_exp.config.command_line.recorded import arguments_to_resume
from spectral_exp.config.command_line.suggestions import has_unknown_arguments, is_flag
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.ids import generate_experiment_id
from spectral_exp.runs.overrides import quote, setting_of
from spectral_exp.runs.parentage import SETTING, split_address

_INFORMING_FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
    "--shell-completion", "-sc",
)  # fmt: skip
# Hydra does one of these at a time.
_MODES = {
    "--run": "--run", "-r": "--run", "--multirun": "--multirun", "-m": "--multirun",
    "--cfg": "--cfg", "-c": "--cfg", "--info": "--info", "-i": "--info",
    "--shell-completion": "--shell-completion", "-sc": "--shell-completion",
}  # fmt: skip
SWEEP_SETTINGS = ("sweep", "study")
"""Settings that make a command line a sweep, also without `--multirun`."""

# Without a value these would silently mean another run or folder.
_NEED_VALUE = (
    "resume", "experiment_id", "outputs", "sweep", "study", "init_from", "hydra.run.dir",
)  # fmt: skip
_FLAGS_WITH_VALUE = ("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp")


@dataclass(frozen=True)
class CommandLine:
    """Flags and overrides, including the recorded overrides of a run to continue.

    Attributes:
        flags: flags for Hydra's own parser, with their values.
        overrides: in the order in which they apply.
        multirun: whether the command line is a sweep (`--multirun`, `sweep=`, `study=`).
        config_name: name of the primary configuration file.
        config_dir: a folder with further configuration files.
        informs_only: whether the command line prints help or the configuration instead of training.
    """

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool
    config_name: str
    config_dir: str | None
    informs_only: bool

    @property
    def arguments(self) -> list[str]:
        """The arguments for Hydra's own parser."""
        return [*self.flags, *self.overrides]

    @classmethod
    def parse(cls, arguments: list[str]) -> CommandLine:
        """Separate flags from overrides, and read the overrides of the run that `resume=` names."""
        informs_only = any(a.split("=")[0] in _INFORMING_FLAGS for a in arguments)
        if has_unknown_arguments(arguments):
            known = _parse_flags([a for a in arguments if is_flag(a) or not a.startswith("-")])
            with open_composer(known.config_name, known.config_dir) as composer:
                problems = composer.suggestions().check_arguments(arguments)
            raise UserError("\nerror: ".join(problems))
        _parse_flags(arguments)
        _refuse_flags(arguments)
        # Hydra itself prints help and the configuration, so its arguments stay unchanged.
        flags, overrides = (arguments, []) if informs_only else _split(arguments)
        if any(flag.partition("=")[0] in ("--config-path", "-cp") for flag in flags):
            raise UserError(
                "--config-path would replace the whole configuration; add your own files with "
                "--config-dir"
            )
        for override in overrides:
            if not is_readable(override):
                raise UserError(
                    f"{printable(override, 60)} is too long or nested too deeply; put such a value "
                    "into a configuration file (--config-dir)"
                )
        _refuse_empty(overrides)
        multirun = requests_sweep(arguments)
        overrides = [quote_text_setting(override, multirun) for override in overrides]
        overrides = _with_fetched_starts(overrides)
        overrides, found = _with_recorded_overrides(overrides, flags, multirun)
        located = _parse_flags([*flags, *found])
        return cls(
            flags=(*flags, *found),
            overrides=tuple(overrides),
            multirun=multirun,
            config_name=located.config_name,
            config_dir=located.config_dir,
            informs_only=informs_only,
        )

    def compose(self) -> list[Job]:
        """Compose every job. Raises one UserError with all mistakes."""
        with open_composer(self.config_name, self.config_dir) as composer:
            is_named = not self.multirun and "hydra.run.dir" in map(setting_of, self.overrides)
            jobs = composer.split(self.overrides) if self.multirun else [list(self.overrides)]
            return composer.compose_all(jobs, is_named=is_named)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CommandLine:
        """Return the command line with the fields that `to_json` returned."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)

    def with_run_dir(self, first: Job) -> CommandLine:
        """Return the command line with an experiment id that is unique on this machine."""
        if first.config.get("experiment_id") is not None:
            return self
        if first.run_dir is not None:
            experiment_id = first.run_dir.name
        else:
            parent = Path(str(first.config["outputs"]))
            experiment_id = generate_experiment_id(str(first.config["name"]), parent=parent)
        return replace(self, overrides=(*self.overrides, f"experiment_id={quote(experiment_id)}"))


def _parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the flags as Hydra reads them. Raises a UserError for a wrong or missing value."""
    parser = get_args_parser()
    parser.exit_on_error = False
    parser.set_defaults(config_name="config")
    try:
        return parser.parse_known_args(list(arguments))[0]
    except argparse.ArgumentError as error:
        choices = next(
            one.choices
            for one in parser._actions
            if "/".join(one.option_strings) == error.argument_name
        )
        reason = error.message.partition(" (choose from")[0]
        hint = f"; choose from {', '.join(choices)}" if choices else ""
        raise UserError(f"{error.argument_name}: {reason}{hint}") from error


def _refuse_flags(arguments: Sequence[str]) -> None:
    """Raise a UserError for flags that Hydra does not take together."""
    names = [argument.partition("=")[0] for argument in arguments]
    modes = list(dict.fromkeys(_MODES[name] for name in names if name in _MODES))
    details = {"--resolve", "--package", "-p"}.intersection(names)
    if details and not {"--help", "-h"}.intersection(names) and "--cfg" not in modes:
        raise UserError(f"{min(details)} says what --cfg prints; add --cfg job")
    printing = next((mode for mode in modes if mode in ("--cfg", "--info")), None)
    study = next((a for a in arguments if setting_of(a) == "study" and _names_sweep(a)), None)
    if printing is not None and (study is not None or "--multirun" in modes):
        raise UserError(
            f"{printing} shows the settings of one run, and {study or '--multirun'} requests a "
            f"sweep of runs; give {printing} the settings of one of them"
        )
    if len(modes) > 1 and not set(modes) <= {"--run", "--multirun"}:
        raise UserError(f"{' and '.join(modes)} exclude each other; give one of them")


def _refuse_empty(overrides: Sequence[str]) -> None:
    """Raise a UserError for a place without a name, as an unset variable of a shell leaves it."""
    for override in overrides:
        key, sign, value = override.partition("=")
        if setting_of(key) in _NEED_VALUE and sign and value in ("", "''", '""'):
            raise UserError(
                f"{override} has no value; is a variable of the shell not set? Give a value, or "
                f"leave {setting_of(key)} out"
            )


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags, each followed by its value, and the overrides, both in their order."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in _FLAGS_WITH_VALUE:
            flags += [argument, next(rest, "")]
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return flags, overrides


def requests_sweep(arguments: Sequence[str]) -> bool:
    """Return whether a command line is a sweep: by `--multirun`, `sweep=NAME` or `study=NAME`."""
    return _find_sweep_request(arguments) is not None


def _find_sweep_request(arguments: Sequence[str]) -> str | None:
    """Return the first argument that requests a sweep, or None."""
    flags = ("-m", "--multirun", "hydra.mode=MULTIRUN")
    return next((one for one in arguments if one in flags or _names_sweep(one)), None)


def _names_sweep(override: str) -> bool:
    key, sign, value = override.partition("=")
    return setting_of(key) in SWEEP_SETTINGS and bool(sign) and value not in ("", "null")


def _with_recorded_overrides(
    overrides: list[str], flags: list[str], multirun: bool
) -> tuple[list[str], list[str]]:
    """Return the recorded overrides of the run that `resume=` names, followed by `overrides`, which
    win, and its recorded flags.
    """
    given = [o for o in overrides if setting_of(o) == "resume" and "=" in o]
    resume = text_of(given[-1]) if given else ""
    if not resume:
        return overrides, []
    if multirun:
        requested = _find_sweep_request([*overrides, *flags])
        raise UserError(
            f"resume={resume} continues one run and cannot be part of a sweep; leave out "
            f"{requested}, or continue a sweep by its own command with sweep=<its name>"
        )
    source = resume
    if "://" in resume:
        from spectral_exp.monitoring.backup.restore import restore

        outputs = _outputs(overrides)
        print(f"fetching the backup {resume} into {outputs}", file=sys.stderr)
        resume = str(restore(resume, outputs))
        overrides = [o for o in overrides if setting_of(o) != "resume"]
        overrides += [f"resume={quote(resume)}"]
    return arguments_to_resume(resume, overrides, flags, source)


def _with_fetched_starts(overrides: list[str]) -> list[str]:
    """Return `overrides` with the runs whose backups `init_from` names, fetched to this machine."""

    def fetch(text: str) -> str:
        url, which = split_address(text)
        if "://" not in url:
            return text
        from spectral_exp.monitoring.backup.restore import restore

        outputs = _outputs(overrides)
        print(f"fetching the backup {url} into {outputs}", file=sys.stderr)
        run = str(restore(url, outputs, SETTING))
        return run if which is None else f"{run}@{which}"

    fetched = []
    for override in overrides:
        key, _, value = override.partition("=")
        if setting_of(override) == SETTING and "://" in value:
            parsed = parse(override)
            values = parsed.sweep_string_iterator() if parsed.is_sweep_override() else [value]
            texts = [text_of(f"{key}={one}") for one in values]
            override = f"{key}={','.join(quote(fetch(text)) for text in texts)}"
        fetched.append(override)
    return fetched


def _outputs(overrides: list[str]) -> Path:
    """Return the value of the setting `outputs`: from the command line, or the default."""
    given = [text_of(o) for o in overrides if setting_of(o) == "outputs" and "=" in o]
    return Path(given[-1] if given else OmegaConf.load(CONF_DIR / "config.yaml").outputs)
