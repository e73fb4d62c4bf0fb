"""How two groups of runs stand to each other: the parts and settings in which they differ, and which runs are pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

from spectral_exp.results.group import Group
from spectral_exp.results.run import Run
from spectral_exp.results.settings import PARTS, SECTIONS
from spectral_exp.run_record import is_among, matters_for_steps

LEARNING_RATE = "optimizer.learning_rate"

# What chooses a part; its other settings are values that another choice may share.
_CHOICES = ("_target_", "activation")
# Names, places, and what `match_groups` compares by what came of it: `match` only sets a width, so it shows in the
# number of parameters; the same text may lie elsewhere on another machine.
_NO_SETUP = ("name", "seed", "match", "device", "threads", "data.path")
_MATCHED = ("training.max_steps", "training.eval_windows")  # told by `match_groups`

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

    Where a group holds several configurations, partners have to agree in all but the parts in which the two groups
    differ. Empty where a run would have more than one partner.
    """
    parts = tuple(differing_parts(a.runs, b.runs))
    by_setup = len({*a.strata}) > 1 or len({*b.strata}) > 1
    keyed: list[dict[tuple[Setup, int], Run]] = []
    for group in (a, b):
        seeded = [run for run in group.runs if run.seed is not None]
        keyed.append({(setup(run, parts) if by_setup else (), run.seed): run for run in seeded if run.seed is not None})
        if len(keyed[-1]) < len(seeded):
            return []
    one, other = keyed
    common = [key for key in one if key in other]
    strata = {setup_: i for i, setup_ in enumerate(dict.fromkeys(setup_ for setup_, _ in common))}
    return [(one[key], other[key], strata[key[0]]) for key in common]


def _only(runs: Sequence[Run], part: str) -> str | None:
    """The choice that all runs have in common, or None."""
    choices = {run.parts.get(part) for run in runs}
    return choices.pop() if len(choices) == 1 else None


@cache  # a few names, asked about for every run
def _in_setup(name: str, without: tuple[str, ...] = ()) -> bool:
    if not matters_for_steps(name) or is_among(name, _NO_SETUP):
        return False
    return name == LEARNING_RATE or not is_among(name, tuple(SECTIONS[part] for part in without))
