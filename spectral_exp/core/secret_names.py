"""Classify names: those of passwords, access keys and other secrets, and those similar to them."""

from __future__ import annotations

import functools
import re
from enum import IntEnum
from importlib import resources
from itertools import pairwise

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def words(text: str) -> frozenset[str]:
    """Return the set of words in a text."""
    return frozenset(text.split())


def _read_words() -> dict[str, frozenset[str]]:
    """Return the lists of words in `secret_words.txt` by their names."""
    text = (resources.files(__package__) / "secret_words.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    _, *sections = re.split(r"^\[(\w+)\]$", "\n".join(lines), flags=re.MULTILINE)
    return dict(zip(sections[::2], map(words, sections[1::2]), strict=True))


WORDS = _read_words()
"""The lists of words in `secret_words.txt`, which explains each of them."""

_STRONG, _PASSWORDS = WORDS["strong"], WORDS["passwords"]
_GLUED = re.compile(
    r".+(password|passwd|passphrase|apikey|secretkey|accesskey|privatekey|authtoken|accesstoken)"
    r"|(access|api|auth|id|refresh|session)token|(access|account|auth|private|secret|sign)key"
    r"|(j|php|asp)?sess(ion)?id"
)
_SPLIT_PASS = WORDS["pass_owners"]
_GLUED_PASS = re.compile(
    rf"(?:{'|'.join(sorted(_SPLIT_PASS))}){{1,4}}pass|.+(?:password|passwd|passphrase)"
)
_PAIRS = frozenset(
    {(owner, "key") for owner in ("access", "api", "auth", "private", "secret")}
    | {("access", "signature"), ("string", "data")}
)
"""Words of secrets anywhere in a name: AWS_ACCESS_KEY_ID, secret_key_base, stringData."""
_WITH_PLURALS = _STRONG | _PASSWORDS | words("auth bearer key login pin token")


class Secrecy(IntEnum):
    """The likelihood that the value of a name is a secret."""

    NONE = 0
    UNLIKELY = 1
    """Only values that look generated are secrets: `MODEL_KEY` is usually the name of a model."""
    POSSIBLE = 2
    """Ordinary words are not secrets: `token` may name an access token or a piece of text."""
    CERTAIN = 3
    PASSWORD = 4
    """Even a short number is a secret."""


def is_secret_name(name: str) -> bool:
    """Return whether a name is that of a secret: `hf_token` is, `max_tokens` is not."""
    return secrecy(name) >= Secrecy.POSSIBLE


@functools.lru_cache(maxsize=4096)
def secrecy(name: str) -> Secrecy:
    """Return the likelihood that the value of `name`, which may be dotted, is a secret."""
    above, _, own = name.rpartition(".")
    parts = _split(own)
    if not parts or _is_description(parts[-1]) or parts[0] in WORDS["counts"]:
        return Secrecy.NONE
    if own in ("PWD", "OLDPWD") or ("@" in own and parts == ["pass"]):  # a folder; pass@1
        return Secrecy.NONE
    if own == "alerts":  # addresses of messages, of which most are or hold secrets
        return Secrecy.CERTAIN
    if _is_password(parts):
        return Secrecy.PASSWORD
    if _is_certain(parts):
        return Secrecy.CERTAIN
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "key":
        return _secrecy_of_key(before, _split(above)[-1:])
    if last == "token":
        return _secrecy_of_token(before, _split(above)[-1:])
    if last == "pass":
        return Secrecy.NONE if before in WORDS["passes"] else Secrecy.POSSIBLE
    if last in ("auth", "bearer", "sas") or parts[-2:] == ["session", "id"]:
        return Secrecy.POSSIBLE
    return Secrecy.UNLIKELY if parts == ["login"] else Secrecy.NONE


@functools.lru_cache(maxsize=4096)
def describes_secret(name: str) -> bool:
    """Return whether a key describes a secret beside it, such as its location or type."""
    parts = _split(name)
    return bool(parts) and (
        _is_description(parts[-1]) or parts[0] in WORDS["counts"] or parts == ["target"]
    )


@functools.lru_cache(maxsize=4096)
def counts_tokens(name: str) -> bool:
    """Return whether a number under `name` is a number of tokens, as in `api_tokens`."""
    return name.lower().endswith("tokens")


def _is_description(word: str) -> bool:
    return word in WORDS["descriptions"] or (word[-1] == "s" and word[:-1] in WORDS["descriptions"])


def _is_password(parts: list[str]) -> bool:
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "pin":
        return not before or before in WORDS["pin_owners"]
    if last == "pass":
        return before in _SPLIT_PASS
    return last in _PASSWORDS or _GLUED_PASS.fullmatch(last) is not None


def _is_certain(parts: list[str]) -> bool:
    if not _STRONG.isdisjoint(parts) or any(_GLUED.fullmatch(word) for word in parts):
        return True
    if parts[-1] in ("pat", "sk") and len(parts) > 1:  # personal access tokens, secret keys
        return parts[-2] in WORDS["key_issuers"]
    if parts[-3:] == ["client", "key", "data"]:  # of a kubeconfig file
        return True
    return not _PAIRS.isdisjoint(pairwise(parts))


def _secrecy_of_key(owner: str, above: list[str]) -> Secrecy:
    if not owner:
        return Secrecy.POSSIBLE if not WORDS["key_owners"].isdisjoint(above) else Secrecy.NONE
    if owner in WORDS["table_keys"]:
        return Secrecy.NONE
    if owner in WORDS["doubtful_owners"]:
        return Secrecy.POSSIBLE
    return Secrecy.CERTAIN if owner in WORDS["key_owners"] else Secrecy.UNLIKELY


def _secrecy_of_token(owner: str, above: list[str]) -> Secrecy:
    if owner in WORDS["access_tokens"] or (
        not owner and not WORDS["access_tokens"].isdisjoint(above)
    ):
        return Secrecy.CERTAIN
    return Secrecy.NONE if owner in WORDS["text_tokens"] else Secrecy.POSSIBLE


def _split(name: str) -> list[str]:
    """Return the words of a name without numbers, in lower case, those of secrets in singular."""
    parts = (word.lower() for word in _WORD.findall(name) if not word.isdigit())
    return [word[:-1] if word[:-1] in _WITH_PLURALS and word[-1] == "s" else word for word in parts]
