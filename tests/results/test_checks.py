"""Findings about single runs, and about unfair comparisons between two groups."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.results import checks, matching
from tests.results.fakes import STEPS, TOKENS_PER_STEP, FakeRun, fake_run, said

CUDA = {
    "hardware.gpu_available": True,
    "hardware.gpu_model": "H100",
    "hardware.cuda_version": "12.8",
}


def flags(**changes: Any) -> list[str]:
    return said(checks.run_flags(fake_run(**changes)))


# --- single runs ----------------------------------------------------------------------------------


def test_nothing_is_flagged_about_a_good_run() -> None:
    assert flags() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2.001, []),
        (
            1.99,
            [
                "val_bpb 1.9900 is below the entropy of the source, 2.0000 bits per byte, by no"
                " more than"
            ],
        ),
        (
            1.9,
            [
                "val_bpb 1.9000 is below the entropy of the source, 2.0000 bits per byte: no model"
                " can do that"
            ],
        ),
    ],
)
def test_validation_below_the_entropy(value: float, expected: list[str]) -> None:
    # With 100,000 bytes of validation text four standard errors are 4 x 2 / 316 = 0.025 bits.
    found = flags(val_bpb=value, results={"reference.entropy_bits_per_byte": 2.0})
    assert [
        sentence[: len(start)] for sentence, start in zip(found, expected, strict=True)
    ] == expected


def test_fewer_validation_windows_allow_more_chance() -> None:
    entropy = {"reference.entropy_bits_per_byte": 2.0}
    few = flags(val_bpb=1.9, results=entropy, settings={"training.eval_windows": 8})
    assert len(few) == 1
    assert "by no more than the 512 bytes" in few[0]


def test_best_value_counts_as_well_as_the_last() -> None:
    found = flags(
        val_bpb=2.5, results={"reference.entropy_bits_per_byte": 2.0, "best_metrics.val_bpb": 1.0}
    )
    assert len(found) == 1
    assert found[0].startswith("val_bpb 1.0000 is below the entropy")


def test_validation_better_than_the_best_models_is_suspicious() -> None:
    found = flags(val_bpb=0.1)
    assert len(found) == 1
    assert found[0].startswith("val_bpb 0.1000 is suspiciously low")
    # A source that is known to be so predictable may well be predicted.
    assert flags(val_bpb=0.1, results={"reference.entropy_bits_per_byte": 0.09}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"results": {"totals.bad_steps": 3}}, "3 steps skipped for a non-finite loss or gradient"),
        (
            {"results": {"totals": {}}, "values": {"bad_steps": 2.0}},
            "2 steps skipped for a non-finite loss or gradient",
        ),
        (
            {"curves": {"val_bpb": {50: math.nan, 75: 2.6, 100: math.inf}}},
            "val_bpb not finite at 2 of 3 logged steps, first at step 50",
        ),
        (
            {"settings": {"training.overfit_one_batch": True}},
            (
                "trained on a single batch (training.overfit_one_batch), so that its values measure"
                " no learning"
            ),
        ),
        (
            {"record": {"git.dirty": True}},
            "code with uncommitted changes, commit abcd1234 with changes, torch 2.13.0",
        ),
        ({"record": {"git": {}}}, "code version not recorded"),
        ({"record": {"git.hash": "nogit000"}}, "code version not recorded"),
        ({"status": "interrupted", "steps": 40}, "interrupted at step 40 of 100"),
        (
            {"status": "failed", "steps": 40, "results": {"error": "RunError: too many bad steps"}},
            "failed at step 40 of 100 (RunError: too many bad steps)",
        ),
        (
            {"status": "stopped_early", "steps": 60},
            (
                "stopped early at step 60 of 100; its final value is the best of its validations,"
                " which flatters it"
            ),
        ),
        (
            {"status": "stopped_early", "steps": 60, "settings": {"training.restore_best": False}},
            "stopped early at step 60 of 100",
        ),
    ],
)
def test_flags_of_single_runs(changes: dict[str, Any], expected: str) -> None:
    assert flags(**changes) == [expected]


def test_run_continued_with_other_settings() -> None:
    def attempts(*overrides: list[str]) -> dict[str, Any]:
        return {
            "attempts": [{"from_step": 50 * i, "overrides": o} for i, o in enumerate(overrides)]
        }

    found = flags(record=attempts(["seed=1"], ["seed=1", "optimizer.learning_rate=0.01"]))
    assert found == [
        "continued after step 50 with other settings: default -> optimizer.learning_rate=0.01"
    ]
    assert (
        flags(
            record=attempts(
                ["seed=1"], ["seed=1", "monitoring.metrics.log_interval=5", "resume=here"]
            )
        )
        == []
    )


def test_attempt_without_a_checkpoint_left_nothing_to_continue() -> None:
    first = {"from_step": 0, "overrides": ["optimizer.learning_rate=0.01"]}
    assert flags(record={"attempts": [first, {"from_step": 0, "overrides": []}]}) == []


def test_problems_of_reading_are_flags() -> None:
    run = dataclasses.replace(fake_run(), problems=("config.json is damaged",))
    assert said(checks.run_flags(run)) == ["config.json is damaged"]


def test_a_run_without_a_record_gets_no_findings_about_unknown_facts() -> None:
    run = FakeRun(Path("/nowhere"), "a", "a", None, "unfinished", values={"steps": 0})
    assert said(checks.run_flags(run)) == ["unfinished at step 0"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"dataset.train_sha256": "11" * 32},
            "training text unlike most runs: 11111111 against aaaaaaaa",
        ),
        (
            {"dataset.val_sha256": "11" * 32},
            "validation text unlike most runs: 11111111 against bbbbbbbb",
        ),
        (
            {"dataset.tokenizer": "11" * 32, "dataset.vocab_size": 50_257},
            "tokenizer unlike most runs: 11111111 (50,257 tokens) against dddddddd (256 tokens)",
        ),
        (
            {"git.hash": "1" * 40},
            (
                "code unlike most runs: commit 11111111, torch 2.13.0 against commit abcd1234,"
                " torch 2.13.0"
            ),
        ),
        (
            {"hardware.torch_threads": 8},
            "hardware unlike most runs: Test CPU, 8 threads against Test CPU, 1 thread",
        ),
        (CUDA, "hardware unlike most runs: 1 x H100, CUDA 12.8 against Test CPU, 1 thread"),
    ],
)
def test_odd_ones_out(record: dict[str, Any], expected: str) -> None:
    runs = [fake_run(seed=1), fake_run(seed=2, record=record), fake_run(seed=3)]
    found = checks.find_outliers(runs)
    assert {run_id: said(odd) for run_id, odd in found.items()} == {"classic_2": [expected]}
    assert checks.find_outliers(runs[::2]) == {}


def test_different_uncommitted_changes_are_distinguished(tmp_path: Path) -> None:
    runs = []
    for seed, patch in enumerate((b"one", b"one", b"other"), start=1):
        run = fake_run(seed=seed, record={"git.dirty": True, "git.diff_file": "git_diff.patch"})
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "git_diff.patch").write_bytes(patch)
        runs.append(dataclasses.replace(run, path=tmp_path / str(seed)))
    found = checks.find_outliers(runs)
    assert list(found) == ["classic_3"]
    assert "with patch" in str(found["classic_3"][0])


# --- two groups -----------------------------------------------------------------------------------


def match(
    b: FakeRun, metric: str = "val_bpb", at: str = "final"
) -> tuple[dict[str, bool | None], list[str]]:
    matches, warnings = matching.match_groups(
        [fake_run(seed=1), fake_run(seed=2)], [b, b], metric, at
    )
    return matches, said(warnings)


def test_equal_groups_match_in_everything() -> None:
    matches, warnings = match(fake_run(seed=3))
    assert matches == dict.fromkeys(matching.QUANTITIES, True)
    assert warnings == []


@pytest.mark.parametrize(
    ("quantity", "changes", "expected"),
    [
        (
            "parameters",
            {"values": {"n_parameters": 810_000}},
            "parameters differ: 800,000 against 810,000",
        ),
        ("tokens", {"values": {"tokens": 80_000}}, "training tokens differ: 76,800 against 80,000"),
        (
            "data",
            {"record": {"dataset.train_sha256": "1" * 64}},
            "training text differs: aaaaaaaa against 11111111",
        ),
        (
            "validation",
            {"record": {"dataset.val_sha256": "1" * 64}},
            (
                "validation text differs: bbbbbbbb against 11111111; val_bpb measured on other text"
                " does not compare"
            ),
        ),
        (
            "evaluation",
            {"settings": {"training.eval_windows": 128}},
            (
                "validation windows differ: all windows of 64 tokens against 128 windows of 64"
                " tokens; val_bpb measured on other text does not compare"
            ),
        ),
        (
            "hardware",
            {"record": {"hardware.torch_threads": 2}},
            "hardware differs: Test CPU, 1 thread against Test CPU, 2 threads",
        ),
        (
            "code",
            {"record": {"packages.torch": "2.12.0"}},
            "code differs: commit abcd1234, torch 2.13.0 against commit abcd1234, torch 2.12.0",
        ),
    ],
)
def test_mismatches_are_named_with_both_values(
    quantity: str, changes: dict[str, Any], expected: str
) -> None:
    matches, warnings = match(fake_run(seed=3, **changes))
    assert [name for name, matched in matches.items() if not matched] == [quantity]
    assert warnings == [expected]


def test_steps_of_a_longer_run() -> None:
    matches, warnings = match(fake_run(seed=3, steps=3 * STEPS))
    assert (matches["steps"], matches["tokens"]) == (False, False)
    assert warnings == [
        "training tokens differ: 76,800 against 230,400",
        "steps differ: 100 against 300",
    ]


def test_small_differences_of_size_and_time_do_not_count() -> None:
    matches, warnings = match(
        fake_run(seed=3, values={"n_parameters": 807_000, "tokens": 76_100, "train_s": 62.5})
    )
    assert matches == dict.fromkeys(matching.QUANTITIES, True)
    assert warnings == []


def timed(*times: float) -> list[FakeRun]:
    return [
        fake_run(seed=seed, values={"train_s": train_s})
        for seed, train_s in enumerate(times, start=1)
    ]


@pytest.mark.parametrize(
    ("a", "b", "same", "words"),
    [
        ((60.0, 61.0, 60.5), (62.0, 61.5, 60.0), True, ""),
        ((60.0, 61.0, 60.5), (78.0, 80.0, 79.0), False,
         "wall-clock differs: 60.5 s (60.0 to 61.0) against 79.0 s (78.0 to 80.0) of training"),
        # A busy machine made the quicker of two models look slower, in most of its runs.
        ((78.0, 80.0, 79.0), (100.0, 61.0, 118.0), None,
         "wall-clock is not separated, equal runs differ as on a busy machine: 79.0 s (78.0 to 80.0) against "
         "100.0 s (61.0 to 118.0) of training"),
        # Separated by the test, but by less than what the machine did to equal runs.
        ((60.0, 60.5, 61.0, 60.2, 60.1, 60.3), (63.5, 80.0, 70.0, 71.0, 78.0, 79.0), None,
         "wall-clock is not separated, equal runs differ as on a busy machine: 60.2 s (60.0 to 61.0) against "
         "74.5 s (63.5 to 80.0) of training"),
        ((59.0, 61.0, 600.0), (60.0, 60.0, 60.0), None,
         "wall-clock is not separated, equal runs differ as on a busy machine: 61.0 s (59.0 to 600.0) against "
         "60.0 s of training"),
        ((60.0,), (90.0,), None,
         "wall-clock is not separated: 60.0 s against 90.0 s of training, fewer than three runs on a side"),
        ((60.0,), (61.0,), True, ""),
    ],
)  # fmt: skip
def test_times_differ_only_beyond_their_spread(
    a: tuple[float, ...], b: tuple[float, ...], same: bool | None, words: str
) -> None:
    for one, other, swapped in ((a, b, False), (b, a, True)):
        matches, warnings = matching.match_groups(timed(*one), timed(*other))
        assert matches["wall-clock"] is same
        if not swapped:
            assert said(warnings) == ([words] if words else [])


def test_one_run_that_differs_spoils_its_group() -> None:
    runs = [fake_run(seed=1), fake_run(seed=2, steps=60), fake_run(seed=3)]
    matches, warnings = matching.match_groups([fake_run()], runs)
    assert matches["steps"] is False
    assert "steps differ: 100 against 60 to 100" in said(warnings)


@pytest.mark.parametrize("metric", ["val_loss", "perplexity", "loss"])
def test_metrics_per_token_do_not_compare_across_tokenizers(metric: str) -> None:
    other = fake_run(seed=3, record={"dataset.tokenizer": "1" * 64, "dataset.vocab_size": 1024})
    matches, warnings = match(other, metric)
    assert matches["tokenizer"] is False
    assert warnings == [
        "tokenizer differs: dddddddd (256 tokens) against 11111111 (1,024 tokens); "
        f"{metric} is per token and does not compare, val_bpb does"
    ]
    matches, warnings = match(other, "val_bpb")
    assert matches["tokenizer"] is False
    assert warnings == []


def test_only_findings_that_concern_the_metric_are_warnings() -> None:
    other = fake_run(seed=3, settings={"training.eval_windows": 128}, values={"train_s": 90.0})
    matches, warnings = match(other, "train_s")
    assert (matches["evaluation"], matches["wall-clock"]) == (False, None)
    assert warnings == []


def test_unrecorded_quantities_are_unknown() -> None:
    matches, warnings = match(fake_run(seed=3, record={"dataset": {}, "git": {}, "hardware": {}}))
    unknown = {"data", "validation", "tokenizer", "hardware", "code"}
    assert {name for name, matched in matches.items() if matched is None} == unknown
    assert warnings == []


def test_values_before_the_end_compare_by_the_steps_until_then() -> None:
    longer = fake_run(seed=3, steps=3 * STEPS, settings={"training.max_steps": 3 * STEPS})
    matches, warnings = match(longer, at="step:50")
    assert (matches["tokens"], matches["steps"]) == (True, False)
    assert warnings == [
        "at step 50 the runs were on schedules of different length: 100 against 300 steps"
    ]
    matches, warnings = match(fake_run(seed=3, steps=40), at="step:50")
    assert (
        f"training tokens differ: {50 * TOKENS_PER_STEP:,} against {40 * TOKENS_PER_STEP:,}"
        in warnings
    )
    assert "steps differ: 50 against 40" in warnings


def test_tests_compare_if_they_read_the_same_text_in_the_same_windows() -> None:
    def make_tested_run(seed: int, sha: str, windows: int) -> FakeRun:
        return fake_run(
            seed=seed,
            record={"dataset.test_sha256": sha * 32, "dataset.val_sha256": f"{seed:02d}" * 32},
            results={"evaluation": {"test": {"windows": windows}}},
        )

    runs = make_tested_run(1, "aa", 30), make_tested_run(2, "bb", 31)
    matches, warnings = matching.match_groups(runs[:1], runs[1:], "test_bpb")
    assert (matches["validation"], matches["evaluation"]) == (False, False)
    words = " ".join(map(str, warnings))
    assert "aaaaaaaa against bbbbbbbb" in words
    assert "30 windows of 64 tokens against 31 windows of 64 tokens" in words
    same = matching.match_groups(runs[:1], [make_tested_run(2, "aa", 30)], "test_bpb")
    assert same[0]["validation"] is same[0]["evaluation"] is True
    assert matching.match_groups(runs[:1], [make_tested_run(2, "aa", 30)])[0]["validation"] is False


def test_runs_that_ended_before_a_budget_of_flops_are_no_equal_comparison() -> None:
    """Steps and tokens then differ because the computation does."""
    small, large = (
        [
            fake_run(seed=seed, steps=100, results={"totals.steps": 100, "totals.flops": flops})
            for seed in (1, 2, 3)
        ]
        for flops in (4e7, 1e8)
    )
    equal = matching.match_groups(small, large, at="flops=4e7")[1]
    assert not [one for one in equal if one.kind in ("tokens", "steps", "unused budget")]
    unequal = {one.kind: str(one) for one in matching.match_groups(small, large, at="flops=8e7")[1]}
    assert unequal["unused budget"] == "3 of 6 runs ended before 8e+07 training FLOPs"
    assert "steps" in unequal
    assert "tokens" in unequal
