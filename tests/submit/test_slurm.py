"""Jobs on a real Slurm: preempted, cancelled, out of time, in arrays and on several nodes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectral_exp import train
from spectral_exp.commands import submit
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.lock import read_owner
from spectral_exp.runs.record import read_intact_config
from tests.conftest import NO_PLOTS, TINY
from tests.s3_server import eventually
from tests.submit.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster
from tests.test_train import assert_same_state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=missing_programs() or "Slurm is there"),
]

TRAINING = ("+experiment=wave", *TINY, NO_PLOTS)

TRAINER = """#!/bin/bash
# Stands for training: saves when it is asked to stop, ends when there is a file `end`.
mkdir -p "$FOLDER"
printf '%s\\0' "$@" > "$FOLDER/arguments-$SLURM_JOB_ID"
env > "$FOLDER/rank-$SLURM_PROCID-of-$SLURM_NTASKS-node-$SLURM_NODEID-local-$SLURM_LOCALID"
trap 'exit 143' TERM
trap 'exit 140' USR2
echo "start ${SLURM_RESTART_COUNT:-0}"
while [ ! -e "$FOLDER/end" ]; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def place(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory from which jobs are submitted to the cluster."""
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOLDER", str(tmp_path / "seen"))
    (tmp_path / "trainer").write_text(TRAINER)
    (tmp_path / "trainer").chmod(0o755)
    return tmp_path


class Submitted:
    """A job that was submitted by the command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        assert submit.main(["slurm", *arguments]) == 0
        printed = capsys.readouterr().out
        (self.id,) = re.findall(r"^submitted job (\d+)$", printed, flags=re.MULTILINE)
        (self._log,) = re.findall(r"^  log     (.*)$", printed, flags=re.MULTILINE)

    def log(self, task: int | None = None) -> str:
        """What the job, or a task of an array, has printed so far."""
        file = Path(self._log if task is None else self._log.replace("_*", f"_{task}"))
        return file.read_text() if file.exists() else ""


def test_a_preempted_run_ends_with_the_same_bits_as_an_uninterrupted_one(
    cluster: SlurmCluster, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        *TRAINING, "training.max_steps=300", "training.eval_interval=150",
        "monitoring.checkpoint.save_interval=300",
    ]  # fmt: skip
    alone = ("--sbatch=--nodelist=n1", "--sbatch=--exclusive")
    job = Submitted(capsys, *alone, "--time=30", *overrides, "experiment_id=run")
    metrics = place / "outputs/run/logs/metrics.jsonl"
    eventually(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 3)
    # It waits here for Slurm, which wakes a job before it preempts it.
    owner = read_owner(place / "outputs/run")
    assert owner is not None
    os.kill(owner["pid"], signal.SIGSTOP)
    cluster.call(
        "sbatch", "--partition=urgent", "--nodelist=n1", "--exclusive", "--output=/dev/null",
        "--wrap=true",
    )  # fmt: skip
    assert train.main([*overrides, "hydra.run.dir=whole"]) == 0
    cluster.start_now(job.id)
    eventually(lambda: cluster.state(job.id) in ("COMPLETED", "FAILED"), 150.0)
    log = job.log()
    assert cluster.state(job.id) == "COMPLETED", log
    assert "DUE TO PREEMPTION" in log
    assert "resuming after step " in log
    assert "status      interrupted" in log
    assert_same_state(place / "outputs/run", place / "whole", 300)
    assert not list((place / "outputs/submitted/run").glob("progress-*"))


def test_the_script_keeps_a_job_going_until_it_is_done_or_cancelled(
    cluster: SlurmCluster, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a small program in place of training. The jobs wait for the time limit of the first
    together."""
    prompt = "training.sample_prompt='\"$HOME `x` \\ é\n#SBATCH --wrap=x\r\n\u2028"
    seen = place / "seen"

    def submitted(name: str, *options: str, training: tuple[str, ...] = ()) -> Submitted:
        python = f"--python={place / 'trainer'}"
        words = [*options, python, "--", *training, *TRAINING, f"experiment_id={name}", prompt]
        return Submitted(capsys, *words)

    limited = submitted("limited", "--time=1", "--save-time=55")
    graced = submitted(
        "graced", "--partition=graced", "--sbatch=--nodelist=n2", "--sbatch=--exclusive"
    )
    array = submitted("array", "--workers=2", training=("-m", "seed=1,2"))
    cancelled = submitted("cancelled")
    twice = submitted("cancelled")
    logs: list[tuple[Submitted, int | None]] = [
        (limited, None), (graced, None), (array, 0), (array, 1), (cancelled, None),
    ]  # fmt: skip
    eventually(lambda: all("start 0" in job.log(task) for job, task in logs))
    words = (seen / f"arguments-{cancelled.id}").read_bytes().split(b"\0")[:-1]
    assert words[:2] == [b"-m", b"spectral_exp.train"]
    assert [os.fsdecode(word) for word in words[2:]] == [
        *TRAINING, "experiment_id=cancelled", prompt,
    ]  # fmt: skip

    # The same run twice: the second job waits instead of failing.
    assert cluster.state(twice.id) == "PENDING"
    cluster.call("scancel", twice.id)
    # The id of one of the tasks is that of the array; it returns to the queue alone.
    cluster.call("scancel", f"--signal={signal.SIGUSR2.value}", array.id + "_1")
    eventually(lambda: cluster.is_requeued(f"{array.id}_1"))
    assert cluster.state(f"{array.id}_0") == "RUNNING"
    # In the grace time of a preemption Slurm takes a job that ends for one that is done.
    cluster.call(
        "sbatch", "--partition=urgent", "--nodelist=n2", "--exclusive", "--output=/dev/null",
        "--wrap=true",
    )  # fmt: skip
    eventually(lambda: cluster.is_requeued(graced.id))
    assert "exit code 143" in graced.log()
    # A cancelled job has saved as well, and stays cancelled.
    cluster.call("scancel", cancelled.id)
    eventually(lambda: cluster.state(cancelled.id) == "CANCELLED")
    assert "returns to the queue" not in cancelled.log()

    eventually(lambda: cluster.is_requeued(limited.id), 100.0)
    assert "exit code 140" in limited.log()
    seen.joinpath("end").touch()
    cluster.call("scontrol", "update", f"JobId={limited.id}", "TimeLimit=30")
    for name in (limited.id, graced.id, f"{array.id}_1"):
        cluster.start_now(name)
    for name in (limited.id, graced.id, f"{array.id}_0", f"{array.id}_1"):
        eventually(lambda name=name: cluster.state(name) == "COMPLETED")  # type: ignore[misc]
    assert "start 1" in graced.log()


def test_a_job_on_two_nodes_starts_every_rank(
    cluster: SlurmCluster, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--nodes=2", "--tasks-per-node=2", "--cpus=3", f"--python={place / 'trainer'}")
    job = Submitted(capsys, *options, "--srun=--label", *TRAINING, "experiment_id=ranks")
    seen = place / "seen"
    eventually(lambda: seen.exists() and len(list(seen.glob("rank-*"))) == 4)
    (seen / "end").touch()
    eventually(lambda: cluster.state(job.id) == "COMPLETED")
    assert sorted(path.name for path in seen.glob("rank-*")) == [
        f"rank-{rank}-of-4-node-{rank // 2}-local-{rank % 2}" for rank in range(4)
    ]
    environment = next(seen.glob("rank-3-*")).read_text()
    assert "\nSLURM_STEP_TASKS_PER_NODE=2(x2)\n" in environment
    assert "\nSLURM_CPUS_PER_TASK=3\n" in environment
    assert re.findall(r"^\d: start 0$", job.log(), flags=re.MULTILINE).__len__() == 4


def test_workers_of_an_array_share_a_sweep(
    cluster: SlurmCluster, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Submitted(capsys, "--workers=2", *TRAINING, "seed=1,2,3", "sweep=shared")
    tasks = [f"{job.id}_{number}" for number in range(2)]
    eventually(lambda: all(cluster.state(task) == "COMPLETED" for task in tasks), 200.0)
    runs = [read_intact_config(run / "config.json") for run in find_runs(["outputs/shared"]).runs]
    assert sorted(run["config"]["seed"] for run in runs) == [1, 2, 3]
    assert [len(run["attempts"]) for run in runs] == [1, 1, 1]
    for number in range(2):
        assert "3 of 3 jobs done" in job.log(number)


def test_ranks_on_two_nodes_train_one_run_with_the_bits_of_one_process(
    cluster: SlurmCluster, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped once on the way; each rank waits until the first has saved."""
    pytest.importorskip("spectral_exp.distributed.world", reason="one process trains a run")
    overrides = [
        *TRAINING, "training.grad_accum_steps=4", "training.max_steps=100",
        "training.eval_interval=50", "monitoring.checkpoint.save_interval=100",
        "distributed.exact=true",
    ]  # fmt: skip
    options = ("--nodes=2", "--tasks-per-node=2", "--time=30")
    job = Submitted(capsys, *options, *overrides, "experiment_id=ranks")
    metrics = place / "outputs/ranks/logs/metrics.jsonl"
    eventually(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 3, 120.0)
    cluster.call("scancel", f"--signal={signal.SIGUSR2.value}", job.id)
    assert train.main([*overrides, "hydra.run.dir=whole"]) == 0
    cluster.start_now(job.id)
    eventually(lambda: cluster.state(job.id) in ("COMPLETED", "FAILED"), 150.0)
    assert "stopped with exit code 140" in job.log()
    assert find_runs(["outputs"]).runs == [Path("outputs/ranks")]
    assert_same_state(place / "outputs/ranks", place / "whole", 100)
