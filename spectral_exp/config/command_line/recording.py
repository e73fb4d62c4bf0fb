"""The overrides and search arguments of a running job, as its record holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spectral_exp.config.command_line.grammar import format_value, is_interpolated, parse
from spectral_exp.runs.overrides import setting_of

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
