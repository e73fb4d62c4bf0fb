"""How two groups of runs stand to each other: the parts and settings in which they differ, and which runs are pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

from spectral_exp.results.group import Group
from spectral_exp.runs.overrides import is_among, matters_for_steps
from spectral_exp.runs.parts import PARTS, SECTIONS
from spectral_exp.runs.run import Run

LEARNING_RATE = "optimizer.learning_rate"

# What chooses a part; its other settings are values that another choice may share.
_CHOICES = ("_target_", "activation")
# Names, places, and what `match_groups` compares by what came of it: `match` only sets a width, so it shows in the
# number of parameters; the same text may lie elsewhere on another machine.
_NO_SETUP = ("name", "seed", "match", "device", "threads", "data.path")
_MATCHED = ("training.max_steps", "training.eval_windows")  # told by `match_groups`
_MIN_SEEDS = 3
_MAX_NAMES = 3

Setup = tuple[tuple[str, str], ...]
"""Settings that decide about training, by name."""


def differing_parts(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """The parts in which two groups differ: all runs of one have the same, all runs of the other have another."""
    choices = {part: (_only(a, part), _only(b, part)) for part in PARTS}
    return [part for part, (one, other) in choices.items() if one is not None and other is not None and one != other]


def ablation_pairs(groups: Sequence[Group]) -> list[tuple[int, int, str]]:
    """The pairs of groups, by index, that differ in one part while all else that decides about training is equal.

    All else: every setting but those of the part itself, the learning rate included. Widths that `match` set may
    differ, since they are there to keep the number of parameters.
    """
    found = []
    for part in PARTS:
        choices = [(i, choice) for i, group in enumerate(groups) if (choice := _only(group.runs, part)) is not None]
        if len({choice for _, choice in choices}) < 2:
            continue  # which spares looking at all settings of all runs
        alike: dict[frozenset[Setup], list[tuple[int, str]]] = {}
        for i, choice in choices:
            alike.setdefault(frozenset(setup(run, (part,)) for run in groups[i].runs), []).append((i, choice))
        for members in alike.values():
            found += [(i, j, part) for (i, one), (j, other) in combinations(members, 2) if one != other]
    return sorted(found)


def setup(run: Run, without: tuple[str, ...] = ()) -> Setup:
    """What decides about a run's training beside its seed, without the settings of some parts.

    The learning rate stays: every optimizer has one, and a difference in it is never a part's own.
    """
    names = sorted(name for name in run.settings if _in_setup(name, without))
    return tuple((name, repr(run.settings[name])) for name in names)


def training_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Every setting that decides about training, with all its values in `runs` as words.

    Steps and validation windows are left to `match_groups`.
    """
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.settings.items():
            if _in_setup(name) and name not in _MATCHED:
                found.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def other_differences(a: Mapping[str, str], b: Mapping[str, str], parts: Sequence[str]) -> list[str]:
    """Settings beside the choice of parts in which two groups differ: `optimizer.weight_decay 0.1 against 0.01`.

    Of the parts that differ only those settings count that both sides have.

    Args:
        a, b: the `training_settings` of each group.
        parts: in which they differ, from `differing_parts`.
    """
    own = tuple(SECTIONS[part] for part in parts)
    found = []
    for name in sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)):
        one, other = a.get(name), b.get(name)
        of_part = is_among(name, own) and (one is None or other is None or name.endswith(_CHOICES))
        if not of_part:
            found.append(f"{name} {one or 'absent'} against {other or 'absent'}")
    return found


def pairs_by_seed(a: Group, b: Group) -> list[tuple[Run, Run, int]]:
    """Runs of `a` and `b` with the same seed, and the stratum of each pair.

    Where a group holds several configurations, partners have to agree in all but what tells the two groups apart: the
    parts in which they differ, and settings of which each group has one value and the other another. Empty where a run
    would have more than one partner.
    """
    keyed: list[dict[tuple[Setup, int], Run]] = []
    for group, setups in zip((a, b), _setups(a, b), strict=True):
        seeded = [(setup_, run) for setup_, run in zip(setups, group.runs, strict=True) if run.seed is not None]
        keyed.append({(setup_, run.seed): run for setup_, run in seeded if run.seed is not None})
        if len(keyed[-1]) < len(seeded):
            return []
    one, other = keyed
    common = [key for key in one if key in other]
    strata = {setup_: i for i, setup_ in enumerate(dict.fromkeys(setup_ for setup_, _ in common))}
    return [(one[key], other[key], strata[key[0]]) for key in common]


def why_unpaired(a: Group, b: Group) -> str:
    """Why too few runs of two groups are pairs by seed, in words."""
    setups_a, setups_b = _setups(a, b)
    keys_a, keys_b = (
        [(setup_, run.seed) for setup_, run in zip(setups, group.runs, strict=True) if run.seed is not None]
        for setups, group in ((setups_a, a), (setups_b, b))
    )
    if len({*keys_a}) < len(keys_a) or len({*keys_b}) < len(keys_b):
        return "several runs of one seed could be partners"
    common = {seed for _, seed in keys_a} & {seed for _, seed in keys_b}
    values_a, values_b = _values(setups_a), _values(setups_b)
    names = sorted(name for name in values_a.keys() | values_b.keys() if values_a.get(name) != values_b.get(name))
    if len(common) < _MIN_SEEDS:
        return "fewer than three seeds in common"
    if not names:
        return "fewer than three pairs of runs agree in seed and configuration"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"runs of equal seed are no pairs, since they differ in {', '.join(names[:_MAX_NAMES])}{more} too"


def _setups(a: Group, b: Group) -> tuple[list[Setup], list[Setup]]:
    """What partners have to agree in, for each run of both groups: nothing where each group is one configuration."""
    if len({*a.strata}) <= 1 and len({*b.strata}) <= 1:
        return [()] * len(a.runs), [()] * len(b.runs)
    parts = tuple(differing_parts(a.runs, b.runs))
    setups_a, setups_b = ([setup(run, parts) for run in group.runs] for group in (a, b))
    values_a, values_b = _values(setups_a), _values(setups_b)
    apart = {
        name
        for name in values_a.keys() | values_b.keys()
        if len(one := values_a.get(name, _ABSENT)) == 1
        and len(other := values_b.get(name, _ABSENT)) == 1
        and one != other
    }
    setups_a, setups_b = (
        [tuple(item for item in setup_ if item[0] not in apart) for setup_ in setups] for setups in (setups_a, setups_b)
    )
    return setups_a, setups_b


_ABSENT = frozenset({""})
"""The values of a setting that no run has."""


def _values(setups: Sequence[Setup]) -> dict[str, frozenset[str]]:
    """All values of each setting, with "" for runs that do not have it."""
    known = [dict(setup_) for setup_ in dict.fromkeys(setups)]
    names = {name for settings in known for name in settings}
    return {name: frozenset(settings.get(name, "") for settings in known) for name in names}


def _only(runs: Sequence[Run], part: str) -> str | None:
    """The choice that all runs have in common, or None."""
    choices = {run.parts.get(part) for run in runs}
    return choices.pop() if len(choices) == 1 else None


@cache  # a few names, asked about for every run
def _in_setup(name: str, without: tuple[str, ...] = ()) -> bool:
    if not matters_for_steps(name) or is_among(name, _NO_SETUP):
        return False
    return name == LEARNING_RATE or not is_among(name, tuple(SECTIONS[part] for part in without))
