"""Texts without absolute paths, and without the names of machines and of persons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from spectral_exp.core.redact import REDACTED, redact_text
from spectral_exp.runs.overrides import in_quotes

_END = r"""[^\s'"`,;:()\[\]{}<>|=*?!&$#]"""
_PATH = re.compile(
    rf"""(?<=')(?:~[\w.-]*)?/(?!/)[^'\n]+(?=') | (?<=")(?:~[\w.-]*)?/(?!/)[^"\n]+(?=")
    | file://{_END}+ | (?<![\w.~/)\]}}*])(?:~[\w.-]*)?/(?!/){_END}+
    | (?<![A-Za-z])[A-Za-z]:[\\/](?!/){_END}+ | (?<!\\)\\\\{_END}+""",
    re.VERBOSE,
)
"""An absolute path inside a text. The addresses of other schemes than `file` are none."""
_WHOLE = re.compile(r"(?:file://)?(?:(?:~[^/\\\n]*)?[/\\](?!\*)|[A-Za-z]:[\\/](?!/)|~$)[^\n]*")
_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:[\\/]Users[\\/])([\w.-]+)")
_OVERRIDE = re.compile(r"([+~]*[\w./@:-]+=)(.*)", re.DOTALL)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_UNKNOWN = "path"
_NO_HOSTS = {"localhost", "localhost.localdomain"}


class Anonymizer:
    """Replaces what names a machine or a person, in all texts of some runs alike.

    An absolute path becomes its last part, after a number if its setting has several values. So
    different values stay different, and in their order.

    Attributes:
        removed: number of replacements by kind.
    """

    def __init__(self) -> None:
        self.removed = Counter[str]()
        self._hosts: set[str] = set()
        self._users: set[str] = set()
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def learn_hosts(self, names: Iterable[str]) -> None:
        """Learn the names of machines, with and without their domains."""
        for name in names:
            self._hosts |= {name, name.partition(".")[0]} - {"", *_NO_HOSTS}

    def learn_users(self, text: str) -> None:
        """Learn the names of persons from the home directories in a text."""
        self._users |= set(_HOME.findall(text))

    def learn_values(self, values: AbstractSet[str]) -> None:
        """Learn all values that a setting has in the runs."""
        paths = sorted(value for value in values if _WHOLE.fullmatch(value))
        self._taken |= values - set(paths)
        if len(values) > 1:
            width = len(str(len(paths)))
            for number, path in enumerate(paths, 1):
                self._name(path, f"{number:0{width}}/{_last_part(path)}")

    @property
    def names(self) -> list[str]:
        """The known names of machines and persons, the longest first."""
        known = [name for name in self._hosts | self._users if len(name) > 1]
        return sorted(known, key=lambda name: (-len(name), name))

    def value(self, text: str) -> str:
        """Return the value of a setting without absolute paths."""
        if _WHOLE.fullmatch(text):
            return self._short(text)
        return _PATH.sub(self._replace, text)

    def override(self, text: str) -> str:
        """Return an override `setting=value` without absolute paths."""
        found = _OVERRIDE.fullmatch(text)
        if found is None:  # it removes a setting
            return text
        name, value = found.groups()
        if len(value) > 1 and value[0] == value[-1] == "'":
            inside = self.value(value[1:-1])
            return name + (value if inside == value[1:-1] else in_quotes(inside))
        return name + self.value(value)

    def prose(self, text: str) -> str:
        """Return a text that a person or an error wrote, without names, addresses and paths."""
        text = _PATH.sub(self._replace, redact_text(text, ()))
        text, n_addresses = _EMAIL.subn(REDACTED, text)
        n_names = 0
        for name in self.names:
            text, count = _word(name).subn(REDACTED, text)
            n_names += count
        self.removed["e-mail addresses"] += n_addresses
        self.removed["names in notes and errors"] += n_names
        return text

    def remaining(self, text: str) -> list[str]:
        """Return what may still name a machine or a person in a text."""
        names = [name for name in self.names if _word(name).search(text)]
        return [*names, *_EMAIL.findall(text)]

    def _replace(self, found: re.Match[str]) -> str:
        path = found[0].rstrip(".")
        return self._short(path) + found[0][len(path) :]

    def _short(self, path: str) -> str:
        """Return the text for a path."""
        self.removed["absolute paths"] += 1
        return self._name(path, _last_part(path))

    def _name(self, path: str, wanted: str) -> str:
        """Return the name of a path, a new one like `wanted` if it has none."""
        if path not in self._names:
            name, number = wanted, 2
            while name in self._taken:
                name, number = f"{number}/{wanted}", number + 1
            self._taken.add(name)
            self._names[path] = name
        return self._names[path]


def _last_part(path: str) -> str:
    """Return the last part of a path, or a general name if that is a home or the root."""
    home = _HOME.search(path)
    is_home = home is not None and home.end() == len(path.rstrip("/\\"))
    last = re.split(r"[/\\]+", path.rstrip("/\\"))[-1]
    return _UNKNOWN if is_home or not last or last[0] == "~" or last[-1] == ":" else last


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
