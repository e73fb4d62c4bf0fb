"""What single parts contribute to a difference: effects against direct sums, and missing groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats

from spectral_exp.core.errors import UserError
from spectral_exp.results import statistics
from spectral_exp.results.attribution import Attribution, Effect, attribute
from spectral_exp.results.attribution_tables import attribution_table, attribution_values
from spectral_exp.results.comparison import compare
from spectral_exp.results.grid import Cell, differing_parts_of
from spectral_exp.results.group import Group
from tests.results.fakes import fake_group, fake_run

NOISE = (0.0, 0.011, -0.009, 0.004)
VALUES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "embedding": (
        {"model.embedding._target_": "standard"},
        {"model.embedding._target_": "wave", "model.embedding.wave_ratio": 0.5},
    ),
    "attention": ({"model.attention._target_": "rotary"}, {"model.attention._target_": "phasor"}),
    "model.qk_norm": ({"model.qk_norm": False}, {"model.qk_norm": True}),
}


def label(cell: Sequence[str]) -> str:
    return "+".join(cell) or "classic"


def grid(
    value: Callable[[Cell, int], float],
    parts: Sequence[str] = tuple(VALUES),
    without: Sequence[Sequence[str]] = (),
    **facts: Any,
) -> list[Group]:
    """Groups for all choices of `parts`; `value` gives that of a cell for a seed."""
    groups = []
    for size in range(len(parts) + 1):
        for cell in itertools.combinations(parts, size):
            settings: dict[str, Any] = {}
            for part in parts:
                settings |= VALUES[part][part in cell]
            runs = [
                fake_run(
                    "classic",
                    seed,
                    value(frozenset(cell), seed),
                    run_id=f"{label(cell)}_{seed}",
                    settings=settings,
                    **facts,
                )
                for seed in range(1, len(NOISE) + 1)
            ]
            if cell not in without:
                groups.append(fake_group(runs, label(cell)))
    return groups


def value(cell: Cell, seed: int) -> float:
    """An interaction, a part without effect, and noise that depends on the cell too."""
    found = 2.5 - 0.1 * ("embedding" in cell) - 0.2 * ("model.qk_norm" in cell)
    found += 0.06 * ({"embedding", "model.qk_norm"} <= cell)
    own = 0.002 * math.sin(17 * seed + sum(map(len, cell)))
    return found + NOISE[seed - 1] + own


def effects(attribution: Attribution) -> dict[tuple[str, Cell | None], Effect]:
    found = {(one.part, one.given): one for one in attribution.effects}
    assert len(found) == len(attribution.effects)
    return found


def attributed(groups: Sequence[Group], candidate: str | None = None, **how: Any) -> Attribution:
    return attribute(compare(groups, baseline="classic", **how), candidate)


def test_effects_are_means_of_differences_by_seed() -> None:
    found = attributed(grid(value))
    assert (found.baseline, found.candidate) == ("classic", "embedding+attention+model.qk_norm")
    assert [(p.name, p.before, p.after) for p in found.grid.parts] == [
        ("embedding", "standard", "wave"),
        ("attention", "rotary", "phasor"),
        ("model.qk_norm", "false", "true"),
    ]
    known = effects(found)
    assert len(known) == 3 + 3 * 4
    seeds = range(1, len(NOISE) + 1)
    for part in VALUES:
        others = [name for name in VALUES if name != part]
        cells = [frozenset(one) for n in range(3) for one in itertools.combinations(others, n)]
        gains = np.array([[value(c | {part}, s) - value(c, s) for s in seeds] for c in cells])
        for given, gain in [*zip(cells, gains, strict=True), (None, gains.mean(axis=0))]:
            effect = known[part, given]
            assert (effect.n, effect.paired) == (len(NOISE), True)
            assert effect.mean == pytest.approx(gain.mean(), abs=1e-12)
            assert effect.p_value == pytest.approx(scipy.stats.ttest_1samp(gain, 0).pvalue)
            expected = statistics.mean_interval(gain)
            assert expected is not None
            assert effect.interval is not None
            assert effect.interval.low == pytest.approx(expected.low)
    corrected = statistics.holm([one.p_value or 0 for one in found.effects])
    assert [one.p_holm for one in found.effects] == corrected
    assert known["embedding", None].verdict(True) == "better"
    assert known["embedding", None].verdict(False) == "worse"
    no_effect = known["attention", frozenset()]
    assert no_effect.verdict(True) == "not separated"
    assert no_effect.detectable is not None
    assert no_effect.level == 0.05 / (15 - sum(p < 0.05 for p in corrected))


def test_effects_on_every_path_add_up_to_the_difference() -> None:
    found = attributed(grid(value))
    known = effects(found)
    assert found.total.mean is not None
    for order in itertools.permutations(VALUES):
        steps = [known[part, frozenset(order[:i])].mean for i, part in enumerate(order)]
        assert sum(step or 0.0 for step in steps) == pytest.approx(found.total.mean)
    assert "the rest is due to interactions" in found.notes[0]


def test_of_two_parts_the_main_effects_add_up() -> None:
    found = attributed(grid(value, ("embedding", "model.qk_norm")))
    main = [one.mean or 0.0 for one in found.effects if one.given is None]
    assert found.total.mean == pytest.approx(sum(main))
    assert "interactions" not in found.notes[0]


def test_missing_groups_are_named_and_the_other_effects_remain() -> None:
    found = attributed(grid(value, without=[("attention", "model.qk_norm")]))
    known = effects(found)
    assert [sorted(cell) for cell in found.grid.missing] == [["attention", "model.qk_norm"]]
    assert found.notes[1] == (
        "1 group of the grid of 8 has no finished run, so there are no main effects: "
        "embedding=standard, attention=phasor, model.qk_norm=true"
    )
    assert ("embedding", frozenset({"attention"})) in known
    assert ("embedding", frozenset({"attention", "model.qk_norm"})) not in known
    main = known["embedding", None]
    assert (main.mean, main.p_holm, main.verdict(True)) == (None, None, "groups are missing")


def test_a_group_that_agrees_in_all_else_is_in_the_grid() -> None:
    parts = ("embedding", "model.qk_norm")
    groups = grid(value, parts)
    other = groups[1]
    changed = [
        fake_run("classic", run.seed, settings={**run.settings, "optimizer.weight_decay": 0.3})
        for run in other.runs
    ]
    groups[1] = fake_group(changed, groups[1].label)
    found = attributed(groups, label(parts))
    assert found.grid.missing == [frozenset({"embedding"})]


def test_seeds_that_are_not_in_all_groups_do_not_count() -> None:
    groups = grid(value, ("embedding", "model.qk_norm"))
    groups[1] = fake_group(groups[1].runs[:-1], groups[1].label)
    known = effects(attributed(groups))
    assert known["embedding", None].n == 3
    assert known["embedding", frozenset({"model.qk_norm"})].n == 4
    groups[1] = fake_group(groups[1].runs[:2], groups[1].label)
    known = effects(attributed(groups))
    assert known["embedding", None].interval is None
    assert known["embedding", frozenset()].paired is False


def test_a_busy_machine_gives_no_verdict() -> None:
    # Equal runs differ by up to 1.5 times, and always in the same way.
    groups = grid(value, ("embedding", "model.qk_norm"))
    for i, group in enumerate(groups):
        runs = [
            fake_run("classic", run.seed, settings=run.settings, run_id=run.run_id,
                     values={"train_s": (60 + 3 * i + 0.01 * i * (run.seed or 0)) * slow})
            for run, slow in zip(group.runs, (1.0, 1.5, 1.1, 1.2), strict=True)
        ]  # fmt: skip
        groups[i] = fake_group(runs, group.label)
    found = attributed(groups, metric="train_s")
    assert all(one.p_holm is not None and one.p_holm < 0.05 for one in found.effects)
    assert not any(one.separated for one in found.effects)


def test_parts_own_their_settings_and_repeated_ones() -> None:
    a = fake_run(settings={"model.n_wave": 8, "model.embedding.n_wave": 8})
    b = fake_run(
        "wave_rgd",
        settings={
            "model.n_wave": 16,
            "model.embedding.n_wave": 16,
            "model.mlp.n_wave": 16,
            "optimizer.learning_rate": 2e-3,
        },
    )
    found = {part.name: part.settings for part in differing_parts_of(a, b)}
    assert list(found) == ["embedding", "attention", "mlp", "optimizer", "model.n_wave"]
    assert "optimizer.learning_rate" in found["optimizer"]
    assert found["model.n_wave"] == {"model.n_wave"}
    c = fake_run(settings={"model.n_wave": 16, "model.embedding.n_wave": 16})
    (part,) = differing_parts_of(a, c)
    assert part.settings == {"model.n_wave", "model.embedding.n_wave"}
    assert (part.before, part.after) == ("8", "16")


def test_mistakes_are_explained() -> None:
    groups = grid(value, ("embedding", "model.qk_norm"))
    with pytest.raises(UserError, match="attribute=wave must be the label of another group"):
        attributed(groups, "wave")
    with pytest.raises(UserError, match="embedding differs from classic in embedding; a diff"):
        attributed(groups, "embedding")
    with pytest.raises(
        UserError, match=r"embedding, model\.qk_norm differ from classic in equally"
    ):
        attributed(groups[:3])
    with pytest.raises(UserError, match="only one group"):
        attribute(compare(groups[:1]))


def test_tables_and_values_hold_the_same_effects() -> None:
    found = attributed(grid(value, ("embedding", "model.qk_norm")))
    table = attribution_table(found)
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [row[:3] for row in rows] == [
        ["embedding", "standard to wave", "mean over all"],
        ["model.qk_norm", "false to true", "mean over all"],
        ["embedding", "standard to wave", "nothing else"],
        ["embedding", "standard to wave", "model.qk_norm"],
        ["model.qk_norm", "false to true", "nothing else"],
        ["model.qk_norm", "false to true", "embedding"],
    ]
    values = attribution_values(found)["effects"]
    assert [one["mean"] for one in values] == [one.mean for one in found.effects]
    assert [one["given"] for one in values[:3]] == [None, None, []]
