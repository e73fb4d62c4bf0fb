"""Compose the jobs of a command line, so that mistakes are reported before Hydra runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line.hydra_errors import (
    describe,
    describe_unreadable,
)
from spectral_exp.config.command_line.options import read_options
from spectral_exp.config.command_line.suggestions import Suggestions
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.runs.overrides import setting_of

JOB_NAME = "train"
"""The name that Hydra gives to every job."""


@dataclass(frozen=True)
class Job:
    """One composed job.

    Args:
        config: plain, fully resolved configuration; "???" for a missing value.
        run_dir: the run directory, None if its name is not known yet.
        sweeps: whether a configuration file requests a sweep (`hydra.mode`).
        sweep_dir: the folder of the sweep that the job belongs to, if it belongs to one.
        has_plain_sweeper: whether Hydra's own sweeper is configured as it is by default.
    """

    config: dict[str, Any]
    run_dir: Path | None
    sweeps: bool
    sweep_dir: Path
    has_plain_sweeper: bool


class Composer:
    """Composes jobs with the configuration files of one command."""

    def __init__(self, config_name: str, config_dir: str | None = None) -> None:
        self.config_name = config_name
        self._config_dir = config_dir

    def suggestions(self) -> Suggestions:
        """Return what finds the settings that were meant, for the default configuration."""
        config, _ = _compose(self.config_name, [], None)
        return _suggest(config, self._config_dir)

    def split(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each job of a sweep.

        Raises:
            UserError: an override cannot be read, or is a continuous range.
        """
        return [list(job) for job in itertools.product(*map(_choices, self.parse(overrides)))]

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides, which may hold ranges; globs know the options of their group.

        Raises:
            UserError: an override cannot be read.
        """
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        try:
            return parser.parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise UserError(describe_unreadable(error)) from error
        except HydraException as error:
            raise UserError(describe(error)) from error

    def compose(self, overrides: Sequence[str], *, is_named: bool = False) -> Job:
        """Compose one job.

        Args:
            overrides: without sweeps.
            is_named: whether the overrides name the run directory.

        Raises:
            UserError: the overrides have mistakes, one line each.
        """
        config, mistakes = _compose(self.config_name, list(overrides), self._config_dir)
        if config is None or mistakes:
            raise UserError("\nerror: ".join(mistakes))
        return _job(config, is_named)

    def compose_all(self, jobs: Iterable[Sequence[str]], *, is_named: bool = False) -> list[Job]:
        """Compose several jobs. Raises one UserError with the mistakes of all of them."""
        problems: dict[str, None] = {}
        composed = []
        for overrides in jobs:
            try:
                composed.append(self.compose(overrides, is_named=is_named))
            except UserError as error:
                problems.update(dict.fromkeys(str(error).split("\nerror: ")))
        if problems:
            raise UserError("\nerror: ".join(problems))
        return composed


@contextmanager
def open_composer(config_name: str, config_dir: str | None) -> Iterator[Composer]:
    """Initialize Hydra and yield the composer of a command.

    Args:
        config_name: name of the primary configuration file.
        config_dir: a folder with further configuration files.
    """
    with hydra.initialize_config_dir(
        config_dir=str(CONF_DIR), job_name=JOB_NAME, version_base="1.3"
    ):
        if config_dir is not None:
            _add_to_search_path(Path(config_dir))
        yield Composer(config_name, config_dir)


def _add_to_search_path(folder: Path) -> None:
    """Add `folder` to the search path of the compose API, as Hydra does for `--config-dir`."""
    if not folder.is_dir():
        raise UserError(f"--config-dir={folder} must be an existing folder")
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    search_path = loader.get_search_path()
    # Hydra requires its own entry, of structured configurations, to be the last one.
    types = search_path.get_path().pop()
    search_path.append("command-line", f"file://{folder.resolve()}")
    search_path.get_path().append(types)
    loader.repository.initialize_sources(search_path)


def _choices(override: Override) -> list[str]:
    """Return one plain override for each value of a sweep."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line} is a continuous range, which has no list of values; name the "
            "values, separated by commas, or add search=tpe (or random, cmaes)"
        )
    is_added = override.is_add() or override.is_force_add()
    sign = "+" if is_added else "~" if override.is_delete() else ""
    key = override.get_key_element().lstrip("+~")
    return [f"{sign}{key}={value}" for value in override.sweep_string_iterator()]


