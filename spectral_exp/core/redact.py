"""Keeping passwords and access keys out of files that people share.

A value is hidden if its name says that it is a secret, at any depth and in any container; if it
occurs in the environment under such a name; if this process met it under such a name before; or if
it has the shape of a secret, such as a private key or the login of a URL. If a name only may be
that of a secret, the value decides: `MODEL_KEY: gpt2-small` stays.
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
from spectral_exp.core.secret_names import (
    Secrecy,
    counts_tokens,
    describes_secret,
    is_secret_name,
    secrecy,
)
from spectral_exp.core.secret_shapes import hide_shapes
from spectral_exp.core.secret_text import hide_assigned, hide_literals
from spectral_exp.core.secret_values import (
    REDACTED,
    is_hidden_number,
    is_hidden_value,
    is_hidden_word,
    looks_random,
)

__all__ = ["REDACTED", "is_secret_name"]

_SHORTEST_INSIDE = 8  # a shorter secret would be found by chance inside innocent text
_SHORTEST_ALONE = 4
_TRIVIAL = {
    "auto",
    "default",
    "disabled",
    "enabled",
    "false",
    "local",
    "none",
    "null",
    "test",
    "true",
}

_OVERRIDE = re.compile(r"[+~-]*([\w./@-]{1,200})=")

_met: set[str] = set()
"""Secrets that stood under their names in what this process has recorded so far."""


def redact(value: Any) -> Any:
    """`value` in the types of JSON, with every secret in it replaced by `REDACTED`."""
    return without_secrets(jsonable(with_fields(value)))


def without_secrets(value: Any) -> Any:
    """Plain containers with every secret in them replaced by `REDACTED`, and all else as it is."""
    _met.update(_strong_texts(value, Secrecy.NONE))
    return _redact(value, known_secrets(), Secrecy.NONE)


def redact_text(text: str, secrets: Sequence[str] | None = None) -> str:
    """`text` without secrets: without `secrets`, by default the known ones, and by name and
    shape."""
    found = known_secrets() if secrets is None else secrets
    return hide_assigned(hide_shapes(_hide_known(text, found)))


def redact_code(text: str, secrets: Sequence[str]) -> str:
    """Source code without secrets: of what stands beside a name only literals are replaced."""
    return hide_literals(hide_shapes(_hide_known(text, secrets)))


def environment_secrets() -> list[str]:
    """The values of environment variables that are named like secrets, the longest first."""
    return sorted(_environment_values(), key=len, reverse=True)


def known_secrets() -> list[str]:
    """The secrets of the environment and those that this process has met, the longest first."""
    return sorted({*_environment_values(), *_met}, key=len, reverse=True)


def with_fields(value: Any, above: tuple[int, ...] = ()) -> Any:
    """`value` with namespaces, data classes and the like as mappings of their fields.

    As in `jsonable`, a container inside of itself becomes `CIRCULAR`, and what is nested too deeply
    `TOO_DEEP`.
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
    except Exception:  # whatever a foreign container does, it is kept for readers only
        return object.__repr__(value)


def _item(mapping: Mapping[Any, Any], key: Any) -> Any:
    try:
        return mapping[key]
    except Exception as error:  # as a configuration library raises of a value that is missing
        return f"<{type(error).__name__}>"


def _with_items(value: Any, inside: tuple[int, ...]) -> Any:
    if isinstance(value, AbstractSet):  # in an order that does not differ from process to process
        return [with_fields(item, inside) for item in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(
            with_fields(item, inside) for item in value
        )
    # A list of another kind, as a configuration library has: its items may be anything.
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview | range):
        return [with_fields(item, inside) for item in value]
    return value


# --- known secrets --------------------------------------------------------------------------------


def _environment_values() -> set[str]:
    found = {value for name, value in os.environ.items() if _is_secret_variable(name, value)}
    # As they stand inside URLs and JSON.
    found |= {urllib.parse.quote(value, safe="") for value in found}
    return found | {json.dumps(value)[1:-1] for value in found}


def _is_secret_variable(name: str, value: str) -> bool:
    doubt = secrecy(name)
    if doubt is Secrecy.NONE or len(value) < _SHORTEST_ALONE or value.lower() in _TRIVIAL:
        return False
    if doubt < Secrecy.CERTAIN and not looks_random(value):
        return False
    is_place = value.startswith(("/", "~")) and Path(value).expanduser().exists()
    return is_hidden_value(value, doubt) and not is_place


