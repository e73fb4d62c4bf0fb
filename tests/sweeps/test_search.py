"""Proposals, budgets and leaders of a search, as functions of its trials."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.config.command_line import open_composer
from spectral_exp.config.command_line.jobs import Composer
from spectral_exp.config.command_line.ranges import Interval, Values, split_ranges
from spectral_exp.config.search import PRUNABLE, SearchSettings, read_search_settings
from spectral_exp.core.errors import UserError
from spectral_exp.core.redact import REDACTED
from spectral_exp.sweeps.search.report import find_leaders
from spectral_exp.sweeps.search.search import Search
from spectral_exp.sweeps.search.trials import State, Trial
from spectral_exp.train import main
from spectral_exp.training.evaluation import Evaluation
from tests.conftest import NO_PLOTS, TINY

RATE = "optimizer.learning_rate=tag(log, interval(1e-4, 1e-2))"
LAYERS = "model.n_layer=range(1,9)"
CMAES = pytest.param("cmaes", marks=pytest.mark.slow)  # it imports SciPy
STATES: tuple[State, ...] = ("running", "done", "failed", "pruned")

# Warnings of optuna would be errors here.
optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def composer() -> Iterator[Composer]:
    with open_composer("config", None) as composer:
        yield composer


def make_search(composer: Composer, *overrides: str, **settings: Any) -> Search:
    search = Search(
        SearchSettings(**{"sampler": "tpe", "trials": None, **settings}),
        tuple(split_ranges(overrides, composer)),
    )
    search.check()
    return search


def quality(job: Sequence[str]) -> float:
    """The value of a job whose best learning rate is 1e-3 and whose best depth is 3."""
    values = dict(override.split("=") for override in job)
    depth = abs(int(values.get("model.n_layer", 3)) - 3)
    return abs(math.log10(float(values["optimizer.learning_rate"])) + 3) + depth


def run_serially(search: Search, count: int, trials: Sequence[Trial] = ()) -> list[Trial]:
    """Run `count` further trials, each after the other."""
    trials = list(trials)
    for _ in range(count):
        (job,) = search.propose(trials)
        trials.append(Trial(job, "done", [quality(job)], {10: quality(job)}))
    return trials


# --- the space ------------------------------------------------------------------------------------


def test_ranges_of_the_command_line_are_the_space(composer: Composer) -> None:
    items = split_ranges(
        [
            "seed=3",
            RATE,
            "++model.n_head=int(interval(1,4))",
            "training.batch_size=range(1,9,3)",
            "model/attention=rotary,phasor,rotary",
            "+experiment=glob(classic*)",
        ],
        composer,
    )
    assert items == [
        "seed=3",
        Interval("optimizer.learning_rate", 1e-4, 1e-2, is_log=True, is_integer=False),
        Interval("++model.n_head", 1, 4, is_log=False, is_integer=True),
        Values(
            "training.batch_size",
            tuple(f"training.batch_size={n}" for n in (1, 4, 7)),
            is_ordered=True,
        ),
        Values("model/attention", ("model/attention=rotary", "model/attention=phasor"), False),
        Values(
            "+experiment",
            tuple(f"+experiment=classic{name}" for name in ("", "_modern", "_rotary")),
            is_ordered=False,
        ),
    ]


@pytest.mark.parametrize(
    ("overrides", "settings", "words"),
    [
        (["seed=3"], {}, "nothing to search"),
        (["seed=1,2", RATE], {}, "cannot search seed"),
        (["outputs=a,b", RATE], {}, "cannot search outputs"),
        (["search=tpe,random", RATE], {}, "cannot search search"),
        (["monitoring.checkpoint.save_interval=4,8", RATE], {}, "does not change what is trained"),
        ([RATE, "optimizer.learning_rate=1,2"], {}, "has two ranges"),
        (["model.n_layer=interval(3,1)"], {}, "the lower one first"),
        (["model.n_layer=interval(1,inf)"], {}, "must be finite"),
        (["model.n_layer=tag(log,interval(0,1))"], {}, "must be > 0"),
        (["model.n_layer=tag(big,interval(0,1))"], {}, "the tag big is unknown"),
        (["model.n_layer=tag(log,range(1,4))"], {}, "belongs to interval"),
        (["model.n_layer=shuffle(range(1,4))"], {}, "remove shuffle"),
        (["model.n_layer=range(1,1000000)"], {}, "more than 10,000 values"),
        (["model.n_layer=glob(nothing*)"], {}, "names no value"),
        ([RATE], {"trials": None}, "never ends"),
        ([RATE], {"sampler": "grid"}, "continuous range"),
        ([RATE, "model=a,b"], {"sampler": "cmaes", "trials": 3}, "choose search=tpe"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(
    composer: Composer, overrides: list[str], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make_search(composer, *overrides, **settings)


def test_examples_use_every_bound_and_every_separate_value(composer: Composer) -> None:
    search = make_search(composer, RATE, LAYERS, "model/attention=rotary,phasor", trials=3)
    jobs = [job[:-1] for job in search.examples()]
    assert len(jobs) == 4
    assert {override for job in jobs for override in job} == {
        "optimizer.learning_rate=0.0001",
        "optimizer.learning_rate=0.01",
        "model.n_layer=1",
        "model.n_layer=8",
        "model/attention=rotary",
        "model/attention=phasor",
    }


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": ["val_bbp"]}, "did you mean val_bpb"),
        ({"objectives": ["grad_norm"]}, "grad_norm has no such direction"),
        ({"objectives": []}, "at least one metric"),
        ({"objectives": ["loss", "loss"]}, "different metrics"),
        ({"objectives": ["val_bpb", "n_parameters"], "sampler": "cmaes"}, "a single metric"),
        ({"objectives": ["val_bpb", "n_parameters"], "pruner": "asha"}, "search.pruner=asha"),
        ({"objectives": ["tokens_per_s"], "pruner": "median"}, r"one of \[val_loss\]"),
        ({"trials": 0}, "search.trials=0 must be > 0"),
        ({"total_time_s": math.nan}, "search.total_time_s=nan must be > 0"),
        ({"sampler": "tpee"}, "search.sampler=tpee must be one of tpe, random, grid, cmaes"),
        ({"triails": 3}, "search.triails is not a setting"),
    ],
)
def test_settings_of_a_search_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_search_settings({"search": {"sampler": "tpe", **changes}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["monitoring/metrics=off"], "monitoring/metrics=off must be on with search=tpe"),
        (["monitoring/tracking=off"], "monitoring/tracking=off must be on with search=tpe"),
        (
            ["search.pruner=asha", "training.eval_interval=10", "training.max_steps=10"],
            "eval_interval=10 must be < training.max_steps=10",
        ),
    ],
)
def test_the_runs_of_a_search_write_what_it_reads(
    composer: Composer, changes: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        Search.parse(["search=tpe", RATE, *changes], composer)
    # Parts of the package that repeat a single run switch its files off.
    read_search_settings(composer.compose(["search=tpe", *changes]).config)


def test_runs_are_pruned_by_metrics_of_every_validation() -> None:
    assert set(PRUNABLE) == set(Evaluation(1.0, 2.0, 0.1, 10).metrics())


# --- proposals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", CMAES])
def test_the_same_trials_lead_to_the_same_proposals(composer: Composer, sampler: str) -> None:
    search = make_search(composer, "seed=1", RATE, LAYERS, sampler=sampler, trials=100)
    trials = run_serially(search, 11)
    jobs = [trial.overrides for trial in trials]
    assert [trial.overrides for trial in run_serially(search, 2, trials[:9])] == jobs
    assert len({tuple(job) for job in jobs}) == 11
    assert all(1e-4 <= float(job[1].split("=")[1]) <= 1e-2 for job in jobs)
    assert all(job[0] == "seed=1" for job in jobs)
    other = make_search(composer, "seed=1", RATE, LAYERS, sampler=sampler, trials=100, seed=1)
    assert run_serially(other, 1)[0].overrides != jobs[0]


def test_random_proposals_do_not_depend_on_what_became_of_the_trials(composer: Composer) -> None:
    search = make_search(composer, RATE, LAYERS, sampler="random", trials=100)
    together = search.propose([], 20)
    trials: list[Trial] = []
    for number, job in enumerate(together):
        assert search.propose(trials) == [job]
        state = STATES[number % 4]
        trials.append(Trial(job, state, [quality(job)] if state == "done" else None))


@pytest.mark.parametrize("objectives", [["val_bpb"], ["val_bpb", "n_parameters"]])
@pytest.mark.parametrize("sampler", ["tpe", "random", CMAES])
def test_every_state_of_a_trial_is_taken(
    composer: Composer, sampler: str, objectives: list[str]
) -> None:
    if sampler == "cmaes" and len(objectives) > 1:
        pytest.skip("refused")
    search = make_search(composer, RATE, LAYERS, sampler=sampler, objectives=objectives, trials=99)
    trials: list[Trial] = []
    for number in range(16):
        (job,) = search.propose(trials)
        state = STATES[number % 4]
        values = [quality(job), 7.0][: len(objectives)] if state == "done" else None
        trials.append(Trial(job, state, values, {1: math.nan, 2: math.inf, 3: quality(job)}))
    assert len({tuple(trial.overrides) for trial in trials}) == 16


def test_a_sampler_that_learns_beats_random_proposals(composer: Composer) -> None:
    best = {}
    for name in ("tpe", "random"):
        search = make_search(composer, RATE, LAYERS, sampler=name, trials=100)
        values = [quality(trial.overrides) for trial in run_serially(search, 30)]
        best[name] = sum(sorted(values)[:10])
    assert best["tpe"] < best["random"]


@pytest.mark.slow
def test_cmaes_continues_as_one_study_of_optuna_would(composer: Composer) -> None:
    search = make_search(
        composer, LAYERS, "model.n_head=int(interval(1,900))", sampler="cmaes", trials=99
    )
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=0))
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "0": optuna.distributions.IntDistribution(0, 7),
        "1": optuna.distributions.IntDistribution(1, 900),
    }
    trials: list[Trial] = []
    for _ in range(14):
        asked = study.ask(space)
        (job,) = search.propose(trials)
        values = dict(override.split("=") for override in job)
        layers, heads = int(values["model.n_layer"]), int(values["model.n_head"])
        assert asked.params == {"0": layers - 1, "1": heads}
        value = (layers - 3) ** 2 + math.log(heads)
        study.tell(asked, value)
        trials.append(Trial(job, "done", [value]))


@pytest.mark.parametrize("sampler", ["tpe", "random", CMAES, "grid"])
def test_a_finite_space_is_searched_once_in_full(composer: Composer, sampler: str) -> None:
    search = make_search(composer, "model.n_layer=range(1,4)", "model.n_head=int(interval(1,2))",
                         sampler=sampler)  # fmt: skip
    jobs = search.propose([], 50)
    assert len(jobs) == len({tuple(job) for job in jobs}) == 6
    assert search.propose([Trial(job, "done", [1.0]) for job in jobs]) == []


def test_grid_takes_the_order_of_the_command_line_and_fills_its_gaps(composer: Composer) -> None:
    search = make_search(
        composer, "model/attention=rotary,phasor", "model.n_layer=1,2,3", sampler="grid"
    )
    jobs = search.propose([], 50)
    assert [tuple(o.split("=")[1] for o in job[:2]) for job in jobs] == [
        (attention, depth) for attention in ("rotary", "phasor") for depth in "123"
    ]
    done = [Trial(job, "done", [1.0]) for job in jobs[1:4]]
    assert search.propose(done, 50) == [jobs[0], *jobs[4:]]


# --- which trials count ---------------------------------------------------------------------------


def test_runs_of_other_experiments_are_no_trials(composer: Composer) -> None:
    search = make_search(composer, "+experiment=classic", "seed=1", RATE, trials=3)
    (job,) = search.propose([])
    rate = job[2]
    same = ["+experiment=classic", rate, "seed=1", "monitoring.backup.url=x", "search.trials=9",
            "sweep=a", "device=cpu"]  # fmt: skip
    others = [
        ["+experiment=wave", "seed=1", rate],
        ["+experiment=classic", "seed=2", rate],
        ["+experiment=classic", "seed=1", rate, "training.max_steps=3"],
        ["+experiment=classic", "seed=1"],
        ["+experiment=classic", "seed=1", "optimizer.learning_rate=0.5"],
        ["+experiment=classic", "seed=1", "optimizer.learning_rate=word"],
        [],
    ]
    assert search.propose([Trial(other, "done", [1.0]) for other in others], 9) == search.propose(
        [], 9
    )
    assert len(search.propose([Trial(same, "done", [1.0])], 9)) == 2
    assert search.rebuild([Trial(o, "done", [1.0]) for o in (same, *others)]) == [job]


def test_recorded_overrides_lack_interpolations_and_secrets(composer: Composer) -> None:
    given = ["data.path=${oc.env:HOME}/x", "data.url=https://token@host/", RATE]
    search = make_search(composer, *given, trials=3)
    recorded = ["data.path=/root/x", f"data.url={REDACTED}", "optimizer.learning_rate=1e-3"]
    assert search.rebuild([Trial(recorded, "done")]) == [
        [*given[:2], "optimizer.learning_rate=0.001", "search.settings=[optimizer.learning_rate]"]
    ]


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "expected"),
    [({"trials": 5}, 5), ({"total_steps": 250}, 3), ({"total_time_s": 7.5}, 4), ({}, 8)],
)
def test_no_run_begins_once_a_budget_is_spent(
    composer: Composer, budget: dict[str, Any], expected: int
) -> None:
    search = make_search(composer, LAYERS, **budget)
    trials: list[Trial] = []
    while jobs := search.propose(trials):
        trials.append(Trial(jobs[0], "done", [1.0], steps=100, time_s=2.0))
    assert len(trials) == expected
    assert len(search.propose([], 50)) == min(expected, 5) if "trials" in budget else True


# --- leaders --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25), st.randoms())
def test_the_pareto_set_is_that_of_optuna(
    points: list[tuple[int, int, int]], shuffle: random.Random
) -> None:
    of_search = SearchSettings(
        sampler="tpe", objectives=["val_bpb", "tokens_per_s", "n_parameters"]
    )
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"])
    trials = []
    for point in points:
        values = [float(value) for value in point]
        study.add_trial(optuna.trial.create_trial(values=values))
        trials.append(Trial([], "done", values))
    shuffle.shuffle(trials)
    trials.append(Trial([], "pruned"))
    found = [list(trial.values or ()) for trial in find_leaders(trials, of_search)]
    assert sorted(found) == sorted(trial.values for trial in study.best_trials)


def test_leaders_by_one_metric_are_the_ten_best() -> None:
    trials = [Trial([], "done", [float(n * 7 % 23)], name=str(n)) for n in range(23)]
    trials = [*trials, replace(trials[0], state="failed", values=None)]
    for metric, expected in (("val_bpb", range(10)), ("tokens_per_s", range(22, 12, -1))):
        leaders = find_leaders(trials, SearchSettings(sampler="tpe", objectives=[metric]))
        assert [one.values for one in leaders] == [[float(value)] for value in expected]


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search=tpe"], "search=tpe trains several runs; add -m"),
        (["-m", "search=tpe"], "search=tpe has nothing to search"),
        (["-m", RATE], "add search=tpe (or random, cmaes)"),
        (["-m", "search=tpe", RATE, "search.objectives=[val_bbp]"], "did you mean val_bpb"),
        pytest.param(
            ["-m", "search=tpe", "optimizer.learning_rate=interval(-1,1)"],
            "learning_rate=-1",
            marks=pytest.mark.slow,  # it builds a model
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["+experiment=classic", *TINY, NO_PLOTS, "device=cpu", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
