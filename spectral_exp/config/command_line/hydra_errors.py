"""One-line messages for errors of Hydra and OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line.grammar import explain_unreadable
from spectral_exp.config.command_line.options import read_options
from spectral_exp.config.command_line.suggestions import Suggestions
from spectral_exp.core.errors import UserError, nearest
from spectral_exp.runs.overrides import setting_of

_ALREADY_THERE = re.compile(
    r"An item is already at '([^']*)'\. *Either remove \+ prefix: '(.*?)' *Or add a second"
)
_TWICE = re.compile(
    r"Multiple values for (\S+)\. To override|^(\S+) appears more than once in the final defaults"
)
_FILES_PLACE = re.compile(r"provider=(?:main|command-line), path=file://(.+)")


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn errors of Hydra inside the `with` block into UserErrors of one line."""
    try:
        yield
    except HydraException as error:
        raise UserError(describe(error)) from error


def describe(error: Exception, overrides: Sequence[str] = ()) -> str:
    """Return one line for an error of Hydra, OmegaConf or YAML.

    Args:
        error: the error.
        overrides: those that were composed, if they are known.
    """
    if isinstance(error, yaml.YAMLError):
        return _describe_yaml(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        if error.options:
            suggestions = Suggestions((), read_options())
            return suggestions.describe_option(error.missing_cfg_file, error.options)
        if str(error).startswith("Cannot find primary config"):
            return _describe_missing_primary(error.missing_cfg_file, str(error))
    lines = str(error).splitlines()
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines += str(error.__cause__).splitlines()
    if lines and lines[0].startswith("Ambiguous value for argument"):
        return (
            f"{lines[0]}: several values make a sweep, which needs --multirun (-m); a list is "
            "written [a,b]"
        )
    if found := _ALREADY_THERE.search(" ".join(lines)):
        name, written = found.groups()
        return f"+{written}: {name} is there already; write {written}"
    if found := _TWICE.search(" ".join(lines)):
        return _describe_repeated(found[1] or found[2], overrides)
    # OmegaConf appends internal details in further lines.
    kept = [line.strip() for line in lines if "full_key" not in line and "object_type" not in line]
    return " ".join(line for line in kept if line)


def _describe_yaml(error: yaml.YAMLError) -> str:
    """Return one line for a configuration file that is not YAML, with its place in the file."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}; the file must be YAML"
    return f"a configuration file is not YAML: {' '.join(str(error).split())}"


def _describe_missing_primary(name: str, message: str) -> str:
    """Return one line about a primary configuration file that is in none of the searched folders.

    Args:
        name: as given.
        message: of Hydra, which lists the folders.
    """
    folders = map(Path, _FILES_PLACE.findall(message))
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    return (
        f"--config-name={name} does not exist{nearest(name, known)}; choose from "
        f"{', '.join(known)}, or name the folder that holds your own file with --config-dir"
    )


def _describe_repeated(group: str, overrides: Sequence[str]) -> str:
    """Return one line about a group of which more than one option is chosen."""
    given = [override for override in overrides if setting_of(override) == group]
    if len(given) == 1:
        return f"{given[0]}: {group} is there already; write {given[0].lstrip('+')}"
    shown = f"{' '.join(given)}: " if given else ""
    return f"{shown}{group} is given twice; give one of them"


def describe_unreadable(error: OverrideParseException) -> str:
    """Return one line for an override that the grammar cannot read."""
    reason = describe(error)
    if "needs --multirun" in reason:
        return f"{error.override}: {reason}"
    return explain_unreadable(error.override, str(error))
