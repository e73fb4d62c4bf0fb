"""The command line as Hydra will see it: which jobs it means, whether they compose, and where they will run.

Hydra creates run directories before it calls any of our code and answers a misspelt key with advice that lets the typo
pass (`+key`). So every job is composed here first, through Hydra's public compose API, and mistakes are answered with
the nearest valid name while nothing exists yet.
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line.grammar import is_readable, literal, quoting_hint, text_of
from spectral_exp.config.command_line.recorded import (
    arguments_to_resume,
    recordable,
    search_arguments,
    trusted_overrides,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError, nearest
from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.ids import generate_experiment_id
from spectral_exp.runs.overrides import quoted, setting_of

__all__ = [
    "CommandLine",
    "Job",
    "describe",
    "help_text",
    "quoted",
    "recordable",
    "search_arguments",
    "trusted_overrides",
]

_INFORMING = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


@dataclass(frozen=True)
class Job:
    """One composed job.

    Args:
        config: plain, fully resolved values; "???" where a value is missing.
        run_dir: the directory it will run in, None while that is still to be named.
        sweeps: whether a configuration file makes a sweep of it (`hydra.mode`).
    """

    config: dict[str, Any]
    run_dir: Path | None
    sweeps: bool


@dataclass(frozen=True)
class CommandLine:
    """Flags and overrides of one call of the training command."""

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool
    config_name: str
    config_dir: str | None
    informs_only: bool

    @property
    def arguments(self) -> list[str]:
        """What Hydra's own parser shall read."""
        return [*self.flags, *self.overrides]

    @classmethod
    def parse(cls, arguments: list[str]) -> CommandLine:
        """Tell flags from overrides; a `resume=RUN` brings in the overrides recorded there."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--multirun", "-m", action="store_true")
        parser.add_argument("--config-name", "-cn", default="config")
        parser.add_argument("--config-dir", "-cd")
        known, _ = parser.parse_known_args(arguments)
        informs_only = any(a.split("=")[0] in _INFORMING for a in arguments)
        # Hydra alone answers a question about the configuration: its arguments go through untouched.
        flags, overrides = (arguments, []) if informs_only else _split(arguments)
        if any(flag.partition("=")[0] in ("--config-path", "-cp") for flag in flags):
            raise UserError("--config-path would replace the whole configuration; add files of yours with --config-dir")
        for override in overrides:
            if not is_readable(override):
                raise UserError(f"{printable(override, 60)} is too long, or nested too deeply, for a setting")
        multirun = known.multirun or "hydra.mode=MULTIRUN" in overrides
        overrides = [literal(override, multirun) for override in overrides]
        overrides = _with_recorded_overrides(overrides, flags, multirun)
        return cls(
            flags=tuple(flags),
            overrides=tuple(overrides),
            multirun=multirun,
            config_name=known.config_name,
            config_dir=known.config_dir,
            informs_only=informs_only,
        )

    def compose(self) -> list[Job]:
        """Compose every job that this command line means; all mistakes are raised together as one UserError."""
        with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            if self.config_dir is not None:
                _look_in(Path(self.config_dir))
            problems: dict[str, None] = {}
            composed = []
            for job in self._jobs():
                config, mistakes = _compose(self.config_name, job)
                problems.update(dict.fromkeys(mistakes))
                if config is not None and not mistakes:
                    composed.append(_job(config, named="hydra.run.dir" in self._keys() and not self.multirun))
        if problems:
            raise UserError("\nerror: ".join(problems))
        return composed

    def with_run_dir(self, first: Job) -> CommandLine:
        """The command line with the experiment id that names its run directory, unique on this machine."""
        if first.sweeps and not self.multirun:
            return replace(self, multirun=True).with_run_dir(first)
        if first.config.get("experiment_id") is not None:
            return self
        if first.run_dir is not None:
            experiment_id = first.run_dir.name
        else:
            name = "sweep" if self.multirun else str(first.config["name"])
            experiment_id = generate_experiment_id(name, parent=Path(str(first.config["outputs"])))
        return replace(self, overrides=(*self.overrides, f"experiment_id={quoted(experiment_id)}"))

    def _keys(self) -> set[str]:
        return {setting_of(override) for override in self.overrides}

    def _jobs(self) -> list[list[str]]:
        """The override lists of the single jobs of a sweep, or the one of a plain run."""
        if not self.multirun:
            return [list(self.overrides)]
        try:
            overrides = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(
                list(self.overrides)
            )
        except OverrideParseException as error:
            raise UserError(_unreadable(error)) from error
        except HydraException as error:
            raise UserError(describe(error)) from error
        jobs: list[list[str]] = [[]]
        for override in overrides:
            choices = _choices(override)
            jobs = [[*job, choice] for job in jobs for choice in choices] if choices else jobs
        return jobs


def _look_in(folder: Path) -> None:
    """Add a folder to those in which the compose API finds files, as `--config-dir` does for Hydra's command line."""
    if not folder.is_dir():
        raise UserError(f"--config-dir={folder} must be an existing folder")
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    search_path = loader.get_search_path()
    # The last entry is that of Hydra's own types, which has to stay the last.
    types = search_path.get_path().pop()
    search_path.append("command-line", f"file://{folder.resolve()}")
    search_path.get_path().append(types)
    loader.repository.initialize_sources(search_path)


