"""The grid between two groups: for every choice of the parts in which they differ, its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from spectral_exp.results.compared import GroupSummary
from spectral_exp.results.names import match_of, value_text
from spectral_exp.results.pairs import LEARNING_RATE, setup
from spectral_exp.runs.parts import PARTS, SECTIONS, component_name
from spectral_exp.runs.run import Run

_TARGET = "._target_"
_ABSENT = "absent"

Cell = frozenset[str]
"""The names of the parts that have the candidate's value; the others have the baseline's."""


@dataclass(frozen=True)
class GridPart:
    """Something in which two groups differ: a component with its settings, or one setting.

    Attributes:
        name: a part, the section of another component, or a setting's dotted name.
        before, after: the baseline's value and the candidate's, as words.
        settings: the dotted names of all settings that belong to it and differ.
    """

    name: str
    before: str
    after: str
    settings: frozenset[str]


@dataclass(frozen=True)
class Grid:
    """The groups between a baseline and a candidate.

    Attributes:
        parts: in which the two differ, those of the ablation grid first.
        cells: the groups that exist.
    """

    parts: Sequence[GridPart]
    cells: Mapping[Cell, GroupSummary]

    @property
    def names(self) -> list[str]:
        """The names of the parts."""
        return [part.name for part in self.parts]

    def subsets(self, without: str = "") -> list[Cell]:
        """Return all cells in which the part `without` is not changed, those with few parts first.

        Without a name, return all cells.
        """
        names = [name for name in self.names if name != without]
        sizes = range(len(names) + 1)
        return [frozenset(one) for one in chain(*(combinations(names, size) for size in sizes))]

    @property
    def missing(self) -> list[Cell]:
        """The cells without a group that has values."""
        return [cell for cell in self.subsets() if cell not in self.cells]

    def describe(self, cell: Cell) -> str:
        """Return the value of each part in a cell."""
        values = [(p.name, p.after if p.name in cell else p.before) for p in self.parts]
        return ", ".join(f"{name}={value}" for name, value in values)


def differing_parts_of(a: Run, b: Run) -> list[GridPart]:
    """Return the parts in which two runs differ.

    The settings of a component whose class differs belong to it; so does the learning rate if the
    optimizer differs. A setting that repeats an outer one, as `n_wave` in each wave part, belongs
    to that.
    """
    values_a, values_b = dict(setup(a)), dict(setup(b))
    names = {*values_a, *values_b}
    differing = {name for name in names if values_a.get(name) != values_b.get(name)}
    changed = [
        section
        for section in sorted({name.removesuffix(_TARGET) for name in names if _TARGET in name})
        if component_name(a.settings, section) != component_name(b.settings, section)
    ]
    members: dict[str, set[str]] = {}
    for name in sorted(differing, key=lambda name: (name.count("."), name)):
        sections = [one for one in changed if name.startswith(f"{one}.")]
        repeated = [one for one in members if _repeats(name, one, values_a, values_b)]
        owner = max(sections, key=len) if sections else repeated[0] if repeated else name
        if name == LEARNING_RATE and "optimizer" in changed:
            owner = "optimizer"
        members.setdefault(owner, set()).add(name)
    part_of = {section: part for part, section in SECTIONS.items()}
    found = [
        GridPart(
            part_of.get(owner, owner),
            _words(a, owner, is_component=owner in changed),
            _words(b, owner, is_component=owner in changed),
            frozenset(settings),
        )
        for owner, settings in members.items()
    ]
    order = {part: i for i, part in enumerate(PARTS)}
    return sorted(found, key=lambda part: (order.get(part.name, len(order)), part.name))


def find_grid(
    baseline: GroupSummary, candidate: GroupSummary, summaries: Sequence[GroupSummary]
) -> Grid:
    """Return the grid between two groups.

    A group is in it if it has the baseline's or the candidate's value in every part in which these
    differ, and agrees with both in all other settings that affect training.
    """
    first, last = baseline.group.runs[0], candidate.group.runs[0]
    parts = differing_parts_of(first, last)
    before, after = dict(setup(first)), dict(setup(last))
    matches = {match_of(first), match_of(last)}
    cells: dict[Cell, GroupSummary] = {frozenset(part.name for part in parts): candidate}
    cells[frozenset()] = baseline
    # Of several groups in a cell, that with most values counts.
    for summary in sorted(summaries, key=lambda s: (-len(s.values), s.group.natural_order)):
        run = summary.group.runs[0]
        cell = _cell_of(dict(setup(run)), parts, before, after)
        if cell is not None and summary.values and match_of(run) in matches:
            cells.setdefault(cell, summary)
    return Grid(parts, {cell: summary for cell, summary in cells.items() if summary.values})


def _cell_of(
    settings: Mapping[str, str],
    parts: Sequence[GridPart],
    before: Mapping[str, str],
    after: Mapping[str, str],
) -> Cell | None:
    """Return the cell of settings, or None if they are not in the grid."""
    changed = set()
    for part in parts:
        own, one, other = (
            {name: values.get(name) for name in part.settings}
            for values in (settings, before, after)
        )
        if own == other:
            changed.add(part.name)
        elif own != one:
            return None
    of_parts = frozenset().union(*(part.settings for part in parts))
    rest = (settings.keys() | before.keys()) - of_parts
    is_same = all(settings.get(name) == before.get(name) for name in rest)
    return frozenset(changed) if is_same else None


def _repeats(
    name: str, outer: str, values_a: Mapping[str, str], values_b: Mapping[str, str]
) -> bool:
    """Return whether a setting repeats the value of an outer one of the same last name."""
    if name.rpartition(".")[2] != outer.rpartition(".")[2]:
        return False
    if not name.startswith(outer.rpartition(".")[0]):
        return False
    return all(values.get(name) in (None, values.get(outer)) for values in (values_a, values_b))


def _words(run: Run, owner: str, *, is_component: bool) -> str:
    if is_component:
        return component_name(run.all_settings, owner) or _ABSENT
    return value_text(run.all_settings[owner]) if owner in run.all_settings else _ABSENT
