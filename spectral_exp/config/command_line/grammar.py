"""Hydra's override grammar: reading overrides, writing values, quoting typed text."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectral_exp.core.errors import UserError
from spectral_exp.runs.overrides import in_quotes, quote, setting_of

TEXT_SETTINGS = (
    "name", "resume", "init_from", "outputs", "backup_url", "experiment_id", "sweep", "study",
    "data.path",
    "tokenizer.path", "training.sample_prompt", "hydra.run.dir", "hydra.sweep.dir",
    "hydra.sweep.subdir",
)  # fmt: skip
"""Settings that are always text: a value that the grammar cannot read is taken literally."""

MAX_TEXT = 1 << 16
"""Most characters of an override."""

_MAX_KEY = 1000  # characters
# Characters that the grammar does not allow outside of quotes.
_UNREADABLE = re.compile(r"[^\w\s/\-\\+.$%*@?|:,(){}\[\]]", re.ASCII)
# Of nested brackets and interpolations, since Hydra's parser is recursive.
_MAX_DEPTH = 40


def is_readable(override: str) -> bool:
    """Return whether an override is neither too long nor nested too deeply for Hydra's parser."""
    depth = deepest = 0
    for character in re.sub(r"[^(){}\[\]]", "", override[: MAX_TEXT + 1]):
        depth = depth + 1 if character in "([{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return (
        len(override) <= MAX_TEXT
        and deepest <= _MAX_DEPTH
        and len(override.partition("=")[0]) <= _MAX_KEY
    )


def parse(override: str) -> Override:
    """Parse one override. Raises a UserError that shows how to quote its value."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(explain_unreadable(override, str(error))) from error


def explain_unreadable(override: str, message: str) -> str:
    """Return one line about an override that the grammar cannot read.

    Args:
        override: as typed.
        message: of Hydra's parser.
    """
    if problem := _syntax_problem(override):
        return f"{override}: {problem}"
    if found := _UNREADABLE.search(_replace_quoted(override.partition("=")[2])):
        reason = f"a value with {found[0]} needs quotes"
    else:
        # Further lines and the list of expected tokens are internals of the parser.
        lines = message.splitlines()
        is_general = len(lines) > 1 and lines[0].startswith("Error parsing")
        reason = lines[is_general].partition(" expecting ")[0]
    return f"{override}: {reason}{_quoting_hint(override)}"


def _syntax_problem(override: str) -> str:
    """Return why the grammar cannot read an override, or "" if that is not known."""
    key, _, value = override.partition("=")
    if not re.fullmatch(r"[+~]*[\w./@:$-]+", key, re.ASCII):
        return f"{key} is not a name of a setting; --cfg job shows all settings"
    if value.startswith("="):
        return f"a setting takes one equals sign: {setting_of(override)}{value}"
    plain = _replace_quoted(value)
    if found := re.search("['\"]", plain):
        return f"the quote {found[0]} is not closed"
    for opening, closing in (("[", "]"), ("{", "}"), ("(", ")")):
        if plain.count(opening) != plain.count(closing):
            missing = closing if plain.count(opening) > plain.count(closing) else opening
            return f"a bracket {missing} is missing"
    if re.search(r"(?:^|[,\[(])\s*,|,\s*(?:[\])]|$)", plain):
        return "a value beside a comma is missing"
    return ""


def _replace_quoted(value: str) -> str:
    """Return a value with an x in place of each quoted text and escaped character."""
    return re.sub(r"\\.|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "x", value)


def _quoting_hint(override: str) -> str:
    """Return advice on quoting an unreadable value, or the texts in a list; else ""."""
    key, sign, value = override.partition("=")
    if not sign or not value or value[0] in "{'\"":
        return ""
    if value[0] != "[" and "," not in value:
        command = shlex.quote(f"{key}={quote(value)}")
        return f"; to take the value literally, quote it: {command}"
    if re.search(r"['\"{}()$]", value):
        return ""
    quoted = re.sub(
        r"[^][,]+", lambda text: quote(text[0]) if _UNREADABLE.search(text[0]) else text[0], value
    )
    return f"; write {shlex.quote(f'{key}={quoted}')}" if quoted != value else ""


def text_of(override: str) -> str:
    """Return the value of an override as text, fully resolved; "" for null."""
    value = parse(override).value()
    try:
        resolved = OmegaConf.create({"value": value}).value
    except OmegaConfBaseException as error:
        raise UserError(f"{override}: {str(error).partition(chr(10))[0]}") from error
    return "" if resolved is None else str(resolved)


def quote_text_setting(override: str, sweeps: bool) -> str:
    """Quote the value of a text setting if the grammar reads it as anything but the typed text.

    Args:
        override: as typed.
        sweeps: whether a comma separates the values of a sweep.
    """
    key, sign, value = override.partition("=")
    setting = setting_of(override)
    if not sign or setting not in TEXT_SETTINGS:
        return override
    is_file = _exists(setting, value)
    as_typed = f"{key}={quote(value)}"
    try:
        parsed = parse(override)
    except UserError:
        if sweeps and "," in value:
            # Paths of sweeps hold equals signs, and only a sweep or quotes separate them.
            is_list = setting == "init_from" and not re.search(r"['\"(){}\[\]$]", value)
            return f"{key}={','.join(map(quote, value.split(',')))}" if is_list else override
        keeps_interpolation = "${" in value and not is_file
        return f"{key}={in_quotes(value)}" if keeps_interpolation else as_typed
    if parsed.is_sweep_override():
        # A run to continue is never swept, and an existing name with a comma is not a list.
        is_text = not sweeps and (setting == "resume" or is_file)
        return as_typed if is_text else override
    parsed_value = parsed.value()
    if parsed_value is not None and not isinstance(parsed_value, str):
        return as_typed
    # Quotes and escapes apply unless they are part of the name of an existing file.
    return as_typed if is_file and not _names_existing_file(override) else override


def _exists(setting: str, value: str) -> bool:
    """Return whether the value of a text setting names an existing file or folder."""
    run = value.rpartition("@")[0] if setting == "init_from" else ""
    return os.path.lexists(value) or bool(run and os.path.lexists(run))


def _names_existing_file(override: str) -> bool:
    try:
        return _exists(setting_of(override), text_of(override))
    except UserError:
        return False


def format_value(value: Any) -> str:
    """Return a plain value of a resolved configuration in the override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        items = (f"{_escape_key(str(key))}:{format_value(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    return quote(str(value))


def _escape_key(key: str) -> str:
    """Escape the special characters in a key of a mapping, which cannot be quoted."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key)


def strings_in(value: Any) -> Iterator[str]:
    """Yield all strings in a parsed value, at any depth, keys included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from strings_in(item)
    elif value is not None and not isinstance(value, bool | int | float):
        yield str(value)


def is_interpolated(value: Any) -> bool:
    """Return whether a parsed value contains an interpolation, an unescaped `${`."""
    return any(re.search(r"(?<!\\)(?:\\\\)*\$\{", text) for text in strings_in(value))
