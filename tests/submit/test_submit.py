"""`spectral-exp submit` as a user calls it, without a batch system."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from spectral_exp.commands import submit
from spectral_exp.core.errors import UserError
from spectral_exp.core.timestamps import timestamp
from spectral_exp.runs.find import find_runs
from spectral_exp.submit import ray, slurm
from spectral_exp.submit.records import submit_script
from spectral_exp.submit.script import Environment
from spectral_exp.submit.training_job import TrainingJob, prepare
from tests.conftest import NO_PLOTS, TINY

Capsys = pytest.CaptureFixture[str]
TRAINING = ("+experiment=wave", *TINY, NO_PLOTS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and programs that submit: `sbatch` and `ray`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    program(tmp_path, "sbatch", "echo '12;cluster'")
    program(tmp_path, "ray", 'printf "%s\\n" "$@" > given')
    return tmp_path


def program(folder: Path, name: str, line: str) -> None:
    file = folder / "bin" / name
    file.write_text(f"#!/bin/bash\n{line}\n")
    file.chmod(0o755)


def called(capsys: Capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was printed as errors."""
    code = submit.main(list(arguments))
    return (code, *capsys.readouterr())


def test_a_job_is_submitted_and_recorded(folder: Path, capsys: Capsys) -> None:
    # A secret may be named, as long as its value is not in the script.
    setup = "--setup 'export API_KEY=$(cat key)' --setup 'echo a b'"
    Path("cluster.txt").write_text(f"--partition gpu --time 2:00:00  # ours\n{setup}\n")
    code, printed, errors = called(
        capsys, "slurm", "@cluster.txt", "--cpus", "2", *TRAINING, "experiment_id=run_1"
    )
    assert (code, errors) == (0, "")
    kept = folder / "outputs/submitted/run_1"
    assert printed == (
        "submitted job 12\n"
        "  run     outputs/run_1\n"
        f"  script  {kept}/slurm.sh\n"
        f"  log     {kept}/slurm-12.log\n"
        "  state   squeue --jobs=12\n"
        "  cancel  scancel 12\n"
    )
    script = (kept / "slurm.sh").read_text()
    assert "#SBATCH --partition=gpu\n#SBATCH --time=2:00:00\n" in script
    assert "set -e\nexport API_KEY=$(cat key)\necho a b\nset +e\n" in script
    assert stat.S_IMODE((kept / "slurm.sh").stat().st_mode) & 0o100
    (line,) = (kept / "submissions.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["system"], record["ids"], record["folder"]) == ("slurm", ["12"], str(folder))
    assert record["arguments"] == [*TRAINING, "experiment_id=run_1"]
    assert not Path("outputs/run_1").exists()
    assert find_runs(["outputs"]).runs == []
    assert find_runs(["outputs"]).left_out == []

    assert called(capsys, "slurm", *TRAINING, "experiment_id=run_1")[0] == 0
    assert len((kept / "submissions.jsonl").read_text().splitlines()) == 2


def test_a_run_without_a_name_gets_one_at_once(folder: Path) -> None:
    """The device need not exist on the machine that submits."""
    training = (*TRAINING, "device=cuda:7")
    first, second = (prepare(training) for _ in range(2))
    assert first.name.startswith("wave_")
    assert first.name != second.name
    assert first.arguments == (*training, f"experiment_id={first.name}")


@pytest.mark.slow
def test_a_run_that_goes_on_may_be_submitted_again(folder: Path) -> None:
    run = Path("outputs/run_1")
    run.mkdir(parents=True)
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "since": timestamp(), "token": "0"}
    (run / "run.lock").write_text(json.dumps(owner))
    assert prepare([*TRAINING, "experiment_id=run_1"]).folder == run


@pytest.mark.slow
def test_workers_share_a_sweep_by_its_name(folder: Path) -> None:
    sweep = prepare(["-m", *TRAINING, "seed=1,2"])
    assert sweep.is_sweep
    assert sweep.folder == Path("outputs", sweep.name)
    assert sweep.arguments == ("-m", *TRAINING, "seed=1,2", f"sweep={sweep.name}")
    assert prepare(sweep.arguments) == sweep
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_a_search_is_submitted_as_a_sweep(folder: Path) -> None:
    pytest.importorskip("optuna")
    ranges = "optimizer.learning_rate=interval(1e-4,1e-2)"
    training = ("-m", *TRAINING, "search=random", ranges, "sweep=rate")
    job = prepare(training)
    assert (job.is_sweep, job.folder, job.arguments) == (True, Path("outputs/rate"), training)
    wrong = "optimizer.learning_rate=interval(-1.0,1e-2)"
    with pytest.raises(UserError, match=r"optimizer.learning_rate=-1.0 must be"):
        prepare(["-m", *TRAINING, "search=random", wrong])


