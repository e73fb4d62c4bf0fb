"""The parts and settings in which two groups of runs differ, and their pairs of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

from spectral_exp.results.group import Group
from spectral_exp.runs.overrides import is_among, matters_for_steps
from spectral_exp.runs.parts import PARTS, SECTIONS
from spectral_exp.runs.run import Run

LEARNING_RATE = "optimizer.learning_rate"

# Settings that choose a part; another choice may share its other settings.
_CHOICES = ("_target_", "activation")
# Names, paths, and settings whose effect `match_groups` compares: `match` sets a width, which shows
# in the number of parameters; the same text may lie elsewhere on another machine.
_NO_SETUP = ("name", "seed", "match", "device", "threads", "data.path")
_MATCHED = ("training.max_steps", "training.eval_windows")  # compared by `match_groups`
_MIN_SEEDS = 3
_MAX_NAMES = 3

Setup = tuple[tuple[str, str], ...]
"""Settings that affect training, by name."""


def differing_parts(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """Return the parts in which two groups differ, each being the same in all runs of a group."""
    choices = {part: (_only(a, part), _only(b, part)) for part in PARTS}
    return [
        part
        for part, (one, other) in choices.items()
        if one is not None and other is not None and one != other
    ]


def ablation_pairs(groups: Sequence[Group]) -> list[tuple[int, int, str]]:
    """Return the pairs of groups, by index, that differ in one part only.

    All other settings that affect training are equal, the learning rate included. Widths that
    `match` sets may differ, since they keep the number of parameters.
    """
    found = []
    for part in PARTS:
        choices = [
            (i, choice)
            for i, group in enumerate(groups)
            if (choice := _only(group.runs, part)) is not None
        ]
        if len({choice for _, choice in choices}) < 2:
            continue  # saves comparing all settings of all runs
        alike: dict[frozenset[Setup], list[tuple[int, str]]] = {}
        for i, choice in choices:
            alike.setdefault(frozenset(setup(run, (part,)) for run in groups[i].runs), []).append(
                (i, choice)
            )
        for members in alike.values():
            found += [
                (i, j, part) for (i, one), (j, other) in combinations(members, 2) if one != other
            ]
    return sorted(found)


def setup(run: Run, without: tuple[str, ...] = ()) -> Setup:
    """Return the settings that affect a run's training, without the seed and those of some parts.

    The learning rate is always included: every optimizer has one.
    """
    names = sorted(name for name in run.settings if _in_setup(name, without))
    return tuple((name, repr(run.settings[name])) for name in names)


def training_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Return the settings that affect training, with all their values in `runs` as words.

    Steps and validation windows are left to `match_groups`.
    """
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.settings.items():
            if _in_setup(name) and name not in _MATCHED:
                found.setdefault(name, {})[str(value)] = None
    for run in runs:
        for name, value in run.defaults.items():
            if name in found:
                found[name][str(value)] = None
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def other_differences(
    a: Mapping[str, str],
    b: Mapping[str, str],
    parts: Sequence[str],
    defaults: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> list[str]:
    """Return differing settings beside the parts, as `optimizer.weight_decay 0.1 against 0.01`.

    Settings of the parts that differ count only if both sides have them.

    Args:
        a, b: the `training_settings` of each group.
        parts: the parts in which they differ, from `differing_parts`.
        defaults: the `Run.defaults` of each group.
    """
    own = tuple(SECTIONS[part] for part in parts)
    found = []
    for name in sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)):
        one, other = a.get(name), b.get(name)
        of_part = is_among(name, own) and (one is None or other is None or name.endswith(_CHOICES))
        words = [
            text or str(known.get(name, "absent"))
            for text, known in zip((one, other), defaults, strict=True)
        ]
        # One side may record a value that is the default of the other.
        if not of_part and words[0] != words[1]:
            found.append(f"{name} {' against '.join(words)}")
    return found


def pairs_by_seed(a: Group, b: Group) -> list[tuple[Run, Run, int]]:
    """Return runs of `a` and `b` with the same seed, and the stratum of each pair.

    If a group holds several configurations, partners agree in all settings that do not separate the
    two groups: the differing parts, and settings with one value in each group. The result is empty
    if a run has more than one partner.
    """
    keyed: list[dict[tuple[Setup, int], Run]] = []
    for group, setups in zip((a, b), _setups(a, b), strict=True):
        seeded = [
            (setup_, run)
            for setup_, run in zip(setups, group.runs, strict=True)
            if run.seed is not None
        ]
        keyed.append({(setup_, run.seed): run for setup_, run in seeded if run.seed is not None})
        if len(keyed[-1]) < len(seeded):
            return []
    one, other = keyed
    common = [key for key in one if key in other]
    strata = {setup_: i for i, setup_ in enumerate(dict.fromkeys(setup_ for setup_, _ in common))}
    return [(one[key], other[key], strata[key[0]]) for key in common]


def why_unpaired(a: Group, b: Group) -> str:
    """Return why too few runs of two groups are pairs by seed, in words."""
    setups_a, setups_b = _setups(a, b)
    keys_a, keys_b = (
        [
            (setup_, run.seed)
            for setup_, run in zip(setups, group.runs, strict=True)
            if run.seed is not None
        ]
        for setups, group in ((setups_a, a), (setups_b, b))
    )
    if len({*keys_a}) < len(keys_a) or len({*keys_b}) < len(keys_b):
        return "several runs of one seed could be partners"
    common = {seed for _, seed in keys_a} & {seed for _, seed in keys_b}
    values_a, values_b = _values(setups_a), _values(setups_b)
    names = sorted(
        name
        for name in values_a.keys() | values_b.keys()
        if values_a.get(name) != values_b.get(name)
    )
    if len(common) < _MIN_SEEDS:
        return "fewer than three seeds in common"
    if not names:
        return "fewer than three pairs of runs agree in seed and configuration"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (
        "runs of equal seed are no pairs, since they differ in"
        f" {', '.join(names[:_MAX_NAMES])}{more} too"
    )


def _setups(a: Group, b: Group) -> tuple[list[Setup], list[Setup]]:
    """Return for each run of both groups the settings in which its partner must agree."""
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
        [tuple(item for item in setup_ if item[0] not in apart) for setup_ in setups]
        for setups in (setups_a, setups_b)
    )
    return setups_a, setups_b


_ABSENT = frozenset({""})
"""The values of a setting that no run has."""


def _values(setups: Sequence[Setup]) -> dict[str, frozenset[str]]:
    """Return all values of each setting, with "" for runs without it."""
    known = [dict(setup_) for setup_ in dict.fromkeys(setups)]
    names = {name for settings in known for name in settings}
    return {name: frozenset(settings.get(name, "") for settings in known) for name in names}


def _only(runs: Sequence[Run], part: str) -> str | None:
    """Return the choice that all runs have in common, or None."""
    choices = {run.parts.get(part) for run in runs}
    return choices.pop() if len(choices) == 1 else None


@cache  # few names, many calls
def _in_setup(name: str, without: tuple[str, ...] = ()) -> bool:
    if not matters_for_steps(name) or is_among(name, _NO_SETUP):
        return False
    return name == LEARNING_RATE or not is_among(name, tuple(SECTIONS[part] for part in without))
