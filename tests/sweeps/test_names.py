from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.runs.load import load_run
from spectral_exp.sweeps.names import (
    folder_name,
    identity,
    job_key,
    key_of_folder,
    swept_settings,
)
from tests.results.made_runs import make_run

CONFIG: dict[str, Any] = {
    "name": "phasor",
    "seed": 1,
    "outputs": "outputs",
    "device": "cpu",
    "optimizer": {"learning_rate": 0.004, "betas": [0.9, 0.95]},
    "model": {"dropout": 0.0, "mlp": {"dropout": 0.1}},
    "monitoring": {"metrics": {"log_interval": 10}},
}
DEFAULTS = identity(CONFIG)


def key(**changes: Any) -> str:
    return job_key(identity({**CONFIG, **changes}), DEFAULTS)


def test_the_hash_is_that_of_what_a_job_computes() -> None:
    same: list[dict[str, Any]] = [
        {},
        {"device": "cuda", "threads": 3, "outputs": "elsewhere", "sweep": "x", "name": "y"},
        {"monitoring": {"metrics": {"log_interval": 1}}},
        {"distributed": {"nproc": 4}, "search": {"sampler": "tpe"}, "experiment_id": "z"},
    ]
    assert len({key(**changes) for changes in same}) == 1
    other: list[dict[str, Any]] = [
        {},
        {"seed": 2},
        {"optimizer": {"learning_rate": 0.008, "betas": [0.9, 0.95]}},
        {"optimizer": {"learning_rate": 0.004, "betas": [0.95, 0.9]}},
        {"added": None},
    ]
    assert len({key(**changes) for changes in other}) == len(other)
    assert key(model={"dropout": 0, "mlp": {"dropout": 0.1}}) == key()
    removed = job_key(DEFAULTS, DEFAULTS, ["~model.dropout", "seed=1"])
    assert removed != job_key(DEFAULTS, DEFAULTS, ["seed=1"])


def test_a_setting_that_is_added_with_its_default_changes_no_hash() -> None:
    new = {**CONFIG, "seed": 5}
    later = {**new, "training": {"added_later": 3}}
    defaults = identity({**CONFIG, "training": {"added_later": 3}})
    assert job_key(identity(new), DEFAULTS) == job_key(identity(later), defaults)


def test_the_name_says_what_was_swept() -> None:
    jobs = [
        ["+experiment=phasor", "optimizer.learning_rate=4e-3", "seed=1", "threads=1"],
        ["+experiment=wave", "optimizer.learning_rate=4e-3", "seed=2", "threads=2"],
        ["+experiment=wave", "optimizer.learning_rate=8e-3", "optimizer=rgd", "match=wave"],
    ]
    swept = swept_settings(jobs)
    assert swept == ["experiment", "optimizer.learning_rate", "optimizer", "match"]
    assert folder_name(CONFIG, jobs[0], swept, "1a2b3c4d") == "phasor_lr0.004_seed1_1a2b3c4d"
    config = {**CONFIG, "name": "wave", "optimizer": {"learning_rate": 8e-5}, "match": {}}
    assert folder_name(config, jobs[2], swept, "1a2b3c4d") == (
        "wave_lr8e-05_rgd_match-wave_seed1_1a2b3c4d"
    )
    both = ["model.dropout=0", "model.mlp.dropout=0.1"]
    assert folder_name(CONFIG, both, ["model.dropout", "model.mlp.dropout"], "1a2b3c4d") == (
        "phasor_model.dropout0.0_model.mlp.dropout0.1_seed1_1a2b3c4d"
    )
    assert folder_name(CONFIG, ["seed=1"], [], "1a2b3c4d") == "phasor_seed1_1a2b3c4d"


@given(st.text(), st.lists(st.text(), max_size=12), st.integers())
def test_names_are_safe_for_any_value(name: str, values: list[str], seed: int) -> None:
    settings = {f"s{i}": value for i, value in enumerate(values)}
    config = {"name": name, "seed": seed, **settings}
    overrides = [f"{setting}={value}" for setting, value in settings.items()]
    folder = folder_name(config, overrides, list(settings), "0123abcd")
    assert re.fullmatch(r"[A-Za-z0-9.+_-]{1,180}", folder)
    assert folder[0] not in ".-"
    assert key_of_folder(folder) == "0123abcd"


def test_a_job_of_a_sweep_is_named_with_its_sweep(tmp_path: Any) -> None:
    run = make_run(tmp_path / "lr", "wave")
    job = run.rename(run.with_name("wave_lr0.004_seed1_1a2b3c4d"))
    assert load_run(job).run_id == "lr/wave_lr0.004_seed1_1a2b3c4d"
