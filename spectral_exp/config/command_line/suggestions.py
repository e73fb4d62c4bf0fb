"""What was meant by an argument that is no setting, no option of a group or no flag."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectral_exp.config.command_line.options import Options
from spectral_exp.core.errors import close_names, names_with_last
from spectral_exp.core.wording import install

FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p",
    "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp",
    "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
"""The flags of Hydra; everything else on the command line is an override."""

_FLAGS_BEFORE_WORDS = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
"""Flags whose value may be the next argument."""

_EPOCHS = ("epoch", "epochs", "max_epochs", "n_epochs", "num_epochs", "num_train_epochs")

_LAUNCHERS = {
    "joblib": install("sweep"),
    "ray": "pip install hydra-ray-launcher",
    "rq": "pip install hydra-rq-launcher",
    "submitit_local": "pip install hydra-submitit-launcher",
    "submitit_slurm": "pip install hydra-submitit-launcher",
}
"""Launcher of Hydra that is a package of its own -> the command that installs it."""


@dataclass(frozen=True)
class Suggestions:
    """Finds what was meant in a configuration.

    Attributes:
        names: dotted names of the composed configuration, groups included.
        options: what the configuration files offer.
    """

    names: Sequence[str]
    options: Options

    def describe_key(self, key: str, value: str | None) -> str:
        """Return one line about a key that is not in the configuration.

        Args:
            key: as typed, without sign and package.
            value: as typed; None if there is none.
        """
        owners = self.options.settings.get(key)
        folder = key.rpartition(".")[0]
        siblings = [name for name in self.names if name.rpartition(".")[0] == folder]
        if owners and key not in self.names and not names_with_last(key, siblings):
            choices = " or ".join(self.options.choice(*owner) for owner in owners)
            return f"{key} belongs to {choices}; write {self._write(key, value)}"
        if key.rpartition(".")[2] in _EPOCHS:
            return (
                f"{key} is not a setting: training is measured in steps or tokens; set "
                "training.max_steps or training.max_tokens"
            )
        if key in self.options.groups and not self.options.groups[key]:
            below = (name for name in self.options.groups if name.rpartition("/")[0] == key)
            choices = ", ".join(f"{name}=..." for name in sorted(below))
            return f"{key} has no options of its own; choose {choices}"
        if meant := self.find_meant(key, value):
            return f"{key} is not a setting; did you mean {' or '.join(meant)}?"
        return f"{key} is not a setting; --cfg job shows all settings"

    def find_meant(self, key: str, value: str | None) -> list[str]:
        """Return up to two likely arguments for a key and its value, the likeliest first."""
        name = key.replace("-", "_").replace("/", ".")
        groups = [group.replace("/", ".") for group in self.options.groups]
        is_for_hydra = name.startswith("hydra")
        current, others, groups = (
            [one for one in known if is_for_hydra or not one.startswith("hydra")]
            for known in (self.names, self.options.settings, groups)
        )
        known = [*current, *others, *groups]
        found = [name] if name in [*current, *groups] else []
        found = found or names_with_last(name, [*current, *groups])
        found = found or [one for one in others if one == name]
        found = found or names_with_last(name, others) or close_names(name, known)
        likeliest = [one for one in found if one.count(".") == found[0].count(".")]
        unique = dict.fromkeys(self._write(one, value) for one in likeliest)
        return list(unique)[:2]

    def _write(self, name: str, value: str | None) -> str:
        """Return the arguments that set a known setting or choose an option of a group."""
        group = name.replace(".", "/")
        if group in self.options.groups:
            return self._choice_near(group, str(value))
        setting = shlex.quote(f"{name}={'...' if value is None else value}")
        owners = self.options.settings.get(name)
        if name in self.names or not owners:
            return setting
        return f"{self.options.choice(*owners[0])} {setting}"

    def _choice_near(self, group: str, value: str) -> str:
        """Return the choice of an option of a group, or of a group below it, named like `value`."""
        names = self.options.groups[group]
        below = [one for one in self.options.find(value) if one.startswith(f"{group}/")]
        if value not in names and below:
            return below[0]
        near = difflib.get_close_matches(value, names, n=1)
        return self.options.choice(group, value if value in names else near[0] if near else "...")

    def describe_option(self, file: str, known: Sequence[str]) -> str:
        """Return one line about an option that a group does not have.

        Args:
            file: the group and the option as typed, joined by a slash.
            known: the options of the group.
        """
        groups = [*self.options.groups, "hydra/launcher"]
        group = max((one for one in groups if file.startswith(f"{one}/")), key=len, default="")
        option = file[len(group) :].lstrip("/")
        if group == "hydra/launcher" and (hint := _missing_launcher(option)):
            return f"hydra/launcher={option} {hint}"
        elsewhere = self.options.find(option)
        below = [choice for choice in elsewhere if choice.startswith(f"{group}/")]
        near = close_names(option, known)
        meant = below or self._as_path(group, option)
        meant = meant or [self.options.choice(group, name) for name in near] or elsewhere
        hint = f"; did you mean {' or '.join(meant[:3])}?" if meant else ""
        return (
            f"{self.options.choice(group, option)} does not exist{hint}; "
            f"choose from {', '.join(sorted(known))}"
        )

    def _as_path(self, group: str, value: str) -> list[str]:
        """Return the choice that reads a file, if `value` looks like one."""
        setting = f"{group}.path"
        is_path = "/" in value or re.search(r"\.\w+$", value) or os.path.lexists(value)
        owners = self.options.settings.get(setting)
        return [self._write(setting, value)] if is_path and owners else []

    def describe_group_as_setting(self, key: str, value: str) -> str:
        """Return one line if `key=value` chooses an option with dots instead of slashes, or ""."""
        group = key.replace(".", "/")
        if "." not in key or value.startswith(("{", "$", "null")):
            return ""
        if not self.options.groups.get(group):
            return ""
        return (
            f"{key}={value}: {key} is a group of settings, whose options are chosen with a slash; "
            f"did you mean {self._write(key, value)}?"
        )

    def describe_flag(self, argument: str, value: str | None) -> str:
        """Return one line about an argument with dashes that is no flag, and its value."""
        typed = argument if value is None else f"{argument} {value}"
        name, sign, own_value = argument.lstrip("-").partition("=")
        flags = [flag for flag in FLAGS if flag.startswith("--")]
        if near := difflib.get_close_matches(argument.partition("=")[0], flags, n=1, cutoff=0.8):
            return f"{argument} is not a flag; did you mean {near[0]}?"
        value = own_value if sign else value
        if value is None:
            value = "true"
            if name.startswith(("no-", "no_")):
                name, value = name[3:], "false"
        meant = self.find_meant(name, value)
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ", and --help lists the groups"
        return f"{typed}: settings are written name=value, without dashes{hint}"

    def describe_word(self, word: str, value: str | None) -> str:
        """Return one line about an argument without an equals sign and the value after it."""
        typed = word if value is None else f"{word} {value}"
        name, sign, own_value = word.partition(":")
        if sign and value is None:
            value = own_value
        meant = self.find_meant(name.rstrip("="), value) if value else []
        meant = meant or self.options.find(word) or self.find_meant(name, None)
        hint = f"; did you mean {' or '.join(meant[:3])}?" if meant else ""
        return f"{typed}: settings are written name=value, without spaces{hint}"

    def check_arguments(self, arguments: Sequence[str]) -> list[str]:
        """Return one line for each argument that is neither a flag nor an override."""
        problems = []
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            if is_flag(argument):
                if argument in _FLAGS_BEFORE_WORDS and rest and not rest[0].startswith("-"):
                    rest.pop(0)
            elif argument.startswith("-"):
                value = _take_value(rest) if "=" not in argument else None
                problems.append(self.describe_flag(argument, value))
            elif _is_incomplete(argument, rest):
                problems.append(self.describe_word(argument, _take_value(rest)))
        return problems


def is_flag(argument: str) -> bool:
    """Return whether an argument is a flag of Hydra, with or without its value."""
    return argument.partition("=")[0] in FLAGS


def has_unknown_arguments(arguments: Sequence[str]) -> bool:
    """Return whether some argument is neither a flag nor an override, without reading files."""
    return bool(Suggestions((), Options()).check_arguments(arguments))


def _is_incomplete(argument: str, rest: Sequence[str]) -> bool:
    """Return whether an argument is no override, or one whose value is the next argument."""
    if argument.startswith("~"):
        return False
    is_open = argument.endswith("=") and bool(rest) and _is_value(rest[0])
    return "=" not in argument or argument.startswith("=") or is_open


def _is_value(argument: str) -> bool:
    is_number = re.fullmatch(r"-\.?\d.*", argument)
    return "=" not in argument and (not argument.startswith("-") or is_number is not None)


def _take_value(rest: list[str]) -> str | None:
    """Remove the value at the beginning of `rest` and return it; skip an equals sign."""
    if rest[:1] == ["="]:
        rest.pop(0)
    return rest.pop(0) if rest and _is_value(rest[0]) else None


def _missing_launcher(option: str) -> str:
    """Return why a launcher does not exist if it is a known one, or near one."""
    near: Iterable[str] = close_names(option, _LAUNCHERS)
    near = [option] if option in _LAUNCHERS else near or [n for n in _LAUNCHERS if option in n]
    name = next(iter(near), None)
    if name is None:
        return ""
    if name != option:
        return f"does not exist; did you mean hydra/launcher={name}? ({_LAUNCHERS[name]})"
    return f"needs a package that is not installed: {_LAUNCHERS[name]}"
