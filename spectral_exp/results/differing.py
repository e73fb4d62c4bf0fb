"""The settings in which runs differ, said as shortly as it can be."""

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
    """The names, in the sense of `Names`, of what differs, the parts of the grid first.

    Another component differs in its class, and has settings of its own; then its name stands for all of them. A setting
    that several classes have in common and which differs all the same, as the betas of two optimizers, is named too.
    Of settings that repeat another's value, as n_wave in each wave part, the outermost is named.
    """
    known = [run for run in runs if run.settings]
    leaves = sorted({name for run in known for name in run.settings if makes_another_experiment(name)})
    sections = sorted({name.removesuffix(_TARGET) for name in leaves if name.endswith(_TARGET)}, key=len, reverse=True)
    classes = {section: [component_name(run.settings, section) for run in known] for section in sections}
    changed = {section for section, names in classes.items() if len(set(names)) > 1}
    found = [_part_of(section) for section in sorted(changed) if not section.startswith("match.")]
    columns: dict[str, tuple[str, ...]] = {}
    for leaf in leaves:
        if _is_the_same_in_all(leaf, known):
            continue
        section = next((name for name in sections if leaf.startswith(f"{name}.")), "")
        if leaf.endswith(_TARGET) or leaf.startswith("match.") or _decides_name(leaf, section, classes):
            continue
        column = tuple(_written(run.settings, leaf) for run in known)
        present = {value for value in column if value}
        # A component that has no such setting is told apart by its name.
        lacking = section in changed and all(
            value or _is_class_without(leaf, section, run, known) for value, run in zip(column, known, strict=True)
        )
        if len(present) > 1 or (len(set(column)) > 1 and not lacking):
            columns[leaf] = column
    for leaf in sorted(columns, key=lambda name: (name.count("."), name)):
        if not any(_repeats(columns, leaf, other) for other in found if other in columns):
            found.append(leaf)
    if len({match_of(run) for run in known}) > 1:
        found.append("match")
    return sorted(found, key=lambda name: (name not in PARTS, PARTS.index(name) if name in PARTS else 0, name))


def _is_the_same_in_all(leaf: str, runs: Sequence[Run]) -> bool:
    """Whether nothing can be said of a setting, which is so of most, and quickly found."""
    first = runs[0].settings.get(leaf, _ABSENT)
    kind = type(first)
    return first is not _ABSENT and all(
        type(value := run.settings.get(leaf, _ABSENT)) is kind and value == first for run in runs
    )


def _part_of(section: str) -> str:
    return section.removeprefix("model.") if section.removeprefix("model.") in _MODEL_PARTS else section


def _decides_name(leaf: str, section: str, classes: Mapping[str, Sequence[str | None]]) -> bool:
    """Whether a setting chooses between variants that have names of their own, which says it."""
    if len(set(classes.get(section, ()))) < 2:
        return False
    return leaf in ("model.mlp.activation", "model.attention.mode")


def _is_class_without(leaf: str, section: str, run: Run, runs: Sequence[Run]) -> bool:
    """Whether no run with this run's component has the setting."""
    own = run.settings.get(f"{section}{_TARGET}")
    return all(leaf not in other.settings for other in runs if other.settings.get(f"{section}{_TARGET}") == own)


def _written(settings: Mapping[str, Any], leaf: str) -> str:
    """A value as a text to compare, "" where it is absent."""
    value = settings.get(leaf, _ABSENT)
    return "" if value is _ABSENT else json.dumps(value, sort_keys=True, default=str)


def _repeats(columns: Mapping[str, Sequence[str]], leaf: str, other: str) -> bool:
    """Whether a setting says only what another of the same last name says further out."""
    if leaf.rpartition(".")[2] != other.rpartition(".")[2] or not leaf.startswith(other.rpartition(".")[0]):
        return False
    return all(value in ("", outer) for value, outer in zip(columns[leaf], columns[other], strict=True))
