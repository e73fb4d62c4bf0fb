"""The scripts of jobs, run by a real shell with small programs in place of Slurm's."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.submit.ray import RayOptions, new_submission_ids, ray_script
from spectral_exp.submit.script import Environment
from spectral_exp.submit.slurm import SlurmOptions, slurm_script
from spectral_exp.submit.training_job import TrainingJob

SRUN = """#!/bin/bash
while [ "$1" != -m ]; do shift; done
printf '%s\\0' "${@:3}" > arguments
touch outputs/run/checkpoints/checkpoint_step_$RANDOM$RANDOM.pt
[ -n "$SAVES" ] || rm outputs/run/checkpoints/*
exit $CODE
"""
PROGRAMS = {
    "srun": SRUN,
    "squeue": '#!/bin/bash\necho "$STATE"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> requeued\n',
}

ARGUMENTS = st.lists(
    st.binary(min_size=1, max_size=12).filter(lambda word: b"\0" not in word), max_size=8
)


def job_in(folder: Path, *arguments: str, is_sweep: bool = False) -> TrainingJob:
    outputs = folder / "outputs"
    return TrainingJob(arguments, outputs / "run", outputs, is_sweep)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with spaces and quotes, and the programs that scripts call."""
    folder = tmp_path_factory.mktemp("it's a 100% $HOME")
    (folder / "outputs/submitted/run").mkdir(parents=True)
    (folder / "outputs/run/checkpoints").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder


def run_script(script: bytes, place: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17",
        "CODE": "0", "STATE": "RUNNING None", **variables,
    }  # fmt: skip
    return subprocess.run(
        ["bash"], input=script, cwd=place, env=environment, capture_output=True, check=False
    )


def written(place: Path, *arguments: str, **options: object) -> bytes:
    """The script for Slurm of a job with `arguments`, submitted from the folder `place`."""
    slurm_options = SlurmOptions(**options)  # type: ignore[arg-type]
    before = Path.cwd()
    os.chdir(place)
    try:
        job = job_in(place, *arguments, is_sweep=slurm_options.is_array)
        return slurm_script(job, slurm_options, Environment(python="python"))
    finally:
        os.chdir(before)


@settings(max_examples=15)
@given(ARGUMENTS)
def test_training_gets_the_very_same_arguments(place: Path, words: list[bytes]) -> None:
    script = written(place, *map(os.fsdecode, words))
    assert b"\r" not in script
    # Nothing in an argument may read as an option of sbatch.
    directives = [line for line in script.split(b"\n") if line.startswith(b"#SBATCH")]
    assert directives == [line for line in written(place).split(b"\n") if line[:7] == b"#SBATCH"]
    done = run_script(script, place)
    assert done.returncode == 0, done.stderr
    expected = b"".join(word + b"\0" for word in words)
    # printf without arguments prints its format once.
    assert (place / "arguments").read_bytes() == (expected or b"\0")


def test_ray_runs_the_very_same_arguments(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["name='it'", 'a="b', "c=\n#SBATCH --wrap=x\r\n", "é=\u2028", os.fsdecode(b"x=\xff")]
    monkeypatch.chdir(place)
    python = f"{place}/bin/srun"
    script = ray_script(job_in(place, *words), RayOptions(), Environment(python=python))
    assert run_script(script, place).returncode == 0
    expected = b"".join(os.fsencode(word) + b"\0" for word in words)
    assert (place / "arguments").read_bytes() == expected


@pytest.mark.parametrize("state", ["RUNNING None", "COMPLETING None", "COMPLETING TimeLimit", ""])
@pytest.mark.parametrize("code", [0, 1, 2, 130, 137, 139, 140, 143])
def test_only_a_saved_job_that_nobody_has_ended_returns_to_the_queue(
    code: int, state: str, place: Path
) -> None:
    """140 before a time limit, 143 in the grace time of a preemption. Slurm itself puts a job that
    is preempted at once into the queue; `scancel` leaves the same state, and must be final."""
    (place / "requeued").unlink(missing_ok=True)
    done = run_script(written(place), place, CODE=str(code), STATE=state)
    assert done.returncode == code
    is_back = (place / "requeued").exists()
    assert is_back == (code in (140, 143) and state in ("RUNNING None", "COMPLETING TimeLimit"))
    if is_back:
        assert (place / "requeued").read_text() == "requeue 17\n"


def test_a_task_of_an_array_returns_alone(place: Path) -> None:
    """The id of one of the tasks is that of the array, which would return as a whole."""
    (place / "requeued").unlink(missing_ok=True)
    variables = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2", "CODE": "140"}
    assert run_script(written(place, workers=4), place, **variables).returncode == 140
    assert (place / "requeued").read_text() == "requeue 17_2\n"
    # A single job that was submitted from within that task inherits its variables.
    variables["SLURM_JOB_ID"] = "18"
    assert run_script(written(place), place, **variables).returncode == 140
    assert (place / "requeued").read_text() == "requeue 17_2\nrequeue 18\n"


def test_a_job_that_saves_nothing_new_is_given_up(place: Path) -> None:
    (place / "requeued").unlink(missing_ok=True)
    for saved in (place / "outputs/run/checkpoints").iterdir():
        saved.unlink()
    script = written(place, give_up_after=2)

    def start(number: int, saves: str) -> int:
        variables = {"CODE": "140", "SLURM_RESTART_COUNT": str(number), "SAVES": saves}
        return run_script(script, place, **variables).returncode

    # The second and the fourth start save a checkpoint; the fifth and sixth do not.
    codes = [
        start(number, saves) for number, saves in enumerate(["", "1", "", "1", "", "", "", ""])
    ]
    assert codes == [140] * 7 + [1]
    assert (place / "requeued").read_text() == "requeue 17\n" * 7
    # A new submission begins to count anew.
    assert start(0, "") == 140


def test_a_failing_line_of_the_setup_ends_the_job(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "arguments").unlink(missing_ok=True)
    for lines, code in {("false", "true"): 1, ("export X=1", "[ $X = 1 ]"): 0}.items():
        environment = Environment(lines, python="python")
        script = slurm_script(job_in(place, "a=1"), SlurmOptions(), environment)
        assert run_script(script, place).returncode == code
        assert (place / "arguments").exists() == (code == 0)


def test_a_setup_that_no_shell_can_read_is_refused_before_it_is_submitted(place: Path) -> None:
    for line in ("if true", "echo 'x"):
        with pytest.raises(UserError, match=r"bash cannot read .*correct --setup"):
            slurm_script(job_in(place), SlurmOptions(), Environment((line,)))


def test_directives_hold_every_request(place: Path) -> None:
    script = written(
        place, workers=3, partition="gpu", account="lab", qos="long", time="1-12", gpus="a100:4", cpus=8, mem="64G", mail="me@example.org", save_time_s=300,
        sbatch=("--constraint=a100&nvlink", "--comment=it's mine"), srun=("--mpi=none",),
    ).decode()  # fmt: skip
    directives = re.findall(r"^#SBATCH (.*)$", script, flags=re.MULTILINE)
    log = str(place).replace("%", "%%")
    assert directives == [
        "--job-name=run", f'"--output={log}/outputs/submitted/run/slurm-%A_%a.log"',
        "--open-mode=append", "--requeue", "--signal=USR2@300", "--nodes=1", "--ntasks-per-node=1",
        "--array=0-2", "--partition=gpu", "--account=lab", "--qos=long", "--time=1-12",
        "--gres=gpu:a100:4", "--cpus-per-task=8", "--mem=64G", "--mail-user=me@example.org",
        "--mail-type=END,FAIL", "--constraint=a100&nvlink", '"--comment=it\'s mine"',
    ]  # fmt: skip
    assert "\nsrun --kill-on-bad-exit=1 --mpi=none --cpus-per-task=8 python -m " in script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "--nodes=0 must be >= 1"),
        ({"tasks_per_node": 0}, "--tasks-per-node=0 must be >= 1"),
        ({"workers": -1}, "--workers=-1 must be >= 1"),
        ({"cpus": 0}, "--cpus=0 must be >= 1"),
        ({"give_up_after": 0}, "--give-up-after=0 must be >= 1"),
        ({"gpus": "0"}, "--gpus='0' must be a number, or as in a100:4"),
        ({"mem": "64 GB"}, "--mem='64 GB' must be a number of megabytes, or as in 64G"),
        ({"partition": "a b"}, "--partition='a b' must be one word without quotes"),
        ({"account": ""}, "--account='' must be one word without quotes"),
        ({"qos": "x\n#SBATCH -n9"}, r"--qos='x\n#SBATCH -n9' must be one word without quotes"),
        ({"time": "soon"}, "--time='soon' must be minutes, hours:minutes:seconds or days-"),
        ({"time": "2"}, "--time=2 must be longer than --save-time=120 seconds"),
        ({"save_time_s": 0}, "--save-time=0 must be from 1 to 65535 seconds"),
        ({"sbatch": ("--wrap=rm",)}, "--sbatch=--wrap=rm must be none of the options that this"),
        ({"sbatch": ("constraint",)}, "--sbatch='constraint' must be an option with its value"),
        ({"srun": ("--a\n--b",)}, r"--srun='--a\n--b' must be an option with its value"),
    ],
)
def test_requests_that_slurm_would_misread_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(message)}"):
        SlurmOptions(**options)  # type: ignore[arg-type]


@given(st.integers(121, 10**7))
def test_a_time_limit_is_understood_in_every_notation(seconds: int) -> None:
    """The shortest time that is allowed shows how long a limit is."""
    limit = timedelta(seconds=seconds)
    hours, rest = divmod(limit.seconds, 3600)
    minutes, second = divmod(rest, 60)
    notations = {
        f"{limit.days}-{hours}:{minutes}:{second}": seconds,
        f"{limit.days * 24 + hours}:{minutes:02}:{second:02}": seconds,
        f"{seconds // 60}:{second}": seconds,
        f"{seconds // 60}": seconds // 60 * 60,
        f"{limit.days}-{hours:02}": limit.days * 86400 + hours * 3600,
        f"{limit.days}-{hours}:{minutes}": seconds - second,
    }
    for notation, value in notations.items():
        if 1 < value <= 65535:
            SlurmOptions(time=notation, save_time_s=value - 1)
            with pytest.raises(SettingError, match="longer"):
                SlurmOptions(time=notation, save_time_s=value)


@pytest.mark.parametrize("make", [slurm_script, ray_script])
def test_workers_need_a_sweep(make: object, place: Path) -> None:
    assert callable(make)
    options = (SlurmOptions if make is slurm_script else RayOptions)(workers=2)
    with pytest.raises(SettingError, match=r"^--workers=2 must be 1, because a single run"):
        make(job_in(place), options, Environment())
    assert make(job_in(place, is_sweep=True), options, Environment())


@pytest.mark.parametrize("option", ["nodes", "tasks_per_node"])
def test_the_processes_of_one_run_do_not_share_a_sweep(option: str, place: Path) -> None:
    options = SlurmOptions(nodes=2) if option == "nodes" else SlurmOptions(tasks_per_node=2)
    with pytest.raises(SettingError, match=r"=2 must be 1 for a sweep"):
        slurm_script(job_in(place, is_sweep=True), options, Environment())
    directive = option.replace("tasks_per", "ntasks-per").replace("_", "-")
    assert f"#SBATCH --{directive}=2\n".encode() in slurm_script(
        job_in(place), options, Environment()
    )


def test_each_worker_of_ray_has_an_id_of_its_own(place: Path) -> None:
    ids = new_submission_ids(job_in(place), 3)
    assert len(set(ids)) == 3
    arguments = RayOptions("http://head:8265", gpus=0.5, memory_gb=2).arguments(ids[0], Path("f g"))
    assert arguments[-3:] == ["--", "bash", "f g"]
    assert {"--entrypoint-num-gpus=0.5", f"--entrypoint-memory={2 * 2**30}"} < set(arguments)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_amounts_of_ray_are_checked(value: float) -> None:
    with pytest.raises(SettingError, match=r"^--gpus="):
        RayOptions(gpus=value)
