"""Groups of runs compared: which runs count, which differences are shown, and when one counts as
better."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.results import statistics
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import (
    Comparison,
    Difference,
    compare,
)
from spectral_exp.results.group import Group
from spectral_exp.results.pairs import (
    ablation_pairs,
    other_differences,
    pairs_by_seed,
    training_settings,
    why_unpaired,
)
from spectral_exp.results.tables import render_comparisons
from spectral_exp.runs.metric_names import metric_info
from tests.results.fakes import fake_group, fake_run, said, seeds
from tests.results.made_runs import make_run

CLASSIC = [2.50, 2.52, 2.49, 2.53, 2.51]
BETTER = [2.40, 2.43, 2.395, 2.42, 2.41]
NEAR = [2.51, 2.50, 2.50, 2.52, 2.515]


def difference(comparison: Comparison, a: str, b: str, kind: str = "baseline") -> Difference:
    found = [
        d
        for d in comparison.differences
        if (d.a.group.label, d.b.group.label, d.kind) == (a, b, kind)
    ]
    assert len(found) == 1
    return found[0]


def ablations(comparison: Comparison) -> dict[tuple[str, str], str | None]:
    return {
        (d.a.group.label, d.b.group.label): d.part
        for d in comparison.differences
        if d.kind == "ablation"
    }


# --- groups ---------------------------------------------------------------------------------------


def test_summary_of_a_group() -> None:
    summary = compare([seeds("classic", CLASSIC)]).summaries[0]
    assert list(summary.values) == CLASSIC
    assert list(summary.seeds) == [1, 2, 3, 4, 5]
    assert summary.mean == pytest.approx(2.51)
    assert summary.median == 2.51
    assert summary.iqm == pytest.approx(2.51)
    assert summary.interval == statistics.mean_interval(CLASSIC)
    assert (summary.left_out, summary.notes) == ([], [])


def test_runs_that_do_not_count_are_named_with_their_reason() -> None:
    runs = [
        fake_run(seed=1),
        fake_run(seed=2, status="interrupted", steps=40),
        fake_run(seed=3, val_bpb=math.nan),
        fake_run(seed=4, values={"val_bpb": None}),  # type: ignore[dict-item]
        fake_run(seed=5, status="failed", steps=10, results={"error": "RunError: bad"}),
    ]
    summary = compare([fake_group(runs)]).summaries[0]
    assert list(summary.seeds) == [1]
    assert {run_id: str(reason) for run_id, reason in summary.left_out} == {
        "classic_2": "interrupted at step 40 of 100",
        "classic_3": "val_bpb is nan",
        "classic_4": "no val_bpb",
        "classic_5": "failed at step 10 of 100 (RunError: bad)",
    }
    assert (
        str(summary.notes[0])
        == "2 of 5 runs broke and are not among the values, which flatters them"
    )
    assert str(summary.notes[1]) == "no interval: 1 run, three are needed"


def test_pruned_runs_do_not_count_unless_they_reached_the_step() -> None:
    curves = {"val_bpb": {20: 2.7, 40: 2.6}}
    runs = [
        fake_run(seed=1, curves=curves),
        fake_run(
            seed=2, status="pruned", steps=40, curves=curves,
            results={"pruned_because": "it was worse"},
        ),
    ]  # fmt: skip
    summary = compare([fake_group(runs)]).summaries[0]
    assert list(summary.seeds) == [1]
    assert [str(reason) for _, reason in summary.left_out] == [
        "pruned at step 40 of 100 (it was worse)"
    ]
    assert (
        str(summary.notes[0])
        == "1 of 2 runs was pruned by a search for being worse than others and are not among the"
        " values, which flatters them"
    )
    at_step = compare([fake_group(runs)], at="step:40").summaries[0]
    assert list(at_step.seeds) == [1, 2]
    assert not any("are not among the values" in note for note in said(at_step.notes))


def test_repeated_run_is_no_independent_evidence() -> None:
    runs = [fake_run(seed=seed, val_bpb=value) for seed, value in ((1, 2.5), (2, 2.6), (3, 2.55))]
    newer = fake_run(
        seed=1, val_bpb=2.51, run_id="again", record={"timestamp": "2026-02-01T00:00:00"}
    )
    broken = fake_run(
        seed=2, status="failed", run_id="later", record={"timestamp": "2026-03-01T00:00:00"}
    )
    summary = compare([fake_group([*runs, newer, broken])]).summaries[0]
    assert sorted(summary.values) == [2.51, 2.55, 2.6]
    reason = "seed 1 was run again as again (the values differ: 2.5 and 2.51)"
    assert ("classic_1", reason) in [(run_id, str(found)) for run_id, found in summary.left_out]
    assert f"repeated runs count once: {reason}" in said(summary.notes)
    assert summary.interval == statistics.mean_interval([2.51, 2.55, 2.6])


def test_same_seed_in_another_stratum_is_no_repeat() -> None:
    group = fake_group([fake_run(seed=1), fake_run("wave", seed=1, val_bpb=2.4)], strata=[0, 1])
    assert compare([group]).summaries[0].left_out == []


def test_two_runs_have_no_interval_and_a_note() -> None:
    comparison = compare([seeds("classic", CLASSIC), seeds("wave", [2.4, 2.5])])
    assert comparison.summaries[1].interval is None
    assert said(comparison.summaries[1].notes) == ["no interval: 2 runs, three are needed"]
    found = difference(comparison, "classic", "wave")
    assert (found.n, found.paired, found.interval, found.p_value, found.p_holm) == (
        2,
        False,
        None,
        None,
        None,
    )
    assert found.mean == pytest.approx(2.45 - 2.51)
    assert found.probability_of_improvement is None
    assert not found.separated
    assert not found.better
    assert "no interval and no test: fewer than three runs in a group" in said(found.warnings)
    assert "no interval and no test with fewer than three runs: wave (2)" in said(comparison.notes)


def test_values_that_the_seed_does_not_change_prove_nothing() -> None:
    comparison = compare([seeds("classic", [2.5] * 5), seeds("wave", [2.4] * 5)])
    found = difference(comparison, "classic", "wave")
    assert (found.p_value, found.interval, found.separated) == (None, None, False)
    notes = said(comparison.summaries[0].notes)
    assert "no interval: no spread in val_bpb between runs" in notes
    assert any(
        note.startswith("classic_1 and classic_2 have exactly the same val_bpb") for note in notes
    )


def test_flags_are_listed_once_with_their_runs() -> None:
    dirty = {"git.dirty": True}
    runs = [
        fake_run(seed=1, record=dirty),
        fake_run(seed=2, val_bpb=2.6, record=dirty),
        fake_run(seed=3, val_bpb=2.7),
    ]
    sentence = "code with uncommitted changes, commit abcd1234 with changes, torch 2.13.0"
    assert f"classic_1, classic_2: {sentence}" in said(
        compare([fake_group(runs)]).summaries[0].notes
    )
    all_dirty = compare([seeds("classic", CLASSIC, record=dirty)]).summaries[0]
    assert said(all_dirty.notes) == [f"all 5 runs: {sentence}"]


def test_few_windows_are_noted_once_for_all_runs_of_a_group() -> None:
    runs = []
    for seed, error in enumerate((0.012, 0.01, 0.0155), start=1):
        val = {"windows": 4, "available_windows": 99, "tokens": 256, "standard_error_bpb": error}
        runs.append(fake_run(seed=seed, results={"evaluation": {"val": val}}))
    notes = said(compare([fake_group(runs)]).summaries[0].notes)
    assert [note for note in notes if "windows" in note] == [
        "all 3 runs: each validation read 4 of 99 windows: the standard error of val_bpb is 0.0100 "
        "to 0.0155 bits per byte"
    ]


def test_strata_of_different_size_are_noted() -> None:
    runs = [fake_run(seed=seed, val_bpb=value) for seed, value in enumerate((2.5, 2.6, 2.55))]
    runs += [fake_run("wave", seed=seed, val_bpb=value) for seed, value in enumerate((2.4, 2.45))]
    summary = compare([fake_group(runs, "all", [0, 0, 0, 1, 1])]).summaries[0]
    assert summary.interval == statistics.mean_interval(
        [2.5, 2.6, 2.55, 2.4, 2.45], [0, 0, 0, 1, 1]
    )
    assert any("different numbers of runs (3, 2)" in note for note in said(summary.notes))


# --- which value ----------------------------------------------------------------------------------


def test_value_at_a_step_counts_for_runs_that_got_there() -> None:
    def run(seed: int, steps: int, status: str) -> Any:
        curves = {"val_bpb": {50: 3.0 + 0.01 * seed, 100: 2.5}}
        return fake_run(seed=seed, steps=steps, status=status, curves=curves)

    runs = [run(1, 100, "completed"), run(2, 60, "interrupted"), run(3, 20, "interrupted")]
    comparison = compare([fake_group(runs)], at="step:50")
    summary = comparison.summaries[0]
    assert list(summary.values) == [3.01, 3.02]
    assert [(run_id, str(reason)) for run_id, reason in summary.left_out] == [
        ("classic_3", "interrupted at step 20 of 100")
    ]
    assert "classic_2: interrupted at step 60 of 100" in said(summary.notes)


def test_best_values_are_described_as_flattering() -> None:
    runs = [
        fake_run(seed=seed, curves={"val_bpb": {50: 2.0 + seed, 100: 9.0}}) for seed in (1, 2, 3)
    ]
    comparison = compare([fake_group(runs)], at="best")
    assert list(comparison.summaries[0].values) == [3.0, 4.0, 5.0]
    assert any("chosen on the validation text itself" in note for note in said(comparison.notes))


@pytest.mark.parametrize("at", ["last", "step:", "step:0", "step:-5", "step:many"])
def test_unknown_place_in_a_run(at: str) -> None:
    with pytest.raises(UserError, match="must be final, best, step:N, tokens=N"):
        compare([seeds("classic", CLASSIC)], at=at)


def test_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no run has the metric val_bbp; did you mean val_bpb"):
        compare([seeds("classic", CLASSIC)], "val_bbp")
    with pytest.raises(UserError, match="no run has the metric flops; known are n_param") as caught:
        compare([seeds("classic", CLASSIC)], "flops")
    assert "cpu_s" not in str(caught.value)
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("val_bpb", True),
        ("loss", True),
        ("train_s", True),
        ("n_parameters", True),
        ("tokens_per_s", False),
    ],
)
def test_direction_of_a_metric(metric: str, lower: bool) -> None:
    assert metric_info(metric).lower_is_better is lower


def test_without_a_direction_nothing_is_better() -> None:
    low = [fake_run("classic", seed, values={"own": 1.0 + 0.01 * seed}) for seed in range(5)]
    high = [fake_run("wave", seed, values={"own": 2.0 + 0.011 * seed}) for seed in range(5)]
    comparison = compare([fake_group(high), fake_group(low)], "own")
    found = difference(comparison, "classic", "wave")
    assert found.separated
    assert (found.better, found.verdict, found.probability_of_improvement) == (
        None,
        "differs",
        None,
    )
    assert sorted(comparison.summaries, key=comparison.sort_key) == [
        summary
        for label in ("classic", "wave")
        for summary in comparison.summaries
        if summary.group.label == label
    ]
    text = render_comparisons([comparison], "table", [])
    assert "own, final value of each run, neither low nor high is better" in text
    assert not re.search(r" (better|worse)$", text.partition("\n")[2], flags=re.MULTILINE)
    assert (
        json.loads(render_comparisons([comparison], "json", []))["comparisons"][0][
            "lower_is_better"
        ]
        is None
    )
    with pytest.raises(
        SettingError, match="final or a budget: of own it is not known which values are better"
    ):
        compare([fake_group(high), fake_group(low)], "own", at="best")


def test_the_direction_decides_which_value_is_better() -> None:
    slow = [fake_run("classic", seed, values={"tokens_per_s": 100.0 + seed}) for seed in range(5)]
    fast = [
        fake_run("wave", seed, values={"tokens_per_s": 200.0 + 1.1 * seed}) for seed in range(5)
    ]
    comparison = compare([fake_group(slow), fake_group(fast)], "tokens_per_s")
    found = difference(comparison, "classic", "wave")
    assert (found.separated, found.better, found.probability_of_improvement) == (True, True, 1.0)
    backwards = compare([fake_group(fast), fake_group(slow)], "tokens_per_s", baseline="wave")
    found = difference(backwards, "wave", "classic")
    assert (found.separated, found.better, found.probability_of_improvement) == (True, False, 0.0)


# --- differences ----------------------------------------------------------------------------------


def test_difference_is_paired_by_seed() -> None:
    wave = [
        fake_run("wave", seed, value)
        for seed, value in zip((5, 4, 3, 2, 1), BETTER[::-1], strict=True)
    ]
    found = difference(compare([seeds("classic", CLASSIC), fake_group(wave)]), "classic", "wave")
    assert (found.paired, found.n) == (True, 5)
    assert found.mean == pytest.approx(-0.099)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(BETTER, CLASSIC).pvalue)
    assert found.probability_of_improvement == 1.0
    assert found.separated
    assert found.better
    assert said(found.warnings) == []
    assert found.matches["settings"] is True


def test_runs_without_partner_are_named() -> None:
    wave = [
        fake_run("wave", seed, value) for seed, value in zip((1, 2, 3, 9), BETTER, strict=False)
    ]
    found = difference(compare([seeds("classic", CLASSIC), fake_group(wave)]), "classic", "wave")
    assert (found.paired, found.n) == (True, 3)
    assert said(found.warnings) == [
        "without a partner of the same seed and not in the difference: classic_4, classic_5, wave_9"
    ]


def test_too_few_common_seeds_are_taken_as_independent() -> None:
    wave = [
        fake_run("wave", seed, value) for seed, value in zip((1, 2, 7, 8, 9), BETTER, strict=True)
    ]
    found = difference(compare([seeds("classic", CLASSIC), fake_group(wave)]), "classic", "wave")
    assert (found.paired, found.n) == (False, 5)
    assert found.p_value == pytest.approx(
        scipy.stats.ttest_ind(BETTER, CLASSIC, equal_var=False).pvalue
    )
    assert said(found.warnings) == [
        "taken as independent samples: fewer than three seeds in common"
    ]


def test_small_differences_are_not_separated() -> None:
    found = difference(compare([seeds("classic", CLASSIC), seeds("wave", NEAR)]), "classic", "wave")
    assert found.p_value is not None
    assert found.p_value > 0.05
    assert not found.separated
    assert not found.better
    assert found.detectable is not None
    size = f"{found.detectable:.2g}"
    assert said(found.warnings) == [
        f"not separated, which does not mean equal: a true difference of {size} would be found in"
        " four of five such comparisons, a smaller one less often"
    ]


def test_separated_needs_test_and_interval() -> None:
    """The t-test ignores skewness, but the interval reaches as far as skewed differences."""
    skewed = [
        value + d for value, d in zip(CLASSIC, (0.046, 0.047, -0.006, 0.03, 0.047), strict=True)
    ]
    found = difference(
        compare([seeds("classic", CLASSIC), seeds("wave", skewed)]), "classic", "wave"
    )
    assert found.p_holm is not None
    assert found.p_holm < 0.05
    assert found.interval is not None
    assert not found.interval.excludes_zero
    assert not found.separated


def test_correction_is_over_all_that_is_shown_and_each_pair_once() -> None:
    names = ("classic", "classic_rotary", "wave", "wave_rgd", "wave_qfe", "wave_rgd_qfe")
    shifts = (0.0, -0.01, -0.02, -0.1, 0.05, -0.04)
    noise = (
        (0, 1, 2, 3, 4),
        (1, 0, 3, 2, 4),
        (3, 1, 0, 2, 4),
        (2, 1, 0, 4, 3),
        (0, 2, 1, 4, 3),
        (4, 2, 3, 1, 0),
    )
    groups = [
        seeds(name, [value + shift + 0.004 * k for value, k in zip(CLASSIC, part, strict=True)])
        for name, shift, part in zip(names, shifts, noise, strict=True)
    ]
    comparison = compare(groups)
    assert [d.kind for d in comparison.differences] == ["baseline"] * 5 + ["ablation"] * 5
    pairs = {frozenset((d.a.group.label, d.b.group.label)): d for d in comparison.differences}
    assert len(pairs) == 9  # classic against classic_rotary is both
    assert "p-values are corrected for 9 comparisons (Holm)" in said(comparison.notes)
    tested = list(pairs.values())
    assert all(d.p_value is not None for d in tested)
    expected = statistics.holm([d.p_value or 0.0 for d in tested])
    assert [pairs[frozenset((d.a.group.label, d.b.group.label))].p_holm for d in tested] == expected
    twice = [
        difference(comparison, "classic", "classic_rotary", kind)
        for kind in ("baseline", "ablation")
    ]
    assert twice[0].p_holm == twice[1].p_holm
    for d in comparison.differences:
        assert d.p_holm is not None
        assert d.interval is not None
        assert d.separated == (d.p_holm < 0.05 and (d.interval.low > 0 or d.interval.high < 0))


def test_group_without_values_takes_part_without_numbers() -> None:
    running = fake_group([fake_run("wave", seed, status="running", steps=10) for seed in (1, 2, 3)])
    comparison = compare([seeds("classic", CLASSIC), running])
    assert comparison.summaries[1].mean is None
    found = difference(comparison, "classic", "wave")
    assert (found.mean, found.probability_of_improvement, found.n, found.separated) == (
        None,
        None,
        0,
        False,
    )
    assert set(found.matches.values()) == {None}


def test_unfair_comparison_is_warned_of() -> None:
    longer = seeds("wave", BETTER, steps=300, settings={"optimizer.weight_decay": 0.0})
    found = difference(compare([seeds("classic", CLASSIC), longer]), "classic", "wave")
    assert (found.matches["steps"], found.matches["settings"]) == (False, False)
    assert "steps differ: 100 against 300" in said(found.warnings)
    assert "settings differ beside the parts: optimizer.weight_decay 0.1 against 0.0" in said(
        found.warnings
    )


def test_impossible_values_are_listed_first() -> None:
    leak = seeds(
        "wave", [0.9, 0.91, 0.92], results={"reference.entropy_bits_per_byte": 2.0}, steps=50
    )
    found = difference(compare([seeds("classic", CLASSIC), leak]), "classic", "wave")
    assert str(found.warnings[0]).startswith("wave: val_bpb 0.9000 is below the entropy")
    speed = difference(
        compare([seeds("classic", CLASSIC), leak], "tokens_per_s"), "classic", "wave"
    )
    assert not any("entropy" in warning for warning in said(speed.warnings))


# --- baseline -------------------------------------------------------------------------------------


def test_choice_of_the_baseline() -> None:
    wave, rgd = seeds("wave", NEAR), seeds("wave_rgd", BETTER)
    classic = fake_group(seeds("classic", CLASSIC).runs, "classic learning_rate=0.001")
    assert compare([wave, rgd]).baseline == "wave"
    assert compare([wave, rgd, classic]).baseline == "classic learning_rate=0.001"
    assert compare([wave, classic, seeds("classic", CLASSIC)]).baseline == "classic"
    assert compare([wave, classic], baseline="wave").baseline == "wave"
    assert compare([wave]).baseline is None
    with pytest.raises(
        UserError,
        match="baseline=wvae must be best, or the label of a group: wave, wave_rgd; did you mean wave",
    ):
        compare([wave, rgd], baseline="wvae")


# --- ablations ------------------------------------------------------------------------------------


def test_ablations_are_the_pairs_that_differ_in_one_part() -> None:
    names = ("classic", "classic_rotary", "wave", "wave_rgd", "wave_qfe", "wave_rgd_qfe")
    comparison = compare([seeds(name, CLASSIC) for name in names])
    assert ablations(comparison) == {
        ("classic", "classic_rotary"): "attention",
        ("wave", "wave_rgd"): "optimizer",
        ("wave", "wave_qfe"): "loss",
        ("wave_rgd", "wave_rgd_qfe"): "loss",
        ("wave_qfe", "wave_rgd_qfe"): "optimizer",
    }


def test_ablation_is_held_against_the_part_of_the_baseline() -> None:
    comparison = compare(
        [seeds("wave_rgd", BETTER), seeds("wave", CLASSIC), seeds("classic", CLASSIC)]
    )
    assert ablations(comparison) == {("wave", "wave_rgd"): "optimizer"}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"optimizer.learning_rate": 0.002}, None),
        ({"model.n_embd": 256}, None),
        ({"training.max_steps": 200}, None),
        ({"model.embedding.n_wave": 32}, None),
        ({"optimizer.weight_decay": 0.0}, "optimizer"),
        ({"match.attention._target_": "dot_product"}, "optimizer"),
        ({"data.path": "/elsewhere/text.txt", "threads": 2, "outputs": "/there"}, "optimizer"),
        ({"monitoring.metrics.log_interval": 1, "training.eval_interval": 7}, "optimizer"),
    ],
)
def test_all_else_that_decides_about_training_has_to_be_equal(
    changes: dict[str, Any], part: str | None
) -> None:
    groups = [fake_group([fake_run("wave")]), fake_group([fake_run("wave_rgd", settings=changes)])]
    assert ablation_pairs(groups) == ([] if part is None else [(0, 1, part)])


def test_a_recorded_value_that_is_the_default_of_the_other_side_is_no_difference() -> None:
    known: tuple[dict[str, Any], dict[str, Any]] = ({"model.norm._partial_": True, "seed": 1}, {})
    assert other_differences({}, {"model.norm._partial_": "True"}, [], known) == []
    assert other_differences({}, {"seed": "2"}, [], known) == ["seed 1 against 2"]


def test_a_setting_that_both_choices_share_is_noted() -> None:
    a, b = (
        seeds("wave", CLASSIC),
        seeds("wave_rgd", BETTER, settings={"optimizer.weight_decay": 0.01}),
    )
    found = difference(compare([a, b]), "wave", "wave_rgd", "ablation")
    assert "settings differ beside the parts: optimizer.weight_decay 0.1 against 0.01" in said(
        found.warnings
    )
    # What only one of the two choices has belongs to the choice.
    alike = seeds("wave_rgd", BETTER)
    assert (
        other_differences(training_settings(a.runs), training_settings(alike.runs), ["optimizer"])
        == []
    )


def test_widths_set_to_match_are_noted() -> None:
    wider = {
        "model.parameters_by_component": {"embedding": 16_000, "attention": 200_000, "mlp": 600_000}
    }
    groups = [seeds("classic", CLASSIC), seeds("classic_rotary", BETTER, record=wider)]
    found = difference(compare(groups), "classic", "classic_rotary", "ablation")
    assert said(found.warnings) == [
        "the size of the mlp differs too: 540,000 against 600,000 parameters"
    ]
    assert difference(compare(groups), "classic", "classic_rotary").warnings == []


# --- coarser groups -------------------------------------------------------------------------------


def coarse(name: str, label: str, values: dict[float, list[float]]) -> Group:
    """Runs of an experiment at several learning rates."""
    runs, strata = [], []
    for stratum, (rate, found) in enumerate(values.items()):
        for seed, value in enumerate(found):
            run = fake_run(
                name,
                seed,
                value,
                settings={"optimizer.learning_rate": rate},
                run_id=f"{label}{rate}{seed}",
            )
            runs.append(run)
            strata.append(stratum)
    return fake_group(runs, label, strata)


def test_coarse_groups_are_paired_within_their_configurations() -> None:
    a = coarse("wave", "a", {0.001: [2.5, 2.6, 2.4], 0.002: [3.5, 3.6, 3.4]})
    b = coarse("wave_rgd", "b", {0.002: [3.4, 3.51, 3.3], 0.001: [2.4, 2.5, 2.31]})
    found = difference(compare([a, b]), "a", "b")
    assert (found.paired, found.n) == (True, 6)
    assert found.mean == pytest.approx(-0.58 / 6)
    assert found.pairs == pytest.approx([-0.1, -0.1, -0.09, -0.1, -0.09, -0.1])
    assert found.better
    # Of the nine pairs at one rate b wins 7, of those at the other 6.5; ties count half.
    assert found.probability_of_improvement == pytest.approx((7 / 9 + 6.5 / 9) / 2)
    assert ablations(compare([a, b])) == {("a", "b"): "optimizer"}


def test_partners_have_to_be_clear() -> None:
    a = coarse("wave", "a", {0.001: [2.5, 2.6, 2.4], 0.002: [3.5, 3.6, 3.4]})
    lonely = coarse("wave_rgd", "b", {0.004: [2.5, 2.6, 2.4], 0.008: [3.5, 3.6, 3.4]})
    assert pairs_by_seed(a, lonely) == []
    twice = fake_group(
        [*a.runs[:3], dataclasses.replace(a.runs[0], run_id="again")], "a", [0, 0, 0, 0]
    )
    assert pairs_by_seed(twice, fake_group(a.runs[:3], "b")) == []
    assert (
        why_unpaired(a, lonely)
        == "runs of equal seed are no pairs, since they differ in optimizer.learning_rate too"
    )
    assert (
        why_unpaired(twice, fake_group(a.runs[:3], "b"))
        == "several runs of one seed could be partners"
    )
    crossed = coarse("wave_rgd", "b", {0.001: [], 0.002: [2.5, 2.6, 2.4]})
    alone = fake_group(list(a.runs[:3]), "a", [0, 0, 0])
    assert (
        why_unpaired(alone, fake_group(list(crossed.runs)[:2], "b", [0, 0]))
        == "fewer than three seeds in common"
    )
    unknown = fake_group([fake_run(seed=None, run_id=str(i)) for i in range(3)])
    assert pairs_by_seed(unknown, unknown) == []


# --- the whole ------------------------------------------------------------------------------------


def test_the_tried_learning_rates_are_listed() -> None:
    wave = seeds("wave", NEAR)
    note = "compared at one learning rate each (0.001): no tuning is among these runs"
    assert note in said(compare([seeds("classic", CLASSIC), wave]).notes)
    tuned = coarse("classic", "classic", {0.001: CLASSIC, 0.002: NEAR})
    uneven = (
        "learning rates tried differ in number, which favours those with more: classic 2, wave 1"
    )
    assert uneven in said(compare([tuned, wave]).notes)
    separate = [coarse("classic", f"classic {rate}", {rate: CLASSIC}) for rate in (0.001, 0.002)]
    assert uneven in said(compare([*separate, wave]).notes)
    groups = [*separate, seeds("wave", NEAR)]
    of_a_sweep = [
        fake_group([dataclasses.replace(run, name="study") for run in group.runs], label)
        for group, label in zip(groups, ("rotary 0.001", "rotary 0.002", "packets"), strict=True)
    ]
    uneven_labels = uneven.replace("classic 2, wave 1", "rotary 0.001 2, packets 1")
    assert uneven_labels in said(compare(of_a_sweep).notes)
    both = coarse("wave", "wave", {0.001: CLASSIC, 0.002: NEAR})
    assert not any("learning rate" in note for note in said(compare([tuned, both]).notes))


def test_same_groups_give_the_same_comparison() -> None:
    groups = [seeds("classic", CLASSIC), seeds("wave", BETTER)]
    assert compare(groups) == compare(groups)
    shuffled = [fake_group(list(reversed(group.runs))) for group in groups]
    one, other = compare(groups).differences[0], compare(shuffled).differences[0]
    assert (one.interval, one.p_holm) == (other.interval, other.p_holm)


def test_run_directories_are_compared(tmp_path: Path) -> None:
    """From files on disk: a finished grid of two experiments, a longer one, a leak, a killed run
    and a repeated one."""
    for seed, noise in ((1, 0.0), (2, 0.013), (3, -0.011)):
        make_run(tmp_path, "wave", seed, val_bpb=2.5 + noise)
        make_run(tmp_path, "wave_rgd", seed, val_bpb=2.4 + 1.1 * noise)
        longer = make_run(tmp_path, "classic", seed, val_bpb=2.3 + noise, steps=300)
        results = read_json(longer / "results.json")
        results["reference"]["entropy_bits_per_byte"] = 2.45
        write_json_atomic(longer / "results.json", results)
    make_run(tmp_path, "wave", 4, status=None)
    make_run(tmp_path, "wave", 1, val_bpb=2.5, record={"timestamp": "2026-02-01T00:00:00"})
    comparison = compare(ResultsAggregator([tmp_path], index=False).groups(), baseline="wave")
    by_label = {summary.group.label: summary for summary in comparison.summaries}
    assert [len(by_label[name].values) for name in ("classic", "wave", "wave_rgd")] == [3, 3, 3]
    assert any("below the entropy" in note for note in said(by_label["classic"].notes))
    reasons = [str(reason) for _, reason in by_label["wave"].left_out]
    assert [reason.split()[0] for reason in reasons] == ["unfinished", "seed"]
    rgd = difference(comparison, "wave", "wave_rgd")
    assert rgd.better
    assert rgd.warnings == []
    assert [name for name, matched in rgd.matches.items() if not matched] == [
        "evaluation"
    ]  # not among the settings
    assert rgd.matches["evaluation"] is None
    classic = difference(comparison, "wave", "classic")
    assert (classic.matches["steps"], classic.matches["tokens"]) == (False, False)
    assert "steps differ: 100 against 300" in said(classic.warnings)
    assert ablations(comparison) == {("wave", "wave_rgd"): "optimizer"}
