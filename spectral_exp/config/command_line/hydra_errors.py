"""One-line messages for errors of Hydra and OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.config.command_line.grammar import quoting_hint, syntax_problem
from spectral_exp.config.command_line.options import read_options
from spectral_exp.config.command_line.suggestions import Suggestions
from spectral_exp.core.errors import UserError

_ALREADY_THERE = re.compile(
    r"An item is already at '([^']*)'\. *Either remove \+ prefix: '(.*?)' *Or add a second"
)


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn errors of Hydra inside the `with` block into UserErrors of one line."""
    try:
        yield
    except HydraException as error:
        raise UserError(describe(error)) from error


def describe(error: Exception) -> str:
    """Return one line for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        suggestions = Suggestions((), read_options())
        return suggestions.describe_option(error.missing_cfg_file, error.options)
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
    # OmegaConf appends internal details in further lines.
    kept = [line.strip() for line in lines if "full_key" not in line and "object_type" not in line]
    return " ".join(line for line in kept if line)


def describe_yaml(error: yaml.YAMLError) -> str:
    """Return one line for a configuration file that is not YAML, with its place in the file."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}; the file must be YAML"
    return f"a configuration file is not YAML: {' '.join(str(error).split())}"


def describe_unreadable(error: OverrideParseException) -> str:
    """Return one line for an override that the grammar cannot read."""
    reason = describe(error)
    if "needs --multirun" in reason:
        return f"{error.override}: {reason}"
    if problem := syntax_problem(error.override):
        return f"{error.override}: {problem}"
    return f"{error.override}: {reason}{quoting_hint(error.override)}"