def _strong_texts(value: Any, doubt: Secrecy, above: str = "") -> Iterator[str]:
    """Texts inside `value` that certainly are secrets, and that no other text holds by chance."""
    if isinstance(value, str):
        is_secret = doubt >= Secrecy.CERTAIN and is_hidden_value(value, doubt)
        if is_secret and len(value) >= _SHORTEST_INSIDE and looks_random(value):
            yield value
    elif isinstance(value, int | float):
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strong_texts(item, _secrecy_below(str(key), above, doubt), str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strong_texts(item, doubt, above)


def _hide_known(text: str, secrets: Sequence[str]) -> str:
    if text in secrets:
        return REDACTED
    for secret in secrets:
        if len(secret) >= _SHORTEST_INSIDE and secret in text:
            text = text.replace(secret, REDACTED)
    return text


# --- containers -----------------------------------------------------------------------------------


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of an object that is a record of values, or None for any other object."""
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


def _secrecy_below(key: str, above: str, doubt: Secrecy) -> Secrecy:
    """How likely values under `key` are secrets, inside the container named `above`."""
    if key == "_target_" or (doubt <= Secrecy.POSSIBLE and describes_secret(key)):
        return Secrecy.NONE
    is_named_by_owner = above and key.lower() in _NAMED_BY_OWNER
    return max(doubt, secrecy(f"{above}.{key}" if is_named_by_owner else key))


def _redact(value: Any, secrets: Sequence[str], doubt: Secrecy, above: str = "") -> Any:
    """`value` without secrets; the same object if it holds none."""
    if isinstance(value, str):
        shown = REDACTED if is_hidden_value(value, doubt) else _redact_words(value, secrets)
        return value if shown == value else shown
    if isinstance(value, int | float):
        is_hidden = not isinstance(value, bool) and is_hidden_number(value, doubt)
        return REDACTED if is_hidden else value
    if isinstance(value, Mapping):
        return _redact_mapping(value, secrets, doubt, above)
    if isinstance(value, list | tuple):
        redacted = [_redact(item, secrets, doubt, above) for item in value]
        for position, shown in hidden_arguments(value):
            redacted[position] = shown
        if all(map(operator.is_, redacted, value)):
            return value
        return tuple(redacted) if isinstance(value, tuple) else redacted
    if isinstance(value, bytes | bytearray) and value and doubt >= Secrecy.CERTAIN:
        return REDACTED
    return value


_NAME_KEYS = ("name", "key", "variable")
_VALUE_KEYS = ("value", "val")
_ACCOUNT_KEYS = ("user", "username", "user_name", "login", "email", "secret")


def _secrecy_beside(mapping: Mapping[Any, Any]) -> dict[str, Secrecy]:
    """How likely the values of a mapping are secrets because of the others, by key in lower
    case."""
    items = {key.lower(): item for key, item in mapping.items() if isinstance(key, str)}
    doubts: dict[str, Secrecy] = {}
    # `{name: HF_TOKEN, value: ...}`, as lists of variables have it.
    names = [items[key] for key in _NAME_KEYS if isinstance(items.get(key), str)]
    if names:
        doubts |= dict.fromkeys(_VALUE_KEYS, max(map(secrecy, names)))
    if not items.keys().isdisjoint(_ACCOUNT_KEYS):
        doubts |= {"key": Secrecy.POSSIBLE, "pass": Secrecy.PASSWORD}
    return doubts


def _redact_mapping(
    value: Mapping[Any, Any], secrets: Sequence[str], doubt: Secrecy, above: str
) -> Any:
    beside = _secrecy_beside(value)
    redacted: dict[Any, Any] = {}
    changed = False
    for key, item in value.items():
        name = str(key)
        below = max(_secrecy_below(name, above, doubt), beside.get(name.lower(), Secrecy.NONE))
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
    """A text of its own, which may be an override: all behind the `=` is then its value."""
    override = _OVERRIDE.match(text)
    if override is not None:
        value = text[override.end() :].strip("'\"")
        if is_hidden_word(value, secrecy(override[1])):
            return text[: override.end()] + REDACTED
    return redact_text(text, secrets)