def help_text() -> str:
    """What `--help` prints, from the template in conf/hydra/help."""
    with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        template = hydra.compose("config", return_hydra_config=True).hydra.help.template
    # Hydra would fill it in likewise, but looks up the options of each group anew: that takes longer than all the rest.
    options = {group: sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")) for group in sorted(_groups())}
    choices = [f"{group}: {', '.join(names)}" for group, names in options.items() if names and _is_ours(group)]
    return string.Template(template).substitute(APP_CONFIG_GROUPS="".join(f"{line}\n" for line in choices))


def describe(error: Exception) -> str:
    """One line for an error of Hydra's or OmegaConf's."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        sign = "+" if group in ("experiment", "recipe") else ""
        choices = ", ".join(sorted(error.options))
        return f"{sign}{group}={choice} does not exist{nearest(choice, error.options)}; choose from {choices}"
    lines = str(error).splitlines()
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()
    if lines and lines[0].startswith("Ambiguous value for argument"):
        return f"{lines[0]}: several values make a sweep, which needs --multirun (-m); a list is written [a,b]"
    # OmegaConf appends internals below its sentence.
    kept = [line.strip() for line in lines if "full_key" not in line and "object_type" not in line]
    return " ".join(line for line in kept if line)


def _unreadable(error: OverrideParseException) -> str:
    """One line for an override that the grammar cannot read."""
    hint = "" if "needs --multirun" in describe(error) else quoting_hint(error.override)
    return f"{error.override}: {describe(error)}{hint}"


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags (with the value that follows some of them) and overrides, each in their order."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp"):
            flags += [argument, next(rest, "")]
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return flags, overrides


def _with_recorded_overrides(overrides: list[str], flags: list[str], multirun: bool) -> list[str]:
    """Put the overrides recorded in the run that `resume=` names before the given ones, which win."""
    given = [o for o in overrides if setting_of(o) == "resume" and "=" in o]
    resume = text_of(given[-1]) if given else ""
    if not resume:
        return overrides
    if multirun:
        raise UserError(
            f"resume={resume} continues one run and cannot be swept; leave out --multirun, or continue a "
            "sweep by its own command with hydra.sweep.dir=<its folder>"
        )
    named = resume
    if "://" in resume:
        from spectral_exp.monitoring.backup.restore import restore

        outputs = _outputs(overrides)
        print(f"fetching the backup {resume} into {outputs}", file=sys.stderr)
        resume = str(restore(resume, outputs))
        overrides = [o for o in overrides if setting_of(o) != "resume"] + [f"resume={quoted(resume)}"]
    return arguments_to_resume(resume, overrides, flags, named)


def _outputs(overrides: list[str]) -> Path:
    """The folder of the runs, as the command line gives it or by default."""
    given = [text_of(o) for o in overrides if setting_of(o) == "outputs" and "=" in o]
    return Path(given[-1] if given else OmegaConf.load(CONF_DIR / "config.yaml").outputs)


def _choices(override: Override) -> list[str]:
    """The override as one or several plain ones; none for a range that only a search algorithm can draw from."""
    sign = "+" if override.is_add() or override.is_force_add() else "~" if override.is_delete() else ""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        return []
    return [f"{sign}{override.get_key_element().lstrip('+~')}={value}" for value in override.sweep_string_iterator()]


def _compose(config_name: str, overrides: list[str]) -> tuple[DictConfig | None, list[str]]:
    """Compose one job; keys that do not exist are dropped one by one, so that all of them are told together."""
    mistakes: list[tuple[str, str]] = []
    remaining = list(overrides)
    config: DictConfig | None = None
    while config is None:
        try:
            config = hydra.compose(config_name, remaining, return_hydra_config=True)
        except OverrideParseException as error:
            return None, [_unreadable(error)]
        except MissingConfigException as error:
            return None, [describe(error)]
        except ConfigCompositionException as error:
            match = re.match(r"Could not override '([^']+)'", str(error))
            unknown = [o for o in remaining if match and setting_of(o) == match.group(1).split("@")[0]]
            if match is None or not unknown:
                return None, [describe(error)]
            mistakes.append((match.group(1), unknown[-1]))
            remaining = [o for o in remaining if o not in unknown]
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            # A group whose choice is no text (training=null) raises a bare ValueError.
            return None, [f"{' '.join(remaining)}: {describe(error)}; choose an option by its name (see --help)"]
    names = _dotted_names(OmegaConf.to_container(config, resolve=False)) + _groups()
    return config, [_unknown_key(key, override, names) for key, override in mistakes]


def _unknown_key(key: str, override: str, names: list[str]) -> str:
    group = key.split("@")[0]
    if (CONF_DIR / group).is_dir() and not list((CONF_DIR / group).glob("*.yaml")):
        below = sorted(path.name for path in (CONF_DIR / group).iterdir())
        return f"{override}: {group} has no options of its own; choose {', '.join(f'{group}/{b}=...' for b in below)}"
    if (CONF_DIR / group).is_dir():
        return f"{override}: {group} is added, not overridden; write +{override}"
    return f"{key} is not a setting{nearest(key, names)}; --cfg job shows all settings"


def _dotted_names(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [] if prefix.endswith(("_target_", "_partial_")) else [prefix]
    start = f"{prefix}." if prefix else ""
    below = [name for key, value in node.items() for name in _dotted_names(value, f"{start}{key}")]
    return [prefix, *below] if prefix else below


def _is_ours(group: str) -> bool:
    return group.split("/")[0] != "hydra"


def _groups() -> list[str]:
    return [p.relative_to(CONF_DIR).as_posix() for p in CONF_DIR.rglob("*") if p.is_dir()]


def _job(config: DictConfig, named: bool) -> Job:
    if config.hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true must be false: paths such as data.path and outputs are relative to the folder where "
            "the command is given"
        )
    try:
        plain = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]), resolve=True
        )
        run_dir = Path(str(config.hydra.run.dir)) if named else None
        folder = config.hydra.sweep.dir if config.hydra.mode == RunMode.MULTIRUN else config.hydra.run.dir
        place = Path.cwd() / str(folder)
    except OmegaConfBaseException as error:
        raise UserError(describe(error)) from error
    if "${" in str(place):
        raise UserError(f"the run directory {place} must not hold ${{ in its path, which Hydra would replace")
    assert isinstance(plain, dict)
    named_values = {str(key): value for key, value in plain.items()}
    return Job(config=named_values, run_dir=run_dir, sweeps=config.hydra.mode == RunMode.MULTIRUN)
