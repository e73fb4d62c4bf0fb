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
