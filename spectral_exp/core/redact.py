"""Keep passwords and access keys out of files that people share.

A value is replaced if

- its name is that of a secret, at any depth and in any container,
- it occurs in the environment under such a name,
- this process has redacted it under such a name before, or
- it has the shape of a secret, such as a private key or the login of a URL.

If a name is ambiguous, the value decides: `MODEL_KEY: gpt2-small` is kept.

This module walks through containers. For text it uses, in this order, `secret_shapes` (secrets that
need no name), `secret_context` and `secret_commands` (names beside the value, command lines) and
`secret_text` (assignments). All of them ask `secret_names` how likely the value of a name is a
secret, and `secret_values` whether a value is one, given that.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import re
import types
import urllib.parse
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from spectral_exp.core.json_value import CIRCULAR, MAX_DEPTH, TOO_DEEP, jsonable
from spectral_exp.core.secret_commands import hidden_arguments
from spectral_exp.core.secret_names import Secrecy, counts_tokens, describes_secret, secrecy, words
from spectral_exp.core.secret_names import is_secret_name as is_secret_name
from spectral_exp.core.secret_shapes import hide_shapes
from spectral_exp.core.secret_text import hide_assigned, hide_literals
from spectral_exp.core.secret_values import REDACTED as REDACTED
from spectral_exp.core.secret_values import (
    is_hidden_number,
    is_hidden_value,
    is_hidden_word,
    looks_random,
)

_SHORTEST_INSIDE = 8  # a shorter secret may occur by chance inside other text
_SHORTEST_ALONE = 4
_TRIVIAL = words("auto default disabled enabled false local none null test true")

_OVERRIDE = re.compile(r"[+~-]*([\w./@-]{1,200})=")

_seen_secrets: set[str] = set()
"""Secrets that this process has redacted by their names so far."""


def redact(value: Any) -> Any:
    """Return `value` in the types of JSON, with every secret replaced by `REDACTED`."""
    return without_secrets(jsonable(with_fields(value)))


def without_secrets(value: Any) -> Any:
    """Return plain containers with every secret replaced by `REDACTED`; keep other values."""
    _seen_secrets.update(_strong_texts(value, Secrecy.NONE))
    return _redact(value, known_secrets(), Secrecy.NONE)


def redact_text(text: str, secrets: Sequence[str] | None = None) -> str:
    """Return `text` without the given secrets (by default the known ones) and those it names.

    Secrets are also recognized by their shape.
    """
    known = known_secrets() if secrets is None else secrets
    return hide_assigned(hide_shapes(_hide_known(text, known)))


def redact_code(text: str, secrets: Sequence[str]) -> str:
    """Return source code without secrets; of values with a name, only literals are replaced."""
    return hide_literals(hide_shapes(_hide_known(text, secrets)))


def known_secrets() -> list[str]:
    """Return the secrets of the environment and those redacted before, the longest first."""
    return sorted({*_environment_values(), *_seen_secrets}, key=len, reverse=True)


def with_fields(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Return `value` with namespaces, data classes and similar objects as mappings.

    As in `jsonable`, a container inside itself becomes `CIRCULAR`, and a value that is nested too
    deeply `TOO_DEEP`.
    """
    if isinstance(value, str | bytes | int | float | type) or value is None:
        return value
    if id(value) in above:
        return CIRCULAR
    if len(above) == MAX_DEPTH:
        return TOO_DEEP
    inside = (*above, id(value))
    try:
        fields = value if isinstance(value, Mapping) else _fields(value)
        if fields is not None:
            return {key: with_fields(_item(fields, key), inside) for key in fields}
        return _with_items(value, inside)
    except RecursionError:
        raise
    except Exception:  # a foreign container may raise anything
        return object.__repr__(value)


def _item(mapping: Mapping[Any, Any], key: Any) -> Any:
    try:
        return mapping[key]
    except Exception as error:  # for example OmegaConf's for a missing value
        return f"<{type(error).__name__}>"


