"""Runs chosen and grouped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.completion import complete
from spectral_exp.dashboard.details import run_details
from spectral_exp.dashboard.group_tables import groups_answer
from spectral_exp.dashboard.groups import compute
from spectral_exp.dashboard.query import View
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.attribution import attribute
from spectral_exp.results.comparison import compare
from spectral_exp.results.frames import LoadedRuns
from spectral_exp.results.group import Group
from spectral_exp.results.names import ABSENT
from spectral_exp.results.tables import render_comparisons
from spectral_exp.runs.differences import run_differences
from spectral_exp.runs.run import Run
from tests.results.made_runs import make_run

WAVE_MATCH = {
    "match.embedding._target_": "spectral_exp.models.WaveEmbedding",
    "match.attention._target_": "spectral_exp.models.PhasorAttention",
    "match.mlp._target_": "spectral_exp.models.MLP",
    "match.mlp.activation": "resonance",
}


def found(folder: Path) -> ResultsAggregator:
    return ResultsAggregator([folder], index=False)


def seeds(groups: list[Group]) -> dict[str, list[int | None]]:
    return {group.label: [run.seed for run in group.runs] for group in groups}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> ResultsAggregator:
    folder = tmp_path_factory.mktemp("grid")
    for name in ("wave_rgd", "classic", "wave"):
        for seed in (2, 1, 10):
            make_run(folder, name, seed)
    make_run(folder, "wave", 1, settings={"optimizer.learning_rate": 2e-3}, status=None)
    return found(folder)


def test_runs_come_in_order(grid: ResultsAggregator) -> None:
    assert [(run.name, run.seed) for run in grid.runs][:4] == [
        ("classic", 1),
        ("classic", 2),
        ("classic", 10),
        ("wave", 1),
    ]


def test_runs_that_differ_in_their_seed_are_a_group(grid: ResultsAggregator) -> None:
    groups = grid.groups()
    assert seeds(groups) == {
        "classic": [1, 2, 10],
        "wave learning_rate=0.001": [1, 2, 10],
        "wave learning_rate=0.002": [1],
        "wave_rgd": [1, 2, 10],
    }
    assert groups[-1].key == {
        "name": "wave_rgd",
        "embedding": "wave",
        "attention": "interference",
        "mlp": "resonance",
        "optimizer": "rgd",
        "optimizer.learning_rate": 0.001,
    }
    assert all(set(group.strata) == {0} for group in groups)


def test_coarser_groups_have_a_stratum_for_each_configuration(grid: ResultsAggregator) -> None:
    groups = grid.groups(["model", "optimizer"])
    assert [(group.label, list(group.strata)) for group in groups] == [
        ("standard+dot_product+gelu / adamw", [0, 0, 0]),
        ("wave+interference+resonance / adamw", [0, 1, 0, 0]),
        ("wave+interference+resonance / rgd", [0, 0, 0]),
    ]
    assert groups[0].key == {"model": "standard+dot_product+gelu", "optimizer": "adamw"}
    by_rate = grid.groups(["learning_rate"])
    assert [(group.label, len(group.runs)) for group in by_rate] == [
        ("learning_rate=0.001", 9),
        ("learning_rate=0.002", 1),
    ]


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (["optimizer=rgd"], 3),
        (["optimizer!=rgd"], 7),
        (["name=wave*"], 7),
        (["name=wave*", "seed=1"], 3),
        (["name=classic,wave_rgd"], 6),
        (["name!=classic,wave_rgd"], 4),
        (["seed<10"], 7),
        (["seed>=2", "seed<=2"], 3),
        (["learning_rate=1e-3"], 9),
        (["optimizer.learning_rate>0.001"], 1),
        (["status=unfinished"], 1),
        (["attention=dot*"], 3),
        (["model=wave+*"], 7),
        (["schedule=cosine"], 10),
        (["data=python_stdlib", "tokenizer=byte"], 10),
        (["resume=null"], 10),
        (["name=x[y]*"], 0),
    ],
)
def test_conditions(grid: ResultsAggregator, conditions: list[str], count: int) -> None:
    assert len(grid.where(conditions).runs) == count


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("optimizer", "must be name=value"),
        ("=rgd", "must be name=value"),
        ("seed=", "must be name=value"),
        ("optimzer=rgd", "no run has a setting or part optimzer; did you mean optimizer?"),
        ("training.max_step=1", "did you mean training.max_steps?"),
        ("seed<x", "must be a condition with a number after <"),
        ("seed<1,2", "must be a condition with a number after <"),
        ("optimizer<1", "which is no number"),
        ("_target_=x", "_target_ may be data._target_, "),
    ],
)
def test_conditions_that_cannot_be_understood(
    grid: ResultsAggregator, condition: str, message: str
) -> None:
    with pytest.raises(UserError) as raised:
        grid.where([condition])
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ({}, {"seed": 5, "outputs": "elsewhere", "experiment_id": "x", "name": "classic"}, []),
        ({}, {"monitoring.metrics.log_interval": 5, "training.eval_interval": 7, "device": "cuda", "threads": 3}, []),
        ({}, {"optimizer.learning_rate": 2e-3}, ["optimizer.learning_rate"]),
        ({}, {"training.max_steps": 200, "training.patience": 3}, ["training.max_steps", "training.patience"]),
        # Another class stands for its settings, but not for those which both have.
        (
            {"optimizer.betas": [0.9, 0.99], "optimizer.fused": None},
            {
                "optimizer._target_": "spectral_exp.optim.build_rgd",
                "optimizer.betas": [0.9, 0.999],
                "optimizer.gate": 1,
            },
            ["optimizer", "optimizer.betas"],
        ),
        # A setting that only one of two runs of a class knows is a difference.
        ({}, {"optimizer.fused": None}, ["optimizer.fused"]),
        # What interpolation repeats is named once.
        (
            {"model.n_wave": 16, "model.attention.n_wave": 16},
            {"model.n_wave": 32, "model.attention.n_wave": 32},
            ["model.n_wave"],
        ),
        (
            {"model.n_wave": 16, "model.attention.n_wave": 16},
            {"model.n_wave": 32, "model.attention.n_wave": 16},
            ["model.n_wave"],
        ),
        ({}, WAVE_MATCH, ["match"]),
        (WAVE_MATCH, WAVE_MATCH, []),
        ({}, {"schedule._target_": "spectral_exp.optim.Linear"}, ["schedule"]),
    ],
)  # fmt: skip
def test_differing_settings(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], differing: list[str]
) -> None:
    make_run(tmp_path, settings=one)
    make_run(tmp_path, settings=other)
    runs = found(tmp_path)
    assert runs.differing() == differing
    # What is said to differ is what makes groups.
    assert (runs.runs[0].config_hash == runs.runs[1].config_hash) == (not differing)
    assert len(runs.groups()) == (2 if differing else 1)


def test_labels_distinguish_configurations_of_one_name(tmp_path: Path) -> None:
    for name, settings in (("classic", {}), ("classic", WAVE_MATCH), ("wave", WAVE_MATCH)):
        make_run(tmp_path, name, settings=settings)
    groups = found(tmp_path).groups()
    assert [group.label for group in groups] == [
        "classic match=none",
        "classic match=wave+phasor+resonance",
        "wave",
    ]


def test_runs_of_unknown_settings_are_each_their_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        (make_run(tmp_path, seed=seed) / "config.json").unlink()
    make_run(tmp_path, seed=3)
    groups = found(tmp_path).groups()
    assert len(groups) == 3
    assert len({group.label for group in groups}) == 3


def test_nothing_found(tmp_path: Path) -> None:
    runs = found(tmp_path)
    assert (runs.runs, runs.left_out, runs.groups(), runs.differing()) == ([], [], [], [])


# --- settings that records leave out --------------------------------------------------------------

RGD = {
    "optimizer._target_": "spectral_exp.optim.build_rgd",
    "model.norm._target_": "spectral_exp.models.RMSNorm",
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> ResultsAggregator:
    """Runs of one name that differ in a switch, a normalization and an optimizer."""
    folder = tmp_path_factory.mktemp("sweep")
    made: list[dict[str, Any]] = [
        {},
        {"model.embedding_norm": True},
        RGD,
        {**RGD, "optimizer.direction": "muon"},
    ]
    for settings in made:
        make_run(folder, "classic", 1, settings=settings)
    return found(folder)


def test_defaults_are_values_in_labels_and_settings_that_a_run_lacks_are_left_out(
    sweep: ResultsAggregator,
) -> None:
    groups = sweep.groups()
    assert [group.label for group in groups] == [
        "optimizer=adamw embedding_norm=false model.norm=layernorm",
        "optimizer=adamw embedding_norm=true model.norm=layernorm",
        "optimizer=rgd embedding_norm=false model.norm=rmsnorm direction=adam",
        "optimizer=rgd embedding_norm=false model.norm=rmsnorm direction=muon",
    ]
    assert groups[0].key["optimizer.direction"] is ABSENT
    assert groups[2].key["optimizer.direction"] == "adam"
    values = [run["settings.model.qk_norm"] for run in map(_frame_row, sweep.runs)]
    assert values == [False] * 4


def _frame_row(run: Run) -> dict[str, Any]:
    return {name: values[0] for name, (_, values) in LoadedRuns([run])._run_columns().items()}


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        (["optimizer.direction"], {"direction=adam": 1, "direction=muon": 1, "no direction": 2}),
        (
            ["optimizer", "direction"],
            {"adamw": 2, "rgd / direction=adam": 1, "rgd / direction=muon": 1},
        ),
        (["qk_norm", "model.norm"], {"qk_norm=false / layernorm": 2, "qk_norm=false / rmsnorm": 2}),
    ],
)
def test_groups_by_settings_that_records_leave_out(
    sweep: ResultsAggregator, by: list[str], labels: dict[str, int]
) -> None:
    assert {group.label: len(group.runs) for group in sweep.groups(by)} == labels


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("embedding_norm=false", 3),
        ("embedding_norm=true", 1),
        ("qk_norm=false", 4),
        ("direction=adam", 1),
        ("direction!=adam", 3),
        ("direction=none", 2),
        ("model.norm=layernorm", 2),
    ],
)
def test_conditions_on_settings_that_records_leave_out(
    sweep: ResultsAggregator, condition: str, count: int
) -> None:
    assert len(sweep.where([condition]).runs) == count


def test_every_reader_shows_the_default(sweep: ResultsAggregator) -> None:
    comparison = compare(sweep.groups(), "val_bpb", baseline=sweep.groups()[2].label)
    switched = next(one for one in comparison.differences if "=true" in one.b.group.label)
    shown = [str(one) for one in switched.warnings if one.kind == "settings"]
    assert "model.embedding_norm False against True" in shown[0]
    assert "model.norm._target_ spectral_exp.models.RMSNorm against" in shown[0]
    assert [
        (part.name, part.before, part.after)
        for part in attribute(comparison, switched.b.group.label).grid.parts
    ] == [
        ("optimizer", "rgd", "adamw"),
        ("model.embedding_norm", "false", "true"),
        ("model.norm", "rmsnorm", "layernorm"),
    ]
    one, other = sweep.runs[0], sweep.runs[1]
    assert run_differences(one, other)["settings"] == ["model.embedding_norm: False -> True"]
    groups = json.loads(render_comparisons([comparison], "json"))["comparisons"][0]["groups"]
    directions = [group["key"].get("optimizer.direction", "no entry") for group in groups]
    assert directions == ["no entry", "no entry", "adam", "muon"]


def test_the_dashboard_shows_the_default(sweep: ResultsAggregator) -> None:
    rows = groups_answer(compute(0, sweep, View()), [])["rows"]
    directions = sorted(row["settings"]["optimizer.direction"] for row in rows)
    assert directions == ["-", "-", "adam", "muon"]
    settings = run_details(sweep.runs[0], {})["settings"]
    shown = {item["name"]: item["value"] for item in settings}
    assert shown["model.embedding_norm"] == "false"
    completed = [item["text"] for item in complete("direction=", sweep.runs)]
    assert completed == ["direction=adam", "direction=muon"]
