"""What the record of a running job holds of its command line.

These are its overrides, its search arguments, and the settings that differ from the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line.grammar import format_value, is_interpolated, parse
from spectral_exp.core.redact import redact
from spectral_exp.runs.differences import are_equal
from spectral_exp.runs.overrides import PLACE, flatten, is_among, setting_of

SEARCH_PATH = "hydra.searchpath"


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
        *(str(override) for override in given if setting_of(str(override)) == SEARCH_PATH),
    ]


def list_changed_settings(hydra: Any, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the running job that differ from the defaults, by name.

    The defaults are what the primary configuration file gives without overrides. Each setting has
    its `default`, or nothing if the defaults do not have that setting. The result is empty if the
    defaults cannot be composed.

    Args:
        hydra: the `hydra` node of the job.
        config: the resolved configuration of the job.
    """
    try:
        defaults = OmegaConf.to_container(compose(hydra.job.config_name, []), resolve=True)
    except (HydraException, OmegaConfBaseException):
        return {}
    values, shown = dict(flatten(defaults)), dict(flatten(redact(defaults)))
    return {
        name: {"default": shown.get(name)} if name in values else {}
        for name, value in flatten(config)
        if not is_among(name, PLACE) and not (name in values and are_equal(values[name], value))
    }
