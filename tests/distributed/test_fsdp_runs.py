"""Runs whose model is divided among processes against runs of one process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.config.build import check
from spectral_exp.distributed.world import World
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import is_running_elsewhere
from tests.conftest import NO_PLOTS, ROOT, TINY, built_once
from tests.distributed.driver import Processes, Run, config_of, problems, train_here
from tests.distributed.test_equality import differences, metrics_of, results_of
from tests.s3_server import eventually

# Parts of parameters that fill the vectors of the processor, so that bits can be equal.
WIDE = {"model.n_embd": 64, "training.grad_accum_steps": 2}
ALIGNED = {**WIDE, "model.embedding.n_wave": 32, "model.attention.n_wave": 32}
FSDP = {"distributed.strategy": "fsdp", "distributed.exact": True}
RECORDED = {"monitoring.spectra.enabled": True, "monitoring.tracking.enabled": True}
SHARDED = {**FSDP, "monitoring.checkpoint.format": "sharded"}

RUNS = [
    Run("rgd", "wave_rgd_qfe", {**ALIGNED, **FSDP, **RECORDED}),
    Run("adamw", "classic", {**WIDE, **FSDP, "model.tie_weights": True}),
    Run("bf16", "phasor_rgd", {**ALIGNED, **FSDP, "training.precision": "bf16"}),
    Run(
        "stopped",
        "wave",
        {
            **ALIGNED,
            **FSDP,
            "model.embedding.wave_ratio": "scheduled",
            "optimizer.learning_rate": 1.0,
            "schedule.warmup_steps": 1,
            "training.max_steps": 9,
            "training.eval_interval": 1,
            "training.eval_windows": 12,
            "training.patience": 2,
            **RECORDED,
        },
    ),
    Run(
        "owners",
        "wave_rgd",
        {**ALIGNED, "distributed.shard_optimizer": True, "optimizer.gate_embeddings": "both"},
    ),
    Run("rounded", "pure_wave", {"training.grad_accum_steps": 2, "distributed.strategy": "fsdp"}),
]
EQUAL = [run.name for run in RUNS if run.name != "rounded"]


def continued(last: int, settings: dict[str, Any]) -> Run:
    name = "continued_sharded" if settings is SHARDED else "continued"
    constant = {"_target_": "spectral_exp.optim.Constant", "warmup_steps": 2}
    lasting = {"schedule": constant, "training.max_steps": last}
    return Run(name, "wave_rgd", {**ALIGNED, **lasting, **settings})


def numbers_of(root: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "tokens_per_s"}
        for line in metrics_of(root)
    ]


def histograms_of(root: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in RunPaths(root).spectra_file.read_text().splitlines()]
    return [line for line in lines if line.pop("timestamp")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs by two processes, and one of runs by one."""
    return built_once(tmp_path_factory, "divided", train)


def train(folder: Path) -> None:
    for name in ("several", "one"):
        (folder / name).mkdir()
    both = (FSDP, SHARDED)
    runs = [*RUNS, *(continued(last, settings) for last in (2, 4) for settings in both)]
    with Processes(2, folder / "several", runs) as two:
        for run in [*RUNS, *(continued(6, settings) for settings in both)]:
            train_here(run, folder / "one")
        two.wait()
    for settings in both:
        assert problems(folder / "several", continued(4, settings).name) == ["", ""]
        train_here(continued(6, settings), folder / "several")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("run", [*EQUAL, "continued", "continued_sharded"])
def test_a_divided_model_is_trained_like_a_whole_one(run: str, trained: Path) -> None:
    one, several = trained / "one" / run, trained / "several" / run
    assert problems(trained / "several", run) == ["", ""]
    assert not differences(one, several)
    if run in EQUAL:  # the others have validated more often
        assert numbers_of(one) == numbers_of(several)


@pytest.mark.slow
@pytest.mark.distributed
def test_other_divisions_differ_by_round_off(trained: Path) -> None:
    assert problems(trained / "several", "rounded") == ["", ""]
    far = differences(trained / "one/rounded", trained / "several/rounded")
    assert max(far.values(), default=0.0) <= 1e-5


