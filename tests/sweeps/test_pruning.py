"""Pruning: decisions equal to those of optuna, on files that may be damaged, without a trace in
runs that go on."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.config.search import SearchSettings
from spectral_exp.core.json_files import content_crc32
from spectral_exp.sweeps.search.pruning import Pruner, make_pruner

optuna.logging.set_verbosity(optuna.logging.ERROR)

JOB = ["seed=1", "optimizer.learning_rate=0.1", "search.settings=[optimizer.learning_rate]"]
VALUES = st.one_of(st.integers(0, 6).map(float), st.just(math.nan), st.just(math.inf))


def search_settings(pruner: str, **changes: Any) -> SearchSettings:
    values: dict[str, Any] = {
        "sampler": "tpe",
        "pruner": pruner,
        "startup_trials": 2,
        "reduction_factor": 2,
        "settings": ["optimizer.learning_rate"],
        **changes,
    }
    return SearchSettings(**values)


def optuna_pruner(name: str, min_steps: int) -> optuna.pruners.BasePruner:
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=min_steps, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=min_steps)


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of optuna's own study
@settings(max_examples=30)
@given(
    curves=st.lists(st.lists(VALUES, min_size=6, max_size=6), min_size=1, max_size=8),
    pruner=st.sampled_from(["asha", "median"]),
    min_steps=st.sampled_from([10, 20, 25]),
)
def test_decisions_are_those_of_optuna_on_the_same_values(
    tmp_path_factory: pytest.TempPathFactory,
    curves: list[list[float]],
    pruner: str,
    min_steps: int,
) -> None:
    """The runs report by turns, each a step behind the one before it, as parallel runs do."""
    study = optuna.create_study(pruner=optuna_pruner(pruner, min_steps))
    ours = Pruner(search_settings(pruner), min_steps, tmp_path_factory.getbasetemp(), JOB)
    trials = [study.ask() for _ in curves]
    reports: list[dict[int, float]] = [{} for _ in curves]
    over: dict[int, bool] = {}  # run -> whether it has completed
    for turn in range(len(curves) + 6):
        for run, (trial, curve) in enumerate(zip(trials, curves, strict=True)):
            place = turn - run
            if not 0 <= place < len(curve) or run in over:
                continue
            step = 10 * (place + 1)
            reports[run][step] = curve[place]
            trial.report(curve[place], step)
            peers = [
                (over.get(other, False), reports[other])
                for other in range(len(curves))
                if other != run
            ]
            decision = trial.should_prune()
            assert ours.decides_to_prune(reports[run], peers) == decision
            if not ours._is_due(reports[run]):
                assert not decision
            if decision:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                over[run] = False
            elif step == 60:
                study.tell(trial, 1.0)
                over[run] = True


# --- files ----------------------------------------------------------------------------------------


def make_peer(
    folder: Path, values: Mapping[int, float], status: str | None = None, **record: Any
) -> Path:
    folder = folder.with_name(f"{folder.name}_{zlib.crc32(folder.name.encode()):08x}")
    (folder / "logs").mkdir(parents=True)
    lines = [{"step": step, "val_bpb": value} for step, value in values.items()]
    (folder / "logs/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    content: dict[str, Any] = {"overrides": JOB, "config": {"seed": 1}, **record}
    content["crc32"] = content_crc32(content)
    (folder / "config.json").write_text(json.dumps(content))
    if status is not None:
        (folder / "results.json").write_text(json.dumps({"status": status}))
    return folder


def median_pruner(run_dir: Path) -> Pruner:
    return Pruner(search_settings("median"), 10, run_dir, JOB)


def test_a_run_is_compared_with_the_completed_runs_of_its_search(tmp_path: Path) -> None:
    why = median_pruner(tmp_path / "own").why_prune
    assert why(10, {"val_bpb": 9.0}) == ""
    make_peer(tmp_path / "a", {10: 3.0, 20: 2.0}, "completed")
    make_peer(tmp_path / "b", {10: 3.0, 20: 2.0}, "stopped_early")
    make_peer(tmp_path / "worse but not over", {20: 99.0})
    make_peer(tmp_path / "worse but failed", {20: 99.0}, "failed")
    other = [*JOB, "training.max_steps=3"]
    for number in range(3):
        make_peer(tmp_path / f"other {number}", {20: 99.0}, "completed", overrides=other)
    reason = why(20, {"val_bpb": 2.5})
    assert reason == (
        "val_bpb 2.5 at step 20 is worse than the median of the runs of this search at that step "
        "(search.pruner=median, 4 other runs came this far)"
    )
    copy = tmp_path / "worse but a reproduction"
    make_peer(copy, {20: 99.0}, "completed").rename(copy)
    assert why(20, {"val_bpb": 2.5}) == reason
    # The best of its own values counts, also that of an earlier attempt.
    own = make_peer(tmp_path / "own", {10: 1.5, 20: 9.0, 30: 1.0})
    assert median_pruner(own).why_prune(20, {"val_bpb": 2.5}) == ""


def test_files_that_are_damaged_or_change_are_tolerated(tmp_path: Path) -> None:
    good = [make_peer(tmp_path / name, {20: 2.0}, "completed") for name in "ab"]
    torn = make_peer(tmp_path / "torn", {20: 2.0})
    with (torn / "logs/metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "val_')
    (torn / "results.json").write_text('{"status": "comp')
    garbage = make_peer(tmp_path / "garbage", {}, "completed")
    (garbage / "logs/metrics.jsonl").write_bytes(
        b'\x00\xff\n[]\n{"step": -1, "val_bpb": 1}\n{"step": 20, "val_bpb": "x"}\n'
    )
    (make_peer(tmp_path / "no record", {20: 9.0}, "completed") / "config.json").write_text("{")
    (make_peer(tmp_path / "no metrics", {}, "completed") / "logs/metrics.jsonl").unlink()
    pipe = make_peer(tmp_path / "pipe", {}, "completed") / "logs/metrics.jsonl"
    pipe.unlink()
    os.mkfifo(pipe)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "copy").symlink_to(good[0])
    pruner = median_pruner(tmp_path / "own")
    assert "3 other runs" in pruner.why_prune(20, {"val_bpb": 2.5})
    # A file that was cut back is read again.
    for run in good:
        (run / "logs/metrics.jsonl").write_text('{"step": 20, "val_bpb": 3.0}\n')
    assert pruner.why_prune(20, {"val_bpb": 2.5}) == ""


def test_only_runs_of_a_search_that_prunes_are_compared(tmp_path: Path) -> None:
    config: dict[str, Any] = {"training": {"eval_interval": 5}}
    assert make_pruner(config, tmp_path, JOB) is None
    assert (
        make_pruner({**config, "search": {"sampler": None, "pruner": "asha"}}, tmp_path, []) is None
    )
    assert make_pruner({**config, "search": {"sampler": "tpe"}}, tmp_path, JOB) is None
    why = make_pruner(
        {**config, "search": {"sampler": "tpe", "pruner": "asha", "min_steps": 3}}, tmp_path, JOB
    )
    assert why is not None
    assert why(5, {"val_bpb": math.nan}) != ""
