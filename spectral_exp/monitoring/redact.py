"""Keeping passwords and access keys out of files that people share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from spectral_exp.run_dir import jsonable

REDACTED = "<redacted>"

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials", "apikey"}
)
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("auth", "key")})
_TEXT_TOKENS = frozenset({"bos", "eos", "pad", "unk", "sep", "cls", "mask", "begin", "end", "start", "stop"})
_ASSIGNMENT = re.compile(r"([+~-]*)([\w./@-]+)=(.+)", re.DOTALL)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")
_SHORTEST_INSIDE = 8  # a shorter secret would be found by chance inside innocent text


def is_secret_name(name: str) -> bool:
    """Whether a key or variable is named like a secret: `hf_token` is, `max_tokens` and `eos_token` are not."""
    words = [word.lower() for word in _WORDS.findall(name.rpartition(".")[2])]
    if not words:
        return False
    is_token = words[-1] == "token" and not (len(words) > 1 and words[-2] in _TEXT_TOKENS)
    return is_token or not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words))


def environment_secrets() -> list[str]:
    """The values of environment variables that are named like secrets, the longest first."""
    values = {value for name, value in os.environ.items() if value and is_secret_name(name)}
    return sorted(values, key=len, reverse=True)


def redact(value: Any) -> Any:
    """`value` in the types of JSON, with every secret in it replaced by `REDACTED`."""
    return without_secrets(jsonable(value))


def without_secrets(value: Any) -> Any:
    """Plain containers with every secret in them replaced by `REDACTED`, and all else as it is.

    Secrets are strings under keys named like one (also in texts of the form `key=value`), values of environment
    variables named like one, wherever they occur, and logins inside URLs.
    """
    return _redact(value, environment_secrets())


def redact_text(text: str, secrets: Sequence[str]) -> str:
    """`text` without `secrets` (as from `environment_secrets`) and without logins inside URLs."""
    if text in secrets:
        return REDACTED
    for secret in secrets:
        if len(secret) >= _SHORTEST_INSIDE:
            text = text.replace(secret, REDACTED)
    return _URL_LOGIN.sub(REDACTED, text)


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: REDACTED if isinstance(item, str) and item and is_secret_name(str(key)) else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        # An option and its value may be two words of a command line.
        options = [False, *(isinstance(i, str) and i.startswith("-") and is_secret_name(i) for i in value)]
        items = (REDACTED if after else _redact(item, secrets) for item, after in zip(value, options, strict=False))
        return type(value)(items)
    if not isinstance(value, str):
        return value
    assignment = _ASSIGNMENT.fullmatch(value)
    if assignment and is_secret_name(assignment[2]):
        return f"{assignment[1]}{assignment[2]}={REDACTED}"
    return redact_text(value, secrets)