@pytest.mark.slow
@pytest.mark.distributed
def test_histograms_and_samples_are_those_of_the_whole_model(trained: Path) -> None:
    for run in ("rgd", "stopped"):
        one, several = (trained / name / run for name in ("one", "several"))
        assert results_of(one) == results_of(several)
        if run == "rgd":  # the other one stops before its first histograms
            assert histograms_of(one) == histograms_of(several)
        samples = [
            json.loads((root / "results.json").read_text())["generation_samples"]
            for root in (one, several)
        ]
        assert samples[0] == samples[1]
    assert json.loads((several / "results.json").read_text())["status"] == "stopped_early"


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_checkpoints_are_in_several_files(trained: Path) -> None:
    paths = RunPaths(trained / "several/continued_sharded")
    folders = sorted(path.name for path in paths.checkpoints.iterdir() if path.is_dir())
    assert [name.partition(".")[0] for name in folders] == [
        "checkpoint_step_3",
        "checkpoint_step_4",
    ]
    assert len(list((paths.checkpoints / folders[0]).glob("shard_*.pt"))) == 2
    state = CheckpointManager(paths.root, enabled=False).load_checkpoint(4)
    whole = CheckpointManager(trained / "several/continued", enabled=False).load_checkpoint(4)
    assert state is not None
    assert whole is not None
    assert state["model_state_dict"].keys() == whole["model_state_dict"].keys()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"training.compile": True}, "training.compile=true must be false with"),
        ({"distributed.strategy": "zero"}, "distributed.strategy=zero must be one of ddp, fsdp"),
        ({"distributed.shard_optimizer": True}, "distributed.shard_optimizer=true must be false"),
        (
            {"optimizer": {"_target_": "spectral_exp.optim.build_muon"}},
            "distributed.strategy=fsdp must be ddp with optimizer=muon",
        ),
        (
            {"monitoring.backup.url": "file:///nowhere", **SHARDED},
            "backup_url=file:///nowhere must be null",
        ),
        (
            {**SHARDED, "monitoring.checkpoint.compression": "zstd"},
            "compression=zstd must be null with format=sharded",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    run = Run("refused", "wave", {**ALIGNED, "distributed.strategy": "fsdp", **settings})
    found = check(config_of(run), tmp_path / "run", world=World(size=2, local_size=2))
    assert len(found) == 1
    assert problem in found[0]


@contextmanager
def running(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(arguments, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def command(run: Path, *settings: str) -> list[str]:
    return [
        *(sys.executable, "-m", "spectral_exp.train", "+experiment=wave_rgd", *TINY, NO_PLOTS),
        *("training.max_steps=1000000", "training.grad_accum_steps=2", f"hydra.run.dir={run}"),
        *("monitoring.checkpoint.save_interval=5", "distributed.strategy=fsdp", *settings),
    ]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_divided_run_survives_its_processes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    paths = RunPaths(run)

    def newest() -> int:
        return max(paths.checkpoint_steps(), default=0)

    with running(command(run, "distributed.nproc=2")) as process:
        eventually(lambda: newest() >= 5 or process.poll() is not None, 120)
        process.kill()
    eventually(lambda: not is_running_elsewhere(run), 60)
    first = newest()
    assert first >= 5
    with running(command(run, "distributed.nproc=2")) as process:
        eventually(lambda: newest() > first or process.poll() is not None, 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM
    second = newest()
    assert second > first
    end = [f"training.max_steps={second + 3}"]
    assert subprocess.run(command(run, *end), cwd=ROOT, timeout=120, check=False).returncode == 0
    assert json.loads(paths.results_file.read_text())["totals"]["steps"] == second + 3
    attempts = json.loads(paths.config_file.read_text())["attempts"]
    assert [attempt["processes"] for attempt in attempts] == [2, 2, 1]
    assert [attempt["from_step"] for attempt in attempts] == [0, first, second]