def _with_items(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, AbstractSet):  # in an order that is the same in every process
        return [with_fields(item, inside) for item in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        items = [with_fields(item, inside) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    # Another sequence type, such as OmegaConf's ListConfig.
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview | range):
        return [with_fields(item, inside) for item in value]
    return value


# --- known secrets --------------------------------------------------------------------------------


def _environment_values() -> set[str]:
    found = {value for name, value in os.environ.items() if _is_secret_variable(name, value)}
    # Their forms inside URLs and JSON.
    found |= {urllib.parse.quote(value, safe="") for value in found}
    return found | {json.dumps(value)[1:-1] for value in found}


def _is_secret_variable(name: str, value: str) -> bool:
    level = secrecy(name)
    if level is Secrecy.NONE or len(value) < _SHORTEST_ALONE or value.lower() in _TRIVIAL:
        return False
    if level < Secrecy.CERTAIN and not looks_random(value):
        return False
    is_place = value.startswith(("/", "~")) and Path(value).expanduser().exists()
    return is_hidden_value(value, level) and not is_place


def _strong_texts(value: Any, level: Secrecy, above: str = "") -> Iterator[str]:
    """Yield the texts in `value` that are certainly secrets and do not occur by chance."""
    if isinstance(value, str):
        is_secret = level >= Secrecy.CERTAIN and is_hidden_value(value, level)
        if is_secret and len(value) >= _SHORTEST_INSIDE and looks_random(value):
            yield value
    elif isinstance(value, int | float):
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strong_texts(item, _secrecy_below(str(key), above, level), str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strong_texts(item, level, above)


def _hide_known(text: str, secrets: Sequence[str]) -> str:
    if text in secrets:
        return REDACTED
    for secret in secrets:
        if len(secret) >= _SHORTEST_INSIDE and secret in text:
            text = text.replace(secret, REDACTED)
    return text


# --- containers -----------------------------------------------------------------------------------


def _fields(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a record-like object, or None for any other object."""
    if isinstance(value, Namespace | types.SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    elif hasattr(type(value), "__attrs_attrs__"):
        names = [attribute.name for attribute in type(value).__attrs_attrs__]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        names = list(value._fields)
    elif hasattr(type(value), "model_fields") and hasattr(value, "__dict__"):  # pydantic
        names = list(vars(value))
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


_NAMED_BY_OWNER = ("key", "token")


def _secrecy_below(key: str, above: str, level: Secrecy) -> Secrecy:
    """Return the secrecy of values under `key` in the container named `above`."""
    if key == "_target_" or (level <= Secrecy.POSSIBLE and describes_secret(key)):
        return Secrecy.NONE
    is_named_by_owner = above and key.lower() in _NAMED_BY_OWNER
    return max(level, secrecy(f"{above}.{key}" if is_named_by_owner else key))


def _redact(value: Any, secrets: Sequence[str], level: Secrecy, above: str = "") -> Any:
    """Return `value` without secrets; the same object if it has none."""
    if isinstance(value, str):
        shown = REDACTED if is_hidden_value(value, level) else _redact_words(value, secrets)
        return value if shown == value else shown
    if isinstance(value, int | float):
        is_hidden = not isinstance(value, bool) and is_hidden_number(value, level)
        return REDACTED if is_hidden else value
    if isinstance(value, Mapping):
        return _redact_mapping(value, secrets, level, above)
    if isinstance(value, list | tuple):
        redacted = [_redact(item, secrets, level, above) for item in value]
        for position, shown in hidden_arguments(value):
            redacted[position] = shown
        if all(map(operator.is_, redacted, value)):
            return value
        return tuple(redacted) if isinstance(value, tuple) else redacted
    if isinstance(value, bytes | bytearray) and value and level >= Secrecy.CERTAIN:
        return REDACTED
    return value


_NAME_KEYS = ("name", "key", "variable")
_VALUE_KEYS = ("value", "val")
_ACCOUNT_KEYS = ("user", "username", "user_name", "login", "email", "secret")


def _secrecy_beside(mapping: Mapping[Any, Any]) -> dict[str, Secrecy]:
    """Return key in lower case -> secrecy, for values that other entries of a mapping name."""
    items = {key.lower(): item for key, item in mapping.items() if isinstance(key, str)}
    levels: dict[str, Secrecy] = {}
    # `{name: HF_TOKEN, value: ...}`, as in lists of variables.
    names = [items[key] for key in _NAME_KEYS if isinstance(items.get(key), str)]
    if names:
        levels |= dict.fromkeys(_VALUE_KEYS, max(map(secrecy, names)))
    if not items.keys().isdisjoint(_ACCOUNT_KEYS):
        levels |= {"key": Secrecy.POSSIBLE, "pass": Secrecy.PASSWORD}
    return levels


def _redact_mapping(
    value: Mapping[Any, Any], secrets: Sequence[str], level: Secrecy, above: str
) -> Any:
    beside = _secrecy_beside(value)
    redacted: dict[Any, Any] = {}
    changed = False
    for key, item in value.items():
        name = str(key)
        below = max(_secrecy_below(name, above, level), beside.get(name.lower(), Secrecy.NONE))
        is_number = below is not Secrecy.NONE and isinstance(item, int | float)
        if is_number and (describes_secret(name) or counts_tokens(name)):
            below = Secrecy.NONE
        shown_key = _redact_key(key, secrets, redacted)
        redacted[shown_key] = _redact(item, secrets, below, name)
        changed = changed or redacted[shown_key] is not item or shown_key != key
    return redacted if changed else value


def _redact_key(key: Any, secrets: Sequence[str], taken: Mapping[Any, Any]) -> Any:
    if not isinstance(key, str):
        return key
    shown = hide_shapes(_hide_known(key, [s for s in secrets if len(s) >= _SHORTEST_INSIDE]))
    number = 2
    while shown != key and shown in taken:
        shown, number = f"{shown.partition(' (')[0]} ({number})", number + 1
    return shown


def _redact_words(text: str, secrets: Sequence[str]) -> str:
    """Return a whole text without secrets; it may be an override with a value after the `=`."""
    override = _OVERRIDE.match(text)
    if override is not None:
        value = text[override.end() :].strip("'\"")
        if is_hidden_word(value, secrecy(override[1])):
            return text[: override.end()] + REDACTED
    return redact_text(text, secrets)
