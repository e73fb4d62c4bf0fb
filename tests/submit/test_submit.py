"""`spectral-exp submit` as a user calls it, without a batch system."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from spectral_exp.commands import submit
from spectral_exp.runs.find import find_runs
from spectral_exp.submit.training_job import prepare
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
    Path("cluster.txt").write_text("--partition gpu --time 2:00:00  # ours\n--setup 'echo a b'\n")
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
    assert "set -e\necho a b\nset +e\n" in script
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
    first, second = (prepare(TRAINING) for _ in range(2))
    assert first.name.startswith("wave_")
    assert first.name != second.name
    assert first.arguments == (*TRAINING, f"experiment_id={first.name}")


def test_workers_share_a_sweep_by_its_name(folder: Path) -> None:
    sweep = prepare(["-m", *TRAINING, "seed=1,2"])
    assert sweep.is_sweep
    assert sweep.folder == Path("outputs", sweep.name)
    assert sweep.arguments == ("-m", *TRAINING, "seed=1,2", f"sweep={sweep.name}")
    named = prepare([*TRAINING, "seed=1,2", "sweep=mine"])
    assert (named.name, named.is_sweep) == ("mine", True)
    assert prepare(named.arguments) == named
    assert not (folder / "outputs").exists()


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


MISTAKES = [
    (["slurm", *TRAINING, "model.n_embdd=3"], "model.n_embdd is not a setting; did you mean"),
    (["slurm", *TRAINING, "training.max_steps=-1"], "training.max_steps=-1 must be"),
    (["slurm", "--", "-m", *TRAINING, "training.max_steps=5,-1,-1"], "training.max_steps=-1 must"),
    (["slurm", *TRAINING, "device=gpu"], "device=gpu must be auto, cpu, cuda, cuda:N or mps"),
    (["slurm", *TRAINING, "--time", "10"], "--time is no flag of a training job; options of"),
    (["slurm", "--", "--help"], "--help is no flag of a training job"),
    (["slurm", "--time", "x", *TRAINING], "--time='x' must be minutes, hours"),
    (["slurm", *TRAINING, "+x.password=Xq93kd8Zpw1"], "x.password is a secret, which is never"),
    (["slurm", *TRAINING, "experiment_id=.."], "experiment_id=.. must be a plain folder name"),
    (["slurm", "@missing.txt"], "[Errno 2] No such file or directory: 'missing.txt'"),
    (["ray", *TRAINING], "the Ray cluster is not named; give --address="),
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
    assert not (folder / "outputs").exists()


def test_a_device_that_only_the_cluster_has_may_be_requested(folder: Path) -> None:
    assert "device=cuda:7" in prepare([*TRAINING, "device=cuda:7"]).arguments


@pytest.mark.parametrize("system", ["slurm", "ray"])
def test_a_refused_job_leaves_nothing_new(system: str, folder: Path, capsys: Capsys) -> None:
    refusal = "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1"
    program(folder, "sbatch", refusal)
    program(folder, "ray", "echo starting; echo 'ConnectionError: no answer' >&2; exit 1")
    where = ["--address=http://127.0.0.1:1"] if system == "ray" else []
    arguments = [system, *where, *TRAINING, "experiment_id=run_1"]
    code, printed, errors = called(capsys, *arguments)
    assert (code, printed) == (2, "")
    expected = "Slurm refuses the job: invalid partition" if system == "slurm" else "Ray refuses"
    assert errors.startswith(f"error: {expected}")
    assert errors.count("\n") == 1
    assert not (folder / "outputs").exists()

    kept = folder / f"outputs/submitted/run_1/{system}.sh"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier job\n")
    assert called(capsys, *arguments)[0] == 2
    assert kept.read_text() == "of an earlier job\n"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_workers_that_ray_has_accepted_keep_their_script(folder: Path, capsys: Capsys) -> None:
    program(folder, "ray", "[ ! -e full ] || { echo full >&2; exit 1; }; touch full")
    where = ["--address=http://127.0.0.1:1", "--workers=3"]
    code, _, errors = called(capsys, "ray", *where, "--", "-m", *TRAINING, "seed=1,2", "sweep=s")
    kept = folder / "outputs/submitted/s"
    (accepted,) = json.loads((kept / "submissions.jsonl").read_text())["ids"]
    assert code == 2
    assert errors.endswith(f" after it has accepted {accepted}: full\n")
    assert (kept / "ray.sh").is_file()


def test_without_the_batch_system_its_command_is_named(
    folder: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectral_exp.submit.slurm.shutil.which", lambda *_, **__: None)
    code, _, errors = called(capsys, "slurm", *TRAINING)
    assert code == 2
    assert errors.startswith("error: sbatch is not installed here; submit from a login node")
    assert not (folder / "outputs").exists()


def test_a_name_that_slurm_cannot_log_to_is_refused(folder: Path, capsys: Capsys) -> None:
    code, _, errors = called(capsys, "slurm", *TRAINING, "outputs=back\\slash")
    assert code == 2
    assert "cannot be written for Slurm" in errors
    assert not list(folder.glob("back*"))
