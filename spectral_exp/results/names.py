"""Names of settings on the command line and in tables, and their values in runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.core.foreign_text import printable
from spectral_exp.results.number_texts import NOTHING
from spectral_exp.runs.parts import PARTS, component_name
from spectral_exp.runs.run import Run

IDENTITY = ("name", "seed", "status")

_TARGET = "._target_"


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return NOTHING


ABSENT = _Absent()
"""The value of a setting that a run does not have; null is another one."""


class Names:
    """The names of the settings and other properties of some runs.

    A setting has its dotted name and every ending of it that no other setting has, or only deeper
    ones: `n_wave` is `model.n_wave`, whose value the wave parts repeat. Other names are the run's
    `name`, `seed` and `status`; the parts of the grid and the `size`; `model` for embedding,
    attention and MLP in one; and every section that names a component, such as `schedule`.

    Attributes:
        speaking: names whose values need no name in a label: `rgd` for `optimizer=rgd`.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._settings = sorted({n for run in runs for n in (*run.settings, *run.defaults)})
        self._sections = {
            name.removesuffix(_TARGET) for name in self._settings if name.endswith(_TARGET)
        }
        parts = {name for run in runs for name in run.parts}
        self.speaking = {"name", "status", "model", *parts, *self._sections} - {"size"}
        self._own = {*IDENTITY, "size", "config_hash", "match", *self.speaking}
        self._endings: dict[str, list[str]] = {}
        for name in self._settings:
            words = name.split(".")
            for first in range(len(words)):
                self._endings.setdefault(".".join(words[first:]), []).append(name)

    def resolve(self, name: str) -> str:
        """Return the full name of a setting or property.

        Raises:
            UserError: no run has such a setting, or several settings end so.
        """
        if name in self._own or name in self._settings:
            return name
        found = self._endings.get(name, [])
        outermost = _outermost(found)
        if len(outermost) == 1:
            return outermost[0]
        if found:
            raise UserError(f"{name} may be {_list_names(found)}; write one of them out")
        if not self._settings:
            raise UserError(f"no run has a setting {name}: the settings of none are known")
        known = [*self._own, *self._endings]
        raise UserError(f"no run has a setting or part {name}{nearest(name, known)}")

    def known(self) -> list[str]:
        """Return every name that `resolve` accepts, short ones first."""
        names = {*self._own, *self._settings}
        names |= {name for name, found in self._endings.items() if len(_outermost(found)) == 1}
        return sorted(names, key=lambda name: (name.count("."), name))

    def value(self, run: Run, name: str) -> Any:
        """Return a run's value of a full name, or `ABSENT` if it has none."""
        if name in ("name", "seed", "status", "config_hash"):
            return getattr(run, name)
        if name in run.parts:
            return run.parts[name]
        if name in run.settings:
            return run.settings[name]
        if name == "model":
            parts = [
                run.parts[part] for part in ("embedding", "attention", "mlp") if part in run.parts
            ]
            return "+".join(parts) or component_name(run.settings, "model") or ABSENT
        if name == "match":
            return match_of(run) or ABSENT
        if name in run.defaults:
            return run.defaults[name]
        return component_name(run.all_settings, name) or ABSENT

    def short(self, name: str) -> str:
        """Return the shortest name of a setting."""
        words = name.split(".")
        for first in range(len(words) - 1, 0, -1):
            ending = ".".join(words[first:])
            if ending not in self._own and _outermost(self._endings.get(ending, [])) == [name]:
                return ending
        return name


def split_names(text: str) -> list[str]:
    """Return the names that a text lists with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def match_of(run: Run) -> str | None:
    """Return the parts to whose size a run was matched, or `none`; None without settings."""
    parts = [component_name(run.settings, f"match.{part}") for part in PARTS[:3]]
    return "+".join(part for part in parts if part) or ("none" if run.settings else None)


def value_text(value: Any) -> str:
    """Return a value as it is written on the command line, safe to print; `ABSENT` is a dash."""
    return printable(_format_value(value))


def sort_key(value: Any) -> tuple[int, float, str]:
    """Return a key that sorts numbers by size, then texts, then null, then missing values."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    if value is ABSENT:
        return 3, 0.0, ""
    return (2, 0.0, "") if value is None else (1, 0.0, value_text(value))


def _format_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    return repr(value) if isinstance(value, float) else str(value)


def _outermost(names: Sequence[str]) -> list[str]:
    """Return the names of the fewest words, those of `match` only if there are no others."""
    own = [name for name in names if not name.startswith("match.")] or list(names)
    fewest = min((name.count(".") for name in own), default=0)
    return [name for name in own if name.count(".") == fewest]


def _list_names(names: Sequence[str]) -> str:
    most = 6
    more = f" or {len(names) - most} others" if len(names) > most else ""
    return (", ".join(names[:most]) if more else f"{', '.join(names[:-1])} or {names[-1]}") + more
