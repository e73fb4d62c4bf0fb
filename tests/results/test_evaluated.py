"""Evaluations of trained models as metrics: which record counts, and tables over conditions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.results import figures
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import compare
from spectral_exp.results.evaluated import evaluation_metrics, overview_tables
from spectral_exp.results.paper import Choices, PaperGenerator, run_curves, verify
from spectral_exp.results.paper.folder import Folder
from spectral_exp.results.paper.report import run_report
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.index import facts_of
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run, run_of
from spectral_exp.runs.metric_names import metric_info
from tests.results.made_runs import make_run, rest

NOISE = (0.0, 0.01, -0.02)


def record(bpb: float, block_size: int, **more: Any) -> str:
    line = {
        "time": "2026-01-01T00:00:00",
        "run": "r",
        "step": 100,
        "text": "val",
        "text_sha256": "ab" * 32,
        "block_size": block_size,
        "stride": block_size,
        "precision": "fp32",
        "loss": 0.7 * bpb,
        "bpb": bpb,
        "standard_error_bpb": 0.01,
        "windows": 25,
        "tokens": 1600,
        "bytes": 1600,
        "perplexity": 4.0,
    }
    return json.dumps(line | more) + "\n"


def add(run: Path, *lines: str) -> None:
    with RunPaths(run).evaluations_file.open("a") as file:
        file.writelines(lines)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    for seed, noise in enumerate(NOISE, start=1):
        for name, growth in (("classic", 1.0), ("wave", 0.25)):
            run = make_run(folder, name, seed)
            add(run, *(record(2 + noise + growth * i, 64 << i) for i in range(3)))
            add(run, record(2.5 + noise, 128, text="test", stride=32))
    return folder


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("bpb@val:256", ("val", 256, 256, "bpb")),
        ("loss@test:64/16", ("test", 64, 16, "loss")),
        ("perplexity@/a/b, c:1:2:128", ("/a/b, c:1:2", 128, 128, "perplexity")),
    ],
)
def test_names_of_evaluations_are_read_back(name: str, condition: tuple[Any, ...]) -> None:
    found = parse_evaluation(name)
    assert found is not None
    assert (found.text, found.block_size, found.stride, found.number) == condition
    assert found.name == name


@pytest.mark.parametrize("name", ["val_bpb", "bpb@val", "bpb@:64", "own@val:64", "bpb@val:64/"])
def test_other_names_are_no_evaluations(name: str) -> None:
    assert parse_evaluation(name) is None


def test_the_newest_record_of_a_condition_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    add(run, record(3.0, 64), record(4.0, 128), record(2.5, 64, step=80, windows=7))
    loaded = load_run(run)
    assert (loaded.value("bpb@val:64"), loaded.value("bpb@val:128")) == (2.5, 4.0)
    assert (loaded.value("windows@val:64"), loaded.final_step("loss@val:64")) == (7.0, 80)
    assert loaded.value("bpb@val:64", "best") is loaded.value("bpb@val:64", "step:50") is None
    assert loaded.value("bpb@test:64") is None
    assert not loaded.problems


def test_damaged_records_are_left_out_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    bad = ["{", "[]\n", record(1.0, 64)[:40], "\n\xff\n", record(1.0, 64).replace('"val"', "5")]
    bad.append(record(2.0, 64).replace('"block_size": 64', '"block_size": "64"'))
    bad += [record(2.0, 64, text=""), record(2.0, 0), record(2.0, 10**15), record(2.0, 8, stride=0)]
    RunPaths(run).evaluations_file.write_bytes("".join([*bad, record(9.0, 32)]).encode("latin1"))
    loaded = load_run(run)
    assert [one["bpb"] for one in loaded.evaluations] == [9.0]
    assert evaluation_metrics([loaded], ["all"]) == ["bpb@val:32"]
    (problem,) = loaded.problems
    assert problem.endswith("line(s) of evaluations.jsonl cannot be read")


def test_an_index_sees_a_new_evaluation(tmp_path: Path) -> None:
    run, index = make_run(tmp_path / "runs"), tmp_path / "index.sqlite"
    for bpb in (3.0, 2.5):
        add(run, record(bpb, 64))
        rest(run)
        for _ in range(2):
            (facts,) = facts_of([run], index)
            assert run_of(run, facts).value("bpb@val:64") == bpb


def test_properties_of_evaluations() -> None:
    known = metric_info("bpb@test:256/64")
    assert (known.lower_is_better, known.kind, known.is_per_token) == (True, "validation", False)
    assert known.words == "bits per byte of test in windows of 256 tokens, 64 further"
    assert metric_info("perplexity@val:64").is_per_token


def test_conditions_choose_evaluations(outputs: Path) -> None:
    runs = ResultsAggregator([outputs], index=False).runs

    def chosen(*conditions: str) -> list[str]:
        return evaluation_metrics(runs, conditions)

    val = ["bpb@val:64", "bpb@val:128", "bpb@val:256"]
    assert chosen("all") == ["bpb@test:128/32", *val]
    assert chosen("text=val") == chosen("stride!=32") == chosen("stride>32") == val
    assert chosen("text=val", "block_size=64, 256") == [val[0], val[2]]
    assert chosen("block_size<=64") == val[:1]
    assert chosen("text=v*") == val
    two = evaluation_metrics(runs, ["block_size=64"], ["loss", "bpb"])
    assert two == ["loss@val:64", "bpb@val:64"]
    with pytest.raises(UserError, match=r"an evaluation with stride=1; recorded are test:128/32"):
        chosen("stride=1")
    with pytest.raises(SettingError, match="evaluation=blocks=1 must be all, or a condition on te"):
        chosen("blocks=1")
    with pytest.raises(UserError, match="evaluation=block_size must be name=value"):
        chosen("block_size")
    with pytest.raises(UserError, match="no run has an evaluation; spectral-exp evaluate"):
        evaluation_metrics([], ["all"])
    with pytest.raises(SettingError, match="metric=val_bpb must be among bpb, loss, perplexity"):
        evaluation_metrics(runs, ["all"], ["val_bpb"])


def test_texts_with_commas_and_signs_can_be_chosen(tmp_path: Path) -> None:
    texts = ["a,b.txt", "a=b", "c.txt", "x:64/32", "*"]
    run = make_run(tmp_path)
    add(run, *(record(2.0, 64, text=text) for text in texts))
    loaded = load_run(run)
    for text in texts[:-1]:
        (name,) = evaluation_metrics([loaded], [f"text={text}"])
        assert name == f"bpb@{text}:64"
        assert loaded.value(name) == 2.0
    assert len(evaluation_metrics([loaded], ["text=a,b.txt,c.txt"])) == 1
    assert len(evaluation_metrics([loaded], ["text=*.txt"])) == 2


def test_groups_are_compared_at_every_length(outputs: Path) -> None:
    results = ResultsAggregator([outputs], index=False)
    metrics = evaluation_metrics(results.runs, ["text=val"])
    comparisons = [compare(results.groups(), metric) for metric in metrics]
    gains = [one.differences[0] for one in comparisons]
    assert [one.mean for one in gains] == pytest.approx([0.0, -0.75, -1.5])
    assert [(one.n, one.paired) for one in gains] == [(3, True)] * 3
    (table,) = overview_tables(comparisons)
    assert list(table.columns) == ["group", "val:64", "val:128", "val:256"]
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert cells["classic"][2].startswith("3.9967 [3.")
    assert cells["wave"][2].endswith("] (3)")
    with pytest.raises(SettingError, match="at=best must be final for the evaluation bpb@val:64"):
        compare(results.groups(), "bpb@val:64", at="best")


def test_other_texts_and_checkpoints_are_named(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        more = {"step": 100 - 10 * (seed == 2)}
        add(make_run(tmp_path, "classic", seed), record(2.0 + seed / 100, 64, **more))
        other = {"text_sha256": "cd" * 32, "windows": 9}
        add(make_run(tmp_path, "wave", seed), record(2.1 + seed / 90, 64, **other))
    make_run(tmp_path, "wave", 4)
    found = compare(ResultsAggregator([tmp_path], index=False).groups(), "bpb@val:64")
    (classic, wave), (difference,) = found.summaries, found.differences
    notes = list(map(str, classic.notes))
    assert "checkpoints of different steps were evaluated, 90 to 100" in notes
    assert [str(reason) for _, reason in wave.left_out] == ["no bpb@val:64"]
    warnings = " ".join(map(str, difference.warnings))
    assert "ids abababab against ids cdcdcdcd" in warnings
    assert "25 windows of 64 tokens against 9 windows of 64 tokens" in warnings


def test_a_paper_holds_when_a_run_is_evaluated_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "comparison_plots", lambda comparison, **options: [])
    monkeypatch.setattr(run_curves, "run_curves", lambda run: None)
    for seed in (1, 2, 3):
        for name in ("classic", "wave"):
            run = make_run(tmp_path / "runs", name, seed, val_bpb=2.5 + seed / 100)
            add(run, record(2.0 + seed / 90 + len(name) / 9, 64), record(3.0, 128))
    choices = Choices(margin=0.02)
    generator = PaperGenerator([tmp_path / "runs"], choices, evaluation=["block_size=64"])
    assert generator.choices.evaluations == ("bpb@val:64",)
    generator.write(tmp_path / "paper", ["md"])
    report = run_report(run, index=False)
    report.write(Folder(tmp_path / "report"), ["md"], "report")
    text = (tmp_path / "paper" / "paper.md").read_text()
    assert "Whether a difference is at most 0.02 in either direction" in text
    assert [verify(tmp_path / name).exit_code for name in ("paper", "report")] == [0, 0]
    add(run, record(9.0, 512))
    assert [verify(tmp_path / name).exit_code for name in ("paper", "report")] == [0, 0]
    add(run, record(9.0, 64))
    assert [verify(tmp_path / name).exit_code for name in ("paper", "report")] == [1, 1]
