"""Every number of a paper equals its source: each is found again in the runs that its record
names."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.results import checks, figures
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import Comparison, compare
from spectral_exp.results.corrections import DETECTABLE
from spectral_exp.results.paper import Choices, PaperGenerator, run_curves
from spectral_exp.results.paper.material import dig
from spectral_exp.results.paper.provenance import numbers
from spectral_exp.results.paper.report import run_report
from spectral_exp.results.statistics import interquartile_mean
from spectral_exp.results.times import compare_times
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import Run
from tests.results.made_runs import make_run

EVALUATED = {"training.eval_windows": 25}
LEAK = {"git": {"hash": "1" * 40, "dirty": True, "untracked": [], "diff_file": None}}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with everything that the checks have numbers for."""
    folder = tmp_path_factory.mktemp("numbers")
    for seed, noise in enumerate((0.0, 0.011, -0.009, 0.004), start=1):
        make_run(folder, "classic", seed, val_bpb=2.7 + noise, settings=EVALUATED)
        make_run(
            folder,
            "classic_rotary",
            seed,
            val_bpb=2.6 - noise / 2,
            parameters=900_000,
            settings=EVALUATED,
        )
        path = make_run(
            folder, "wave", seed, val_bpb=0.1 + noise / 10, settings=EVALUATED, record=LEAK
        )
        _change(path, "totals", bad_steps=1, train_s=7.0 + seed, cpu_s=9.0 + seed)
        _change(path, "final_metrics", test_loss=1.25)
        _change(path, "evaluation", test={"windows": 640 + seed // 4, "available_windows": 700})
        _evaluate(path, 64, 2.0 + noise)
        _evaluate(path, 256, 2.5 - noise)
    below = make_run(folder, "wave_qfe", 1, val_bpb=1.5, steps=60, settings=EVALUATED)
    _change(below, "reference", entropy_bits_per_byte=1.75)
    make_run(folder, "wave_qfe", 2, status="failed", settings={"training.max_steps": 12_000})
    make_run(folder, "wave_qfe", 3, status=None)
    make_run(
        folder,
        "classic",
        1,
        val_bpb=2.69,
        settings=EVALUATED,
        record={"timestamp": "2026-02-01T00:00:00"},
    )
    return folder


def _change(path: Path, section: str, **values: Any) -> None:
    results = read_json(RunPaths(path).results_file)
    results[section] = {**(results.get(section) or {}), **values}
    write_json_atomic(RunPaths(path).results_file, results)


def _evaluate(path: Path, block_size: int, bpb: float) -> None:
    """Add an evaluation to the records of a run."""
    line = {"step": 100, "text": "val", "block_size": block_size, "stride": block_size}
    line |= {"loss": 0.7 * bpb, "bpb": bpb, "standard_error_bpb": 0.0125, "windows": 96}
    with RunPaths(path).evaluations_file.open("a") as file:
        file.write(json.dumps(line) + "\n")


def lookup(run: Run, name: str, at: str) -> Any:
    """What a run has under the name of a source."""
    if at and (value := run.value(name, at)) is not None:
        return value
    known = {
        "steps": run.last_step,
        "n_parameters": run.n_parameters,
        "tokens": run.value("tokens"),
    }
    for value in (
        run.settings.get(name),
        dig(run.record, name),
        dig(run.results, name),
        known.get(name),
    ):
        if value is not None:
            return value
    return run.tokens_per_step if name == "tokens_per_step" else None


def close(value: Any, *expected: Any) -> bool:
    return any(
        value == pytest.approx(one, rel=1e-12) if isinstance(one, float) else value == one
        for one in expected
    )


Rule = Callable[[Any, Sequence[Any], Sequence[Run]], bool]
RULES: dict[str, Rule] = {
    "the value itself": lambda value, found, _: all(
        close(value, one) or value == json.dumps(one) for one in found
    ) and bool(found),
    "of each run": lambda value, found, _: close(value, *found),
    "last step": lambda value, _, runs: {value} == {run.last_step for run in runs},
    "its step": lambda value, _, runs: {value} == {run.last_step for run in runs},
    "mean over the runs": lambda value, found, _: close(value, statistics.fmean(found)),
    "median over the runs": lambda value, found, _: close(value, float(statistics.median(found))),
    "interquartile mean over the runs": lambda value, found, _: close(value, float(interquartile_mean(found))),
    "median of the runs": lambda value, found, _: close(value, statistics.median(found)),
    "lowest of the runs": lambda value, found, _: close(value, min(found)),
    "highest of the runs": lambda value, found, _: close(value, max(found)),
    "smallest of the runs": lambda value, found, _: close(value, min(found)),
    "largest of the runs": lambda value, found, _: close(value, max(found)),
    "smallest, in millions": lambda value, found, _: close(value, min(found) / 1e6),
    "largest, in millions": lambda value, found, _: close(value, max(found) / 1e6),
    "number of runs": lambda value, _, runs: value == len(runs),
    "windows without overlap that fit into the validation text": lambda value, found, runs: {value}
    == {(one - 1) // run.settings["model.block_size"] for one, run in zip(found, runs, strict=True)},
    "share of the validation text's tokens that are predicted, in per cent": lambda value, found, runs: close(
        value, *(100 * n * run.settings["model.block_size"] / dig(run.record, "dataset.val_tokens")
                 for n, run in zip(found, runs, strict=True))
    ),
    checks.EVALUATED_BYTES: lambda value, found, runs: close(value, 25 * 64.0),
}  # fmt: skip
"""Formula -> whether a number follows from the values of the runs."""


def in_comparison(entry: dict[str, Any], comparison: Comparison) -> bool:
    """Return whether a number follows by its formula from exactly these runs."""
    value, formula, ids = entry["value"], entry["formula"], set(entry["ids"])
    if formula == "bound of the 95 % bootstrap interval of the mean":
        (summary,) = (s for s in comparison.summaries if {run.run_id for run in s.runs} == ids)
        return summary.interval is not None and value in (
            summary.interval.low,
            summary.interval.high,
        )
    of = [
        d
        for d in comparison.differences
        if {run.run_id for s in (d.a, d.b) for run in s.runs} == ids
    ]
    made: dict[str, Callable[[Any], Any]] = {
        "number of pairs": lambda d: [d.n] if d.paired else [],
        "number of runs of the smaller group": lambda d: [] if d.paired else [d.n],
        "probability of improvement": lambda d: [d.probability_of_improvement],
        "p value before correction": lambda d: [d.p_value],
        "p value after Holm's correction": lambda d: [d.p_holm],
        DETECTABLE: lambda d: [d.detectable],
    }
    if formula in made:
        return any(value in made[formula](d) for d in of)
    for d in of:
        minus = f"{d.b.group.label} minus {d.a.group.label}"
        if formula in (
            f"mean of the differences paired by seed, {minus}",
            f"difference of the means, {minus}",
        ):
            return bool(value == d.mean)
        if formula == f"bound of the 95 % interval of {minus}":
            return d.interval is not None and value in (d.interval.low, d.interval.high)
    return False


def is_right_count(entry: dict[str, Any], comparison: Comparison) -> bool:
    """Return whether a count equals the number of things that its source names."""
    differences = [d for d in comparison.differences if d.kind == "baseline"]
    ablations = [d for d in comparison.differences if d.kind == "ablation"]
    known: dict[str, Any] = {
        "configurations": [len(comparison.summaries)],
        "runs": [sum(len(s.group.runs) for s in comparison.summaries)],
        "runs of a group that count": [len(s.values) for s in comparison.summaries],
        "runs with uncommitted changes": [len(entry["ids"])],
        "tests": [
            len(
                {
                    frozenset((d.a.group.label, d.b.group.label))
                    for d in comparison.differences
                    if d.p_value
                }
            )
        ],
        "differences": [len(differences)],
        "differences separated for the better": [
            sum(d.separated and d.better for d in differences)
        ],
        "differences separated for the worse": [
            sum(d.separated and not d.better for d in differences)
        ],
        "differences not separated": [sum(not d.separated for d in differences)],
        **{
            f"ablations of the {part}": [sum(d.part == part for d in ablations)]
            for part in ("attention", "loss")
        },
        "optimizer.learning_rate": [1],
        "evaluations": [2],
    }
    return entry["value"] in known.get(entry["metric"], ())


def is_ratio(entry: dict[str, Any], comparison: Comparison) -> bool:
    """Whether a number is the ratio of two groups' times, or a bound of its interval."""
    finished = {
        s.group.label: [run for run in s.group.runs if run.finished] for s in comparison.summaries
    }
    base = comparison.baseline or ""
    for label, runs in finished.items():
        if label == base or not runs:
            continue
        medians = [
            statistics.median(run.train_s or 0 for run in side) for side in (runs, finished[base])
        ]
        if entry["formula"] == f"median of {label} over median of {base}":
            return close(entry["value"], medians[0] / medians[1])
        if entry["formula"] == f"bound of the 95 % interval of {label} over {base}":
            found = compare_times(finished[base], runs)
            assert found is not None
            assert found.interval is not None
            return entry["value"] in (found.interval.low, found.interval.high)
    return False


def is_true(entry: dict[str, Any], runs: Sequence[Run], comparison: Comparison) -> bool:
    if entry["formula"] in RULES:
        found = [lookup(run, entry["metric"], entry["at"]) for run in runs]
        return RULES[entry["formula"]](
            entry["value"], [one for one in found if one is not None], runs
        )
    if entry["metric"] == "train_s" and " over " in entry["formula"]:
        return is_ratio(entry, comparison)
    return (
        is_right_count(entry, comparison)
        if entry["formula"] == "count"
        else in_comparison(entry, comparison)
    )


def test_every_number_of_a_paper_equals_its_source(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "comparison_plots", lambda comparison, **options: [])
    paper = PaperGenerator([outputs], Choices()).paper()
    all_runs = list(paper.material.runs)
    groups = ResultsAggregator([outputs], index=False).groups()
    comparisons = {
        name: compare(groups, name, baseline="classic")
        for name in ("val_bpb", *paper.material.choices.evaluations)
    }
    comparison = comparisons["val_bpb"]
    entries = [
        {**one, "ids": [all_runs[n - 1].run_id for n in one["runs"]]} for one in numbers(paper)
    ]
    wrong = [
        one
        for one in entries
        if not is_true(
            one,
            [all_runs[n - 1] for n in one["runs"]],
            comparisons.get(one["metric"], comparison),
        )
    ]
    assert not wrong
    text = paper.render("md")["paper.md"].decode()
    for words in (
        "a model of 70 billion parameters needs 0.66 bits per byte of Wikipedia",
        "1 step skipped for a non-finite loss or gradient",
        "val\\_bpb 1.5000 is below the entropy of the source, 1.7500 bits per byte",
        (
            "reads 25 of the 1562 windows of 64 tokens that fit into the validation text without"
            " overlap"
        ),
        "evenly spread over it: 1.6 % of the text",
        "its final weights of `wave` were tested on 640 of the 700 windows of 64 tokens",
        "The trained models were also scored in 2 other ways",
    ):
        assert words in text, words
    assert "over the validation text, in nats" not in text
    # A constant of a sentence is no measured number.
    assert not {"70", "0.66"} & {one["shown"] for one in entries}
    limitations = [one for one in entries if "(Limitations)" in one["where"]]
    assert {"1.5000", "1.7500"} <= {one["shown"] for one in limitations}


def test_every_number_of_a_report_equals_its_source(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_curves, "run_curves", lambda run: None)  # drawing is tested elsewhere
    paper = run_report(next(outputs.glob("wave_2*000001*")), index=False)
    (run,) = paper.material.runs
    comparison = compare(ResultsAggregator([run.path], index=False).groups())
    entries = [{**one, "ids": [run.run_id]} for one in numbers(paper)]
    assert not [one for one in entries if not is_true(one, [run], comparison)]
    text = paper.render("md", "report")["report.md"].decode()
    assert "of a speed the median over the run" in text
    shown = [one for one in entries if "@val:" in one["metric"]]
    assert len(shown) == 2 * 5
    assert {one["shown"] for one in shown} >= {"100", "96", "2.0000", "2.5000", "0.0125"}
