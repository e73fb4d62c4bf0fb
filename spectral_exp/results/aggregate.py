"""Runs below folders, selected and grouped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectral_exp.core.wording import format_count, noun
from spectral_exp.results.conditions import Condition
from spectral_exp.results.differing import differing_names
from spectral_exp.results.group import Group, group_by
from spectral_exp.results.names import ABSENT, Names, sort_key, value_text
from spectral_exp.runs import index as run_index
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.load import run_of
from spectral_exp.runs.run import Run


class ResultsAggregator:
    """The runs below some folders.

    Args:
        folders: run directories, sweeps, or folders that hold such at any depth.
        index: whether to keep an index on disk, which makes the next call fast.
        marks: whether to read the marks of the runs. A document that is verified later does without
            them, because they may change at any time.

    Raises:
        UserError: a folder does not exist.

    Attributes:
        runs: sorted by name, seed, path.
        left_out: path and reason of every folder that looks like a run and could not be used.
        archived: the runs that `select` has left out because they are archived.
    """

    runs: Sequence[Run]
    left_out: Sequence[tuple[Path, str]]
    archived: Sequence[Run] = ()

    def __init__(
        self, folders: Sequence[str | Path], *, index: bool = True, marks: bool = True
    ) -> None:
        found = find_runs(folders)
        facts = run_index.facts_of(found.runs, run_index.index_file() if index else None)
        pairs = list(zip(found.runs, facts, strict=True))
        unusable = [(path, str(what["unusable"])) for path, what in pairs if "unusable" in what]
        runs = [
            run_of(path, what, with_marks=marks) for path, what in pairs if "unusable" not in what
        ]
        self._set(runs, [*found.left_out, *unusable])

    @classmethod
    def of(
        cls, runs: Iterable[Run], left_out: Iterable[tuple[Path, str]] = ()
    ) -> ResultsAggregator:
        """Return the aggregator of runs that are loaded already."""
        aggregator = object.__new__(cls)
        aggregator._set(list(runs), left_out)
        return aggregator

    def _set(self, runs: Sequence[Run], left_out: Iterable[tuple[Path, str]]) -> None:
        self.left_out = sorted(left_out)
        self.runs = sorted(_with_unique_ids(runs), key=_order)

    def where(self, conditions: Sequence[str]) -> ResultsAggregator:
        """Return the runs that meet all conditions: `name=value`, `name!=value`, `name<value`, ...

        A name is a setting's dotted name or its unique ending, a part (`optimizer=rgd`), or one of
        `status`, `name` and `seed`. A value may hold `*`, and several are possible:
        `name=wave*,classic`. Marks are `tag=good`, `note=*text*`, `pinned` and `archived`; `none`
        stands for no tag or no note.

        Raises:
            UserError: a condition cannot be understood, or no run has such a setting.
        """
        return self._meeting(self._parse(conditions))

    def select(self, conditions: Sequence[str], *, archived: bool = False) -> ResultsAggregator:
        """Return the runs that meet all conditions, without archived ones.

        Args:
            conditions: as for `where`. A condition on `archived` includes archived runs.
            archived: whether to include archived runs.

        Raises:
            UserError: as `where`.
        """
        parsed = self._parse(conditions)
        chosen = self._meeting(parsed)
        if not archived and all(condition.name != "archived" for condition in parsed):
            left_out = [run for run in chosen.runs if run.marks.is_archived]
            chosen = self._only(run for run in chosen.runs if not run.marks.is_archived)
            chosen.archived = left_out
        return chosen

    @property
    def archived_note(self) -> str:
        """A sentence on the archived runs that are left out, or ""."""
        n = len(self.archived)
        words = f"{format_count(n, 'archived run')} {noun(n, 'is', 'are')} left out"
        return f"{words}; --archived includes {noun(n, 'it', 'them')}" if n else ""

    def groups(self, by: Sequence[str] | None = None) -> list[Group]:
        """Return groups of runs that differ only in their seed, or that agree in the settings `by`.

        Raises:
            UserError: no run has one of the settings in `by`.
        """
        return _coarse_groups(self.runs, by) if by else _experiments(self.runs)

    def differing(self) -> list[str]:
        """Return the settings in which the runs differ, without seeds and paths.

        The name of a part or component replaces its settings.
        """
        return differing_names(self.runs)

    def _parse(self, conditions: Sequence[str]) -> list[Condition]:
        names = Names(self.runs)
        return [Condition.of(text, names) for text in conditions]

    def _meeting(self, conditions: Sequence[Condition]) -> ResultsAggregator:
        return self._only(
            run for run in self.runs if all(condition.met_by(run) for condition in conditions)
        )

    def _only(self, runs: Iterable[Run]) -> ResultsAggregator:
        chosen = object.__new__(ResultsAggregator)
        chosen.runs, chosen.left_out = list(runs), self.left_out
        return chosen


def _order(run: Run) -> tuple[str, bool, int, str]:
    return run.name, run.seed is None, run.seed or 0, str(run.path)


def _with_unique_ids(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; equal ids get as many names of parent folders as make them unique."""
    unique = {}
    for run_id, same in group_by(runs, lambda run: run.run_id).items():
        parts = [run.path.resolve().parts for run in same] if len(same) > 1 else [()]
        count = run_id.count("/") + 1
        while count < max(map(len, parts)) and len({part[-count:] for part in parts}) < len(same):
            count += 1
        for run, part in zip(same, parts, strict=True):
            is_alone = len(same) == 1
            unique[id(run)] = run if is_alone else replace(run, run_id="/".join(part[-count:]))
    return [unique[id(run)] for run in runs]


