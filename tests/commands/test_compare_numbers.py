"""What `compare` prints of real run directories: numbers that no option of display changes, and
honest reasons."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.commands import compare
from tests.results.made_runs import make_run

NOISE = (0.0, 0.011, -0.009)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments without `classic`, each at two learning rates with three seeds."""
    folder = tmp_path_factory.mktemp("grid")
    for rate, shift in ((1e-3, 0.1), (2e-3, 0.0)):
        for seed, noise in enumerate(NOISE, start=1):
            settings = {"optimizer.learning_rate": rate}
            make_run(folder, "wave", seed, val_bpb=2.5 + shift + noise, settings=settings)
            make_run(folder, "phasor", seed, val_bpb=2.4 + shift + 1.4 * noise, settings=settings)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert compare.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    (one,) = json.loads(printed(capsys, *arguments, "--format", "json"))["comparisons"]
    assert isinstance(one, dict)
    return one


def test_no_order_changes_a_number(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    orders: list[list[str]] = [[]]
    orders += [
        [f"--sort={name}", *more]
        for name in ("val_bpb", "label", "train_s", "learning_rate")
        for more in ([], ["--reverse"])
    ]
    for order in orders:
        one = compared(capsys, grid, *order)
        labels = [group["label"] for group in one.pop("groups")]
        differences = {(d["a"], d["b"], d["kind"]): d for d in one.pop("differences")}
        assert [b for _, b, kind in differences if kind == "baseline"] == [
            x for x in labels if x != one["baseline"]
        ]
        found.append((labels, one, differences))
    assert {json.dumps([one, *sorted(map(str, pairs.items()))]) for _, one, pairs in found[1:]} == {
        json.dumps([found[0][1], *sorted(map(str, found[0][2].items()))])
    }
    assert len({tuple(labels) for labels, _, _ in found}) > 2
    assert found[0][0] == found[1][0]  # the best first by default
    assert found[0][0][0] == "phasor learning_rate=0.002"
    baseline = found[0][1]["baseline"]
    assert baseline == "phasor learning_rate=0.001"
    note = f"the baseline is {baseline}, by default"
    assert note in found[0][1]["notes"]
    assert note not in compared(capsys, grid, "--baseline", baseline)["notes"]


def test_a_baseline_that_looks_selected_is_named(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate, selected in ((0.002, True), (0.001, False)):
        notes = compared(capsys, grid, "--baseline", f"wave learning_rate={rate}")["notes"]
        found = [
            note
            for note in notes
            if "has the best mean of 2 configurations with the same parts" in note
        ]
        assert bool(found) is selected


def test_pooled_groups_are_paired_within_shared_settings(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (by_rate,) = compared(capsys, grid, "--group-by", "learning_rate")["differences"]
    assert (by_rate["paired"], by_rate["n"]) == (True, 6)
    assert by_rate["mean"] == pytest.approx(-0.1)
    assert not [warning for warning in by_rate["warnings"] if "independent" in warning]
    by_part = compared(capsys, grid, "--group-by", "attention")["differences"][0]
    assert (by_part["paired"], by_part["n"]) == (True, 6)


def test_pooled_groups_that_share_too_little_name_their_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rates in (("wave", (1e-3, 2e-3)), ("wave_rgd", (4e-3, 8e-3))):
        for rate in rates:
            for seed, noise in enumerate(NOISE, start=1):
                settings = {"optimizer.learning_rate": rate}
                make_run(tmp_path, name, seed, val_bpb=2.5 + noise + rate, settings=settings)
    found = compared(capsys, tmp_path, "--group-by", "optimizer")["differences"][0]
    assert (found["paired"], found["n"]) == (False, 6)
    reason = "runs of equal seed are no pairs, since they differ in optimizer.learning_rate too"
    assert f"taken as independent samples: {reason}" in found["warnings"]


def test_a_step_before_the_first_value_is_named(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(grid), "--at", "step:20"]) == 2
    message = "error: no run has a value of val_bpb up to step 20: the first is of step 50\n"
    assert capsys.readouterr().err == message
    assert compared(capsys, grid, "--at", "step:50")["groups"][0]["n"] == 3


def test_budgets_choose_the_last_value_within_them(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_step = compared(capsys, grid, "--at", "step:50")
    for at in ("tokens=38400", "tokens=6e4", "seconds=3.84", "seconds=7"):
        found = compared(capsys, grid, "--at", at)
        assert found["at"] == at
        assert [one["values"] for one in found["groups"]] == [
            one["values"] for one in by_step["groups"]
        ]
    text = printed(capsys, grid, "--at", "seconds=7")
    assert text.startswith("val_bpb, last value of each run up to 7 s of training, lower is better")
    for metric in ("val_bpb", "train_s"):
        assert compare.main([str(grid), "--at", "flops=1e15", "--metric", metric]) == 2
        error = "error: no run records at which step it had used 1e+15 training FLOPs\n"
        assert capsys.readouterr().err == error


@pytest.mark.parametrize("name", ["x.xlsx", "x.md.gz", "x.TXT2", "table.pdf"])
def test_a_suffix_that_names_no_format_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    # Before any run is read: the folder does not even exist.
    assert compare.main([str(tmp_path / "none"), "--output", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"error: --output={tmp_path / name} must be a file that ends with .txt, .md, .csv,"
        " .json, .tex; or name its --format\n"
    )
    assert not list(tmp_path.iterdir())


def test_suffixes_in_capitals_and_a_named_format_are_taken(grid: Path, tmp_path: Path) -> None:
    assert compare.main([str(grid), "--output", str(tmp_path / "X.CSV")]) == 0
    assert compare.main([str(grid), "--output", str(tmp_path / "x.dat"), "--format", "csv"]) == 0
    assert (tmp_path / "X.CSV").read_bytes() == (tmp_path / "x.dat").read_bytes()


def test_a_column_stands_once(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runs", "--metric", "train_s,steps,train_s,tokens_per_s,val_bpb"]
    head, columns = printed(capsys, grid, *options).splitlines()[:2]
    assert columns.split() == [
        "run",
        "status",
        "seed",
        "train_s",
        "steps",
        "tokens_per_s",
        "val_bpb",
    ]
    words = (
        "train_s, steps: total of each run; tokens_per_s: median over each run; val_bpb: final"
        " value of each run"
    )
    assert head == words
    row, *_ = csv.reader(io.StringIO(printed(capsys, grid, *options, "--format", "csv")))
    assert len(row) == len({*row})
    assert printed(capsys, grid, "--metric", "tokens_per_s").startswith(
        "tokens_per_s, median over each run, higher is"
    )


def test_the_interquartile_mean_is_shown_if_it_differs_from_the_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, noise in enumerate((*NOISE, 0.02), start=1):
        make_run(tmp_path, "wave", seed, val_bpb=2.5 + noise)
        if seed < 4:
            make_run(tmp_path, "classic", seed, val_bpb=2.4 + noise)
    text = printed(capsys, tmp_path)
    assert text.splitlines()[1].split()[-1] == "IQM"
    assert text.splitlines()[2].split()[-1] == "-"
    assert "IQM from 4 runs on: below, it is the mean" in text
    assert "IQM" not in printed(capsys, tmp_path, "--where", "seed<4")
    three, four = (group["iqm"] for group in compared(capsys, tmp_path)["groups"])
    assert (three, four) == (None, pytest.approx(2.5055))


def test_help_explains_the_order_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "changes no number (default: groups by the first metric, runs by name and seed)" in text
    assert "independent of --sort (default: classic, else the first by its settings)" in text


def test_equivalence_and_what_a_test_would_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, noise in enumerate(NOISE, start=1):
        make_run(tmp_path, "classic", seed, val_bpb=2.5 + noise)
        make_run(tmp_path, "wave", seed, val_bpb=2.5 + 0.9 * noise)
        make_run(tmp_path, "wave_rgd", seed, val_bpb=2.48 + 8 * noise)
    plain = {(one["a"], one["b"]): one for one in compared(capsys, tmp_path)["differences"]}
    assert "margin" not in plain["classic", "wave"]
    found = compared(capsys, tmp_path, "--margin", "0.02")
    differences = {(one["a"], one["b"]): one for one in found["differences"]}
    near, far = differences["classic", "wave"], differences["classic", "wave_rgd"]
    assert (near["equivalent"], near["separated"], near["margin"]) == (True, False, 0.02)
    assert near["p_equivalence"] < near["p_equivalence_holm"] < 0.05
    assert (far["equivalent"], far["separated"]) == (False, False)
    # Neither test of the other changes, and without rejections all are left their share.
    assert {k: far[k] for k in ("p_holm", "level", "detectable")} == {
        k: plain["classic", "wave_rgd"][k] for k in ("p_holm", "level", "detectable")
    }
    tests = {frozenset((one["a"], one["b"])) for one in found["differences"]}
    assert near["level"] == pytest.approx(0.05 / len(tests))
    assert near["detectable"] > 5 * 0.0006
    assert any(f"{near['detectable']:.2g} would be found" in one for one in near["warnings"])
    assert any(note.startswith("equivalent within 0.02: two one-sided") for note in found["notes"])
    text = printed(capsys, tmp_path, "--margin", "0.02")
    assert "p (within 0.02) verdict" in text
    assert "equivalent within 0.02\n" in text
    assert "neither separated nor equivalent" in text
    rows = list(
        csv.DictReader(io.StringIO(printed(capsys, tmp_path, "--margin=0.02", "--format=csv")))
    )
    assert [row["equivalent"] for row in rows if row["row"] == "baseline"] == ["False", "True"]


def test_the_best_group_as_baseline_says_so(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = compared(capsys, grid, "--baseline", "best", "--sort", "label", "--reverse")
    assert best["baseline"] == "phasor learning_rate=0.002"
    note = "was chosen as the best of 4: its interval is optimistic"
    assert f"the baseline {best['baseline']} {note}" in best["notes"]
    assert compare.main([str(grid), "--baseline", "best", "--metric", "learning_rate"]) == 2
    assert "--baseline=best must be the label of a group: it is not" in capsys.readouterr().err


def test_contributions_are_in_every_format(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [grid, "--attribute", "wave learning_rate=0.002", "--baseline"]
    options.append("phasor learning_rate=0.001")
    (one,) = json.loads(printed(capsys, *options, "--format", "json"))["attributions"]
    assert [part["name"] for part in one["parts"]] == ["attention", "optimizer.learning_rate"]
    assert [effect["mean"] for effect in one["effects"][:2]] == pytest.approx(
        [0.0997, -0.1], abs=1e-3
    )
    rows = csv.DictReader(io.StringIO(printed(capsys, *options, "--format", "csv")))
    effects = [row for row in rows if row["row"].endswith("effect")]
    assert [row["given"] for row in effects] == [
        *("", "", "", "optimizer.learning_rate", "", "attention")
    ]
    assert [float(row["mean"]) for row in effects] == [effect["mean"] for effect in one["effects"]]
    for form in ("table", "markdown", "latex"):
        text = printed(capsys, *options, "--format", form)
        assert "what each part contributes from phasor" in text
        assert "all parts together change val" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--margin=0"], "--margin=0.0 must be > 0 and finite, in the metric's unit"),
        (["--margin=1", "--metric=val_bpb,loss"], "--margin=1.0 must be with one --metric"),
        (["--margin=1", "--runs"], "--margin=1.0 must be without --runs"),
        (["--attribute", "--runs"], "--attribute=given must be without --runs"),
        (["--attribute", "--group-by=loss"], "--attribute=given must be without --group-by"),
        (["--evaluation=all", "--at=best"], "--at=best must be final with --evaluation"),
        (["--evaluation=all"], "no run has an evaluation; spectral-exp evaluate makes"),
    ],
)
def test_options_of_tests_that_make_no_sense(
    grid: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert compare.main([str(grid), *options]) == 2
    assert message in capsys.readouterr().err