def _compose(
    config_name: str, overrides: list[str], config_dir: str | None
) -> tuple[DictConfig | None, list[str]]:
    """Compose one job; return its configuration and mistakes.

    Unknown keys are removed one after the other, so that all of them are reported.
    """
    unknown: list[str] = []
    remaining, mistakes = _remove_misused_groups(overrides, config_dir)
    config: DictConfig | None = None
    while config is None:
        try:
            config = hydra.compose(config_name, remaining, return_hydra_config=True)
        except OverrideParseException as error:
            return None, [describe_unreadable(error)]
        except (MissingConfigException, yaml.YAMLError) as error:
            return None, [describe(error)]
        except ConfigCompositionException as error:
            match = re.match(r"Could not override '([^']+)'", str(error))
            key = match.group(1).split("@")[0] if match else ""
            found = [o for o in remaining if match and setting_of(o) == key]
            if not found:
                return None, [describe(error, remaining)]
            unknown.append(found[-1])
            remaining = [o for o in remaining if o not in found]
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            # A group whose option is not a text (training=null) raises a bare ValueError.
            given = " ".join(remaining)
            hint = "choose an option by its name (see --help)"
            return None, [f"{given}: {describe(error)}; {hint}"]
    mistakes += _describe_two_rates(config, remaining)
    added = _added_at_top(remaining, config_dir)
    if unknown or added:
        suggestions = _suggest(config, config_dir, without={_top(one) for one in added})
        mistakes += [_describe_unknown(override, suggestions) for override in unknown + added]
    return config, mistakes


def _describe_two_rates(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the mistake of setting `optimizer.lr` where `optimizer.learning_rate` replaces it."""
    optimizer = config.get("optimizer")
    if not isinstance(optimizer, DictConfig) or not {"lr", "learning_rate"} <= optimizer.keys():
        return []
    written = OmegaConf.to_container(optimizer, resolve=False)
    assert isinstance(written, dict)
    return [
        f"{one}: optimizer.learning_rate={written['learning_rate']} is set too, and replaces it; "
        f"write optimizer.learning_rate={one.partition('=')[2]}"
        for one in overrides
        if setting_of(one) == "optimizer.lr"
    ]


def _suggest(
    config: DictConfig | None, config_dir: str | None, without: Collection[str] = ()
) -> Suggestions:
    """Return the suggestions for a composed configuration, `without` some keys at the top."""
    names = [] if config is None else _dotted_names(OmegaConf.to_container(config, resolve=False))
    known = [name for name in names if _top(name) not in without]
    return Suggestions(known, read_options(config_dir))


def _remove_misused_groups(
    overrides: list[str], config_dir: str | None
) -> tuple[list[str], list[str]]:
    """Return the overrides without those like `model.attention=phasor`, and their mistakes."""
    suggestions = Suggestions((), read_options(config_dir))
    kept: list[str] = []
    mistakes: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        mistake = suggestions.describe_group_as_setting(setting_of(key), value)
        (mistakes if mistake else kept).append(mistake or override)
    return kept, mistakes


def _added_at_top(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Return the overrides that add a key at the top, where only known ones may be: `+sed=3`."""
    options = read_options(config_dir)
    known = options.groups.keys() | options.settings.keys()
    return [one for one in overrides if one.startswith("+") and _top(one) not in known]


def _top(override: str) -> str:
    """Return the first part of the name of a setting or group."""
    return re.split(r"[./]", setting_of(override))[0]


def _describe_unknown(override: str, suggestions: Suggestions) -> str:
    key, sign, value = override.partition("=")
    group = setting_of(key)
    if suggestions.options.groups.get(group):
        return f"{override}: {group} is added, not overridden; write +{override}"
    return suggestions.describe_key(group, value if sign else None)


def _dotted_names(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [] if prefix.endswith(("_target_", "_partial_")) else [prefix]
    start = f"{prefix}." if prefix else ""
    below = [name for key, value in node.items() for name in _dotted_names(value, f"{start}{key}")]
    return [prefix, *below] if prefix else below


def _job(config: DictConfig, is_named: bool) -> Job:
    if config.hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true must be false: paths such as data.path and outputs are relative "
            "to the folder where the command is given"
        )
    is_sweep = config.hydra.mode == RunMode.MULTIRUN
    try:
        keys = [str(key) for key in config if key != "hydra"]
        plain = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
        assert isinstance(plain, dict)
        is_known = is_named or (plain.get("experiment_id") is not None and not is_sweep)
        run_dir = Path(str(config.hydra.run.dir)) if is_known else None
        sweep_dir = Path(str(config.hydra.sweep.dir))
        place = Path.cwd() / str(config.hydra.sweep.dir if is_sweep else config.hydra.run.dir)
    except OmegaConfBaseException as error:
        raise UserError(describe(error)) from error
    if "${" in str(place):
        raise UserError(
            f"the run directory {place} must not hold ${{ in its path, which Hydra would replace"
        )
    sweeper = config.hydra.sweeper
    is_plain = str(sweeper.get("_target_")).endswith(".BasicSweeper") and not any(
        sweeper.get(name) for name in ("params", "max_batch_size")
    )
    named = {str(key): value for key, value in plain.items()}
    return Job(named, run_dir, is_sweep, sweep_dir, is_plain)