# --- groups -------------------------------------------------------------------------------


def _experiments(runs: Sequence[Run]) -> list[Group]:
    """Return groups of one name and configuration, in the order of their names."""
    members = group_by(runs, _experiment)
    by_name = group_by(members, lambda key: key[0])
    has_one_name = len(by_name) == 1
    differing = differing_names(runs)
    names = Names(runs)
    groups = []
    for name, keys in by_name.items():
        # If several configurations have one name, the settings that differ join the label.
        differing_here = differing_names([members[key][0] for key in keys]) if len(keys) > 1 else []
        keys = sorted(keys, key=lambda key: _sort_key(members[key][0], differing_here, names))
        # A name that all groups share, as those of a sweep do, distinguishes none of them.
        first = [] if has_one_name and len(keys) > 1 else [name]
        labels = [
            " ".join([*first, *_setting_labels(members[key][0], differing_here, names)]) or name
            for key in keys
        ]
        for key, label in zip(keys, labels, strict=True):
            unique = label if labels.count(label) == 1 else f"{label} {key[1] or key[2]}"
            settings = {
                "name": name,
                **{other: names.value(members[key][0], other) for other in differing},
            }
            groups.append(Group(unique, settings, members[key], [0] * len(members[key])))
    return groups


def _experiment(run: Run) -> tuple[str, str, str]:
    """Return the identity of a run's experiment; a run without settings has its own."""
    return (run.name, run.config_hash, "" if run.settings else run.run_id)


def _setting_labels(run: Run, settings: Sequence[str], names: Names) -> list[str]:
    """Return the settings that a run has with their values."""
    values = {name: names.value(run, name) for name in settings}
    return [
        f"{names.short(name)}={value_text(value)}"
        for name, value in values.items()
        if value is not ABSENT
    ]


def _coarse_groups(runs: Sequence[Run], by: Sequence[str]) -> list[Group]:
    """Return groups of runs that agree in some settings, in the order of their values."""
    names = Names(runs)
    resolved = [names.resolve(name) for name in by]
    members = group_by(
        runs, lambda run: tuple(value_text(names.value(run, name)) for name in resolved)
    )
    groups = []
    for members_of in sorted(
        members.values(), key=lambda runs: _sort_key(runs[0], resolved, names)
    ):
        strata = list(group_by(members_of, _experiment))
        key = {name: names.value(members_of[0], name) for name in resolved}
        groups.append(
            Group(
                _coarse_label(key, names),
                key,
                members_of,
                [strata.index(_experiment(run)) for run in members_of],
            )
        )
    return groups


def _coarse_label(key: Mapping[str, Any], names: Names) -> str:
    """Return the values of settings, without those that the runs do not have."""
    labels = [
        value_text(value) if name in names.speaking else f"{names.short(name)}={value_text(value)}"
        for name, value in key.items()
        if value is not ABSENT or name in names.speaking
    ]
    return " / ".join(labels or [f"no {names.short(name)}" for name in key])


def _sort_key(run: Run, resolved: Sequence[str], names: Names) -> list[tuple[int, float, str]]:
    return [sort_key(names.value(run, name)) for name in resolved]