@pytest.mark.parametrize("system", ["slurm", "ray"])
def test_a_dry_run_prints_the_script_and_leaves_nothing(
    system: str, folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    before = sorted(folder.rglob("*"))
    program(folder, "sbatch", "touch called")
    program(folder, "ray", "touch called")
    arguments = [system, "--dry-run", *TRAINING, "experiment_id=run_1"]
    assert submit.main(arguments) == 0
    script = capsysbinary.readouterr().out
    assert script.startswith(b"#!/bin/bash\n")
    assert b" -m spectral_exp.train +experiment=wave " in script
    assert sorted(folder.rglob("*")) == before


def test_a_job_for_ray_is_submitted_by_its_own_command(folder: Path, capsys: Capsys) -> None:
    address = "--address=http://127.0.0.1:1"
    code, printed, errors = called(
        capsys, "ray", address, "--cpus", "1", *TRAINING, "experiment_id=r"
    )
    assert (code, errors) == (0, "")
    given = Path("given").read_text().splitlines()
    assert given[:4] == ["job", "submit", "--no-wait", address]
    assert given[-3:] == ["--", "bash", f"{folder}/outputs/submitted/r/ray.sh"]
    (name,) = (word.partition("=")[2] for word in given if word.startswith("--submission-id="))
    assert f"  cancel  ray job stop {address} {name}\n" in printed


SECRET = "Xq93kd8ZpwL1"
MISTAKES = [
    (["slurm", *TRAINING, "model.n_embdd=3"], "model.n_embdd is not a setting; did you mean"),
    (["slurm", *TRAINING, "training.max_steps=-1"], "training.max_steps=-1 must be"),
    (["slurm", "--", "-m", *TRAINING, "training.max_steps=-1,-1"], "training.max_steps=-1 must"),
    (["slurm", *TRAINING, "device=gpu"], "device=gpu must be auto, cpu, cuda, cuda:N or mps"),
    (["slurm", *TRAINING, "--time", "10"], "--time is not a flag of a training job; options of"),
    (["slurm", "--", "--help"], "--help is not a flag of a training job"),
    (["slurm", "--time", "x", *TRAINING], "--time='x' must be minutes, hours"),
    (["slurm", *TRAINING, "+x.password=Xq93kd8Zpw1"], "x.password is a secret, which is never"),
    (
        ["slurm", "--setup", "ls", "--setup", f"export API_KEY={SECRET}", *TRAINING],
        "--setup holds a",
    ),
    (["ray", "--prefix", f"env DB_PASSWORD={SECRET}", *TRAINING], "--prefix holds a secret"),
    (["slurm", f"--sbatch=--export=HF_TOKEN={SECRET}", *TRAINING], "--sbatch holds a secret"),
    (["slurm", f"--srun=--export=HF_TOKEN={SECRET}", *TRAINING], "--srun holds a secret"),
    (["slurm", *TRAINING, "experiment_id=.."], "experiment_id=.. must be a plain folder name"),
    (["slurm", "@missing.txt"], "[Errno 2] No such file or directory: 'missing.txt'"),
    (["slurm", "--prefix", "'", *TRAINING], "--prefix=' must be words of a shell"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_reported_before_anything_is_written(
    arguments: list[str], message: str, folder: Path, capsys: Capsys
) -> None:
    try:
        code = submit.main(arguments)
    except SystemExit as error:  # from argparse
        code = int(str(error.code))
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert SECRET not in errors
    assert not (folder / "outputs").exists()


def test_a_refused_job_leaves_nothing_new(folder: Path, capsys: Capsys) -> None:
    program(folder, "sbatch", "echo 'sbatch: error: invalid partition: x' >&2; exit 1")
    code, printed, errors = called(capsys, "slurm", *TRAINING, "experiment_id=run_1")
    assert (code, printed) == (2, "")
    assert errors == "error: Slurm refuses the job: invalid partition: x\n"
    assert not (folder / "outputs").exists()


JOB = TrainingJob(("a=1",), Path("outputs/run_1"), Path("outputs"), is_sweep=True)
OPTIONS = ray.RayOptions("http://127.0.0.1:1", workers=3)


def test_a_refused_job_leaves_the_script_of_an_earlier_one(folder: Path) -> None:
    program(folder, "ray", "echo starting; echo 'ConnectionError: no answer' >&2; exit 1")
    kept = folder / "outputs/submitted/run_1/ray.sh"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier job\n")
    with pytest.raises(UserError, match=r"^Ray refuses the job x: ConnectionError: no answer$"):
        submit_script(JOB, "ray", b"new\n", lambda file: ray.submit(file, OPTIONS, ["x"]))
    assert kept.read_text() == "of an earlier job\n"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_workers_that_ray_has_accepted_keep_their_script(folder: Path) -> None:
    program(folder, "ray", "[ ! -e full ] || { echo full >&2; exit 1; }; touch full")
    with pytest.raises(UserError, match="the job y after it has accepted x: full"):
        submit_script(JOB, "ray", b"new\n", lambda file: ray.submit(file, OPTIONS, ["x", "y"]))
    kept = folder / "outputs/submitted/run_1"
    assert json.loads((kept / "submissions.jsonl").read_text())["ids"] == ["x"]
    assert (kept / "ray.sh").read_text() == "new\n"


def test_a_script_that_cannot_be_written_is_not_submitted(folder: Path) -> None:
    (folder / "outputs").write_text("a file\n")
    with pytest.raises(UserError, match=r"^cannot write .*/outputs/submitted/run_1/slurm.sh: "):
        submit_script(JOB, "slurm", b"new\n", lambda _: pytest.fail("it was submitted"))


def test_without_the_batch_system_its_command_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="the Ray cluster is not named; give --address="):
        list(ray.submit(Path("ray.sh"), ray.RayOptions(), ["x"]))
    monkeypatch.setenv("PATH", str(folder / "empty"))
    with pytest.raises(UserError, match=r"^sbatch is not installed here; submit from a login node"):
        slurm.submit(Path("slurm.sh"))


def test_a_name_that_slurm_cannot_log_to_is_refused(folder: Path) -> None:
    for name in ("back\\slash", "both'\"", "new\nline"):
        job = TrainingJob((), Path("outputs/run"), Path(name), is_sweep=False)
        with pytest.raises(UserError, match="cannot be written for Slurm"):
            slurm.slurm_script(job, slurm.SlurmOptions(), Environment())
