"""The fewest names of settings that describe how runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spectral_exp.results.names import match_of
from spectral_exp.runs.parts import PARTS, component_name, makes_another_experiment
from spectral_exp.runs.run import Run

_TARGET = "._target_"
_MODEL_PARTS = PARTS[:3]
_ABSENT = object()


def differing_names(runs: Sequence[Run]) -> list[str]:
    """Return the names, as of `Names`, of the settings that differ, parts of the grid first.

    Components of different classes have different settings; the component's name replaces them.
    Settings that both classes have and that differ, such as the betas of two optimizers, are named
    too. Of settings that repeat another's value, such as n_wave in each wave part, the outermost is
    named.
    """
    known = [run for run in runs if run.settings]
    leaves = sorted(
        {name for run in known for name in run.settings if makes_another_experiment(name)}
    )
    sections = sorted(
        {name.removesuffix(_TARGET) for name in leaves if name.endswith(_TARGET)},
        key=len,
        reverse=True,
    )
    classes = {
        section: [component_name(run.settings, section) for run in known] for section in sections
    }
    changed = {section for section, names in classes.items() if len(set(names)) > 1}
    found = [_part_of(section) for section in sorted(changed) if not section.startswith("match.")]
    columns: dict[str, tuple[str, ...]] = {}
    for leaf in leaves:
        if _is_the_same_in_all(leaf, known):
            continue
        section = next((name for name in sections if leaf.startswith(f"{name}.")), "")
        if (
            leaf.endswith(_TARGET)
            or leaf.startswith("match.")
            or _decides_name(leaf, section, classes)
        ):
            continue
        column = tuple(_value_text(run.settings, leaf) for run in known)
        present = {value for value in column if value}
        # A component without the setting has another class, whose name is listed already.
        lacking = section in changed and all(
            value or _is_class_without(leaf, section, run, known)
            for value, run in zip(column, known, strict=True)
        )
        if len(present) > 1 or (len(set(column)) > 1 and not lacking):
            columns[leaf] = column
    for leaf in sorted(columns, key=lambda name: (name.count("."), name)):
        if not any(_repeats(columns, leaf, other) for other in found if other in columns):
            found.append(leaf)
    if len({match_of(run) for run in known}) > 1:
        found.append("match")
    return sorted(
        found, key=lambda name: (name not in PARTS, PARTS.index(name) if name in PARTS else 0, name)
    )


def _is_the_same_in_all(leaf: str, runs: Sequence[Run]) -> bool:
    """Return whether a setting is equal in all runs, which is true of most and fast to check."""
    first = runs[0].settings.get(leaf, _ABSENT)
    kind = type(first)
    return first is not _ABSENT and all(
        type(value := run.settings.get(leaf, _ABSENT)) is kind and value == first for run in runs
    )


def _part_of(section: str) -> str:
    return (
        section.removeprefix("model.")
        if section.removeprefix("model.") in _MODEL_PARTS
        else section
    )


def _decides_name(leaf: str, section: str, classes: Mapping[str, Sequence[str | None]]) -> bool:
    """Return whether a setting chooses between variants whose component names differ already."""
    if len(set(classes.get(section, ()))) < 2:
        return False
    return leaf in ("model.mlp.activation", "model.attention.mode")


def _is_class_without(leaf: str, section: str, run: Run, runs: Sequence[Run]) -> bool:
    """Return whether no run with this run's component has the setting."""
    own = run.settings.get(f"{section}{_TARGET}")
    return all(
        leaf not in other.settings
        for other in runs
        if other.settings.get(f"{section}{_TARGET}") == own
    )


def _value_text(settings: Mapping[str, Any], leaf: str) -> str:
    """Return a value as a text to compare, or "" if it is absent."""
    value = settings.get(leaf, _ABSENT)
    return "" if value is _ABSENT else json.dumps(value, sort_keys=True, default=str)


def _repeats(columns: Mapping[str, Sequence[str]], leaf: str, other: str) -> bool:
    """Return whether a setting repeats the values of a less deep one of the same last name."""
    if leaf.rpartition(".")[2] != other.rpartition(".")[2] or not leaf.startswith(
        other.rpartition(".")[0]
    ):
        return False
    return all(
        value in ("", outer) for value, outer in zip(columns[leaf], columns[other], strict=True)
    )
