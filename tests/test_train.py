"""The training command as a user types it: real processes, real files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.core.errors import JobError, UserError
from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from spectral_exp.training.step import Stepper
from tests.conftest import NO_PLOTS, TINY, python, train
from tests.s3_server import eventually

# Entries of a metrics line that measure the machine, not the training.
TIMED = {
    "timestamp",
    "tokens_per_s",
    "steps_at_risk",
    "checkpoint_blocked_ms",
    "checkpoint_durable_s",
    "checkpoint_size_mb",
    "backup_steps_behind",
}

SPECIFIED_CHECKPOINT_KEYS = {
    "step",
    "model_state_dict",
    "optimizer_state_dict",
    "loss_history",
    "config",
    "timestamp",
    "git_hash",
}


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The training command in this process, which saves the start of another; returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])

    def run(*overrides: str) -> str:
        code = main(list(overrides))
        printed = capsys.readouterr()
        assert code == 0, printed.out + printed.err
        return printed.out

    return run


def the_run(outputs: Path) -> Path:
    (run,) = [path for path in outputs.iterdir() if path.is_dir()]
    return run


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run with all components enabled, and its output."""
    cwd = tmp_path_factory.mktemp("finished")
    done = train("+experiment=wave_rgd_qfe", *TINY, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return the_run(cwd / "outputs"), done.stdout


def test_every_specified_file_is_there(finished: tuple[Path, str]) -> None:
    run, _ = finished
    assert run.name.startswith("wave_rgd_qfe_")
    for name in (
        "config.json",
        "results.json",
        "logs/metrics.jsonl",
        "logs/training.log",
        "logs/spectra.jsonl",
        "checkpoints",
        "train.log",
    ):
        assert (run / name).exists(), name
    assert (run / "checkpoints/checkpoint_latest.pt").resolve() == (
        run / "checkpoints/checkpoint_step_12.pt"
    ).resolve()
    plots = [path.name for path in (run / "visualizations").glob("*.png")]
    for kind in ("training_dynamics", "frequenc", "phase", "harmonic", "packet", "interference"):
        assert any(kind in name for name in plots), (kind, plots)


def test_metrics_lines_hold_every_due_step_once(finished: tuple[Path, str]) -> None:
    lines = [
        json.loads(line) for line in (finished[0] / "logs/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for line in lines:
        assert {"timestamp", "loss", "learning_rate", "grad_norm", "tokens_per_s"} <= set(line)
        assert {"wave_ratio", "resonance", "coherence"} <= set(line)
        assert ("val_bpb" in line) == (line["step"] in (6, 12))


def test_results_and_config(finished: tuple[Path, str]) -> None:
    run, _ = finished
    results, config = read(run / "results.json"), read(run / "config.json")
    assert results["status"] == "completed"
    assert results["final_metrics"]["step"] == results["totals"]["steps"] == 12
    assert results["totals"]["tokens"] == 12 * 4 * 16
    assert results["best_metrics"]["val_loss"] <= results["final_metrics"]["val_loss"]
    assert (
        results["reference"]["entropy_bits_per_byte"]
        < results["reference"]["unigram_bits_per_byte"]
    )
    assert set(results["monitoring_cost"]["blocked_s"]) == {
        "checkpoint",
        "metrics",
        "visualization",
        "spectra",
    }
    cost = results["monitoring_cost"]
    assert [(plots["kind"], plots["step"], plots["files"]) for plots in cost["plots"]] == [
        ("training", 12, 1),
        ("model", 12, 5),
    ]
    assert (cost["plots_failed"], cost["plots_skipped"]) == (0, 0)
    assert cost["last_plots_s"] > 0
    assert results["generation_samples"][0]["text"]
    assert (run / results["best_checkpoint"]).is_file()
    assert config["config"]["name"] == "wave_rgd_qfe"
    assert "+experiment=wave_rgd_qfe" in config["overrides"]
    changed = config["changed_settings"]
    assert changed["name"] == {"default": "custom"}
    assert changed["model.mlp.activation"] == {"default": "gelu"}
    assert changed["model.embedding.n_wave"] == {}  # the classic embedding has none
    assert "experiment_id" not in changed
    assert "optimizer.eps" not in changed
    assert config["dataset"]["train_sha256"]
    assert config["model"]["num_parameters"] > 0
    assert config["experiment_id"] == run.name


def test_a_checkpoint_holds_the_specified_keys_and_loads_safely(finished: tuple[Path, str]) -> None:
    state = torch.load(finished[0] / "checkpoints/checkpoint_latest.pt", weights_only=True)
    assert set(state) >= SPECIFIED_CHECKPOINT_KEYS
    assert len(state["loss_history"]) == state["step"] == 12


def test_the_summary_lists_files_results_and_the_next_command(finished: tuple[Path, str]) -> None:
    run, printed = finished
    for words in (
        "results.json",
        "unigram",
        "val_bpb",
        "% of training time",
        f"resume=outputs/{run.name}",
    ):
        assert words in printed, words
    assert "step 6/12" in printed


def test_generate_writes_text_and_same_seed_same_text(finished: tuple[Path, str]) -> None:
    from spectral_exp.commands.generate import generate_text

    run, _ = finished
    texts = [generate_text(run, "ab", 40, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    done = python(
        "-m",
        "spectral_exp",
        "generate",
        str(run),
        "--prompt",
        "ab",
        "--tokens",
        "40",
        "--seed",
        "1",
        cwd=run,
    )
    assert done.stdout == printable_lines("ab" + texts[0]) + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "0"], "--tokens=0 must be from 1 to 10000000"),
        (["--checkpoint", "77"], "has no checkpoint 77; saved steps: "),
        (["--checkpoint", "newest"], "best, latest or a step"),
        (["--prompt", ""], "at least one token"),
        (["--temperature", "-1"], "temperature=-1.0 must be"),
        (["--device", "tpu"], "device=tpu must be auto or one of"),
    ],
)
def test_generate_reports_mistakes_in_one_line(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    from spectral_exp.commands.generate import main

    assert main([str(finished[0]), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_rerunning_and_resuming_a_finished_run_changes_nothing(
    finished: tuple[Path, str], here: Callable[..., str]
) -> None:
    run, _ = finished
    before = (run / "logs/metrics.jsonl").read_bytes()
    here(f"resume={run}")
    assert (run / "logs/metrics.jsonl").read_bytes() == before
    assert read(run / "results.json")["status"] == "completed"
    assert read(run / "results.json")["final_metrics"]["val_loss"] > 0


def test_another_configuration_is_refused_with_the_difference(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file())
    for place in (f"resume={run}", f"hydra.run.dir={run}"):
        extra = [] if "resume" in place else ["+experiment=wave_rgd_qfe", *TINY]
        assert main([place, *extra, "optimizer.learning_rate=0.5"]) == 2
        assert "optimizer.learning_rate: 0.001 -> 0.5" in capsys.readouterr().err
    assert (
        sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file())
        == before
    )


def test_a_longer_run_continues_in_place(here: Callable[..., str], tmp_path: Path) -> None:
    here("+experiment=classic", *TINY, NO_PLOTS, "hydra.run.dir=here")
    assert "resuming after step 12" in here("resume=here", "training.max_steps=16")
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "here/logs/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [
        attempt["from_step"] for attempt in read(tmp_path / "here/config.json")["attempts"]
    ] == [0, 12]
    assert not (tmp_path / "outputs").exists()


MISTAKES = [
    (["training.max_steps=-5"], "training.max_steps=-5 must be >= 1"),
    (["training.max_steps=many"], "training.max_steps=many must be an integer"),
    (
        ["+training.max_stepz=5"],
        "training.max_stepz is not a setting of spectral_exp.training.TrainingSettings; did you",
    ),
    (["training.max_stepz=5"], "did you mean training.max_steps=5?"),
    (["threads=1000000"], "threads=1000000 must be from 1 to"),
    (["--seed", "1"], "did you mean seed=1?"),
    (["+foo=1"], "foo is not a setting"),
    (["model.n_embd=15"], "model.n_embd=15 must be a multiple of"),
    (["device=cuda:7"], "device=cuda:7 must be auto or one of the devices of this machine"),
    (["data=text_file", "data.path=missing.txt"], "missing.txt"),
    (["data=text_file"], "data.path must be set"),
    (["data=text_file", "data.path=empty.txt"], "empty"),
    (["data=text_file", "data.path=latin1.txt"], "UTF-8"),
    (["data=text_file", "data.path=short.txt"], "block_size"),
    (["outputs=empty.txt/below"], "empty.txt/below cannot be written"),
    (["resume=nowhere"], "resume=nowhere is not a directory"),
    (["optimizer._target_=os.system"], "must lie in spectral_exp, torch or a package"),
    (
        ["monitoring.checkpoint.save_interval=0"],
        "monitoring.checkpoint.save_interval=0 must be a whole number >= 1",
    ),
    (["tokenizer=char", "training.sample_prompt=~"], "~"),
    (["seed=99999999999999999999999"], "must be >= 0 and < 2^63"),
    (["outputs="], "outputs= has no value"),
    (["training=null"], "choose an option by its name"),
    (["model.attention=null"], "model.attention=null must be a group"),
    (["match=foo"], "match=foo does not exist; choose from classic, none"),
    (["seed=-1"], "seed=-1 must be >= 0"),
    (["+model.attention.n_embd=3"], "model.attention.n_embd=3 must be left to the model"),
    (["+experiment=wav"], "choose from classic"),
]


def test_mistakes_end_with_one_line_exit_code_2_and_nothing_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin1.txt").write_bytes("été".encode("latin-1") * 100)
    (tmp_path / "short.txt").write_text("short")
    files = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    data = [override for override in TINY if not override.startswith("data")]
    for overrides, words in MISTAKES:
        own_data = any(o.startswith("data") for o in overrides)
        assert main([*(data if own_data else TINY), *overrides]) == 2, overrides
        error = capsys.readouterr().err
        assert words in error, (overrides, error)
        assert len(error.splitlines()) == 1, (overrides, error)
        assert sorted(tmp_path.iterdir()) == files, overrides


def test_several_mistakes_are_reported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["training.max_steps=0", "optimizer.learning_rate=-1", "model.n_layer=0"]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 3
    assert "Traceback" not in printed.out + printed.err
    assert not list(tmp_path.iterdir())


def test_help_and_questions_answer_without_torch(tmp_path: Path) -> None:
    check = (
        "import atexit, sys\n"
        "from spectral_exp.train import main\n"
        "atexit.register(lambda: print('torch imported:', 'torch' in sys.modules))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for arguments in (
        ["--help"],
        ["--cfg", "job", "+experiment=wave"],
        ["--info", "defaults-tree"],
    ):
        done = python("-c", check, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "torch imported: False"
    done = python("-m", "spectral_exp.train", "--help", cwd=tmp_path)
    for words in (
        "wave_rgd",
        "pure_wave_linear",
        "training.max_steps=400",
        "text_file",
        "monitoring/checkpoint",
    ):
        assert words in done.stdout, words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("others", [["study=length"], ["-m", "seed=1,2"], ["seed=1,2"]])
def test_help_is_given_beside_a_sweep(
    others: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    help_alone = capsys.readouterr().out
    assert main([*others, "--help"]) == 0
    assert capsys.readouterr().out == help_alone
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_compiles_nothing_does_not_load_the_compiler(tmp_path: Path) -> None:
    """Importing it takes about as long as all else that happens before the first step."""
    check = (
        "import sys\n"
        "from spectral_exp.train import main\n"
        "code = main(sys.argv[1:])\n"
        "print('compiler loaded:', 'torch._dynamo' in sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = python("-c", check, "+experiment=wave_rgd", "match=wave", *TINY, NO_PLOTS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "compiler loaded: False"


@pytest.mark.slow
def test_a_failing_job_of_a_sweep_keeps_its_traceback_and_the_sweep_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three jobs fails inside its loop, as a defect would, and is tried three times;
    the third needs a change by the user, and is tried once; the first finishes."""
    take_step = Stepper.take_step

    def broken(stepper: Stepper, number: int) -> Any:
        if stepper.seed == 2 and number == 3:
            raise ZeroDivisionError("as planned")
        if stepper.seed == 3:
            raise UserError("please change something")
        return take_step(stepper, number)

    monkeypatch.setattr(Stepper, "take_step", broken)
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "+experiment=classic", "seed=1,2,3", *TINY, NO_PLOTS]) == 1
    errors = capsys.readouterr().err
    assert "ZeroDivisionError: as planned" in errors
    assert "(tried 3 times)" in errors
    assert ": please change something\n" in errors
    assert "Traceback" not in errors
    jobs = sorted(the_run(tmp_path / "outputs").glob("*_seed*"))
    assert [read(job / "results.json")["status"] for job in jobs] == [
        "completed",
        "failed",
        "failed",
    ]
    assert [len(read(job / "config.json")["attempts"]) for job in jobs] == [1, 3, 1]
    assert ["Traceback" in (job / "train.log").read_text() for job in jobs] == [False, True, False]
    assert "as planned" in (jobs[1] / "train.log").read_text()


@pytest.mark.slow
def test_jobs_of_a_sweep_equal_single_runs_bit_for_bit(
    here: Callable[..., str], tmp_path: Path
) -> None:
    """Nothing that one job draws, sets or draws with leaks into the next; joblib's workers compute
    the same."""
    job = [*TINY, NO_PLOTS, "training.max_steps=4", "training.eval_interval=4"]
    here("-m", "+experiment=glob(wave*)", *job, "outputs=basic")
    here("-m", "+experiment=glob(wave*)", *job, "outputs=joblib", "hydra/launcher=joblib")
    here("+experiment=wave_rgd", *job, "hydra.run.dir=single")
    jobs = {
        read(path / "config.json")["config"]["name"]: path
        for path in the_run(tmp_path / "basic").glob("*_seed*")
    }
    assert set(jobs) == {"wave", "wave_rgd", "wave_qfe", "wave_rgd_qfe"}
    # The same jobs have the same names everywhere.
    for run in jobs.values():
        assert_same_state(run, the_run(tmp_path / "joblib") / run.name, 4)
    assert_same_state(jobs["wave_rgd"], tmp_path / "single", 4)


def assert_same_state(one: Path, other: Path, step: int) -> None:
    """Weights, optimizer state and losses of two runs are equal, bit for bit."""
    states = [
        torch.load(run / f"checkpoints/checkpoint_step_{step}.pt", weights_only=True)
        for run in (one, other)
    ]
    for key in ("model_state_dict", "optimizer_state_dict", "loss_history", "loss_state_dict"):
        assert flatten(states[0][key]) == flatten(states[1][key]), key
    untimed = [
        [
            {k: v for k, v in json.loads(line).items() if k not in TIMED}
            for line in (run / "logs/metrics.jsonl").read_text().splitlines()
        ]
        for run in (one, other)
    ]
    assert untimed[0] == untimed[1]


def flatten(node: Any) -> Any:
    """`node` with every tensor replaced by its bytes, so that == compares bits."""
    if isinstance(node, torch.Tensor):
        return (tuple(node.shape), node.dtype, node.contiguous().numpy().tobytes())
    if isinstance(node, dict):
        return {key: flatten(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [flatten(value) for value in node]
    return node


EXPERIMENTS = sorted(
    p.stem for p in (Path(__file__).parent.parent / "conf/experiment").glob("*.yaml")
)
KILLED_AT = 10

KILL_SCRIPT = f"""
import os, signal, sys
from spectral_exp import train; from spectral_exp.training import step as steps
step = steps.Stepper.take_step
def deadly(self, number):
    if number == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
steps.Stepper.take_step = deadly
sys.exit(train.main(sys.argv[1:]))
"""


# The one with the most parts; the others are slow, and CI runs every third of them.
SAMPLE = ("phasor_rgd_qfe",)


@pytest.mark.parametrize(
    "experiment",
    [
        *SAMPLE,
        *(
            pytest.param(
                name, marks=[pytest.mark.slow, *([pytest.mark.exhaustive] if i % 3 else [])]
            )
            for i, name in enumerate(e for e in EXPERIMENTS if e not in SAMPLE)
        ),
    ],
)
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    experiment: str, here: Callable[..., str], tmp_path: Path
) -> None:
    """SIGKILL between steps 9 and 10: the checkpoint is of step 8, the metrics of step 9 are on
    disk already."""
    settings = [
        f"+experiment={experiment}",
        *TINY,
        "model.dropout=0.1",
        "monitoring.metrics.log_interval=3",
    ]
    killed = python("-c", KILL_SCRIPT, *settings, NO_PLOTS, "hydra.run.dir=killed", cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed/results.json").exists()
    assert "resuming after step " in here(
        *settings, NO_PLOTS, "hydra.run.dir=killed"
    )  # which one depends on how fast the disk was
    # Plots in between change nothing of what is trained.
    plots = ["monitoring.visualization.viz_interval=5", "monitoring.visualization.dpi=40"]
    here(*settings, *(plots if experiment == "wave" else [NO_PLOTS]), "hydra.run.dir=whole")
    assert_same_state(tmp_path / "killed", tmp_path / "whole", 12)
    assert read(tmp_path / "killed/results.json")["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("storage", [pytest.param("file", marks=pytest.mark.exhaustive), "s3"])
def test_a_backup_continues_on_an_empty_machine_bit_for_bit(
    storage: str, request: pytest.FixtureRequest, here: Callable[..., str], tmp_path: Path
) -> None:
    url = f"file://{tmp_path / 'remote'}"
    if storage == "s3":
        url = "s3://bucket/runs"
        request.getfixturevalue("s3_server").make_bucket()
    settings = ["+experiment=wave_rgd", *TINY, NO_PLOTS, "training.max_steps=800"]
    settings += ["training.eval_interval=400", "monitoring.checkpoint.save_interval=50"]
    lost = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *settings, f"backup_url={url}", "outputs=lost"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    metrics = RunPaths("").metrics_file

    def is_stored() -> bool:
        """Whether the run has noticed that a backup is complete."""
        files = (tmp_path / "lost").glob(f"*/{metrics}")
        lines = [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]
        return any(line["backup_steps_behind"] < line["step"] for line in lines)

    eventually(lambda: is_stored() or lost.poll() is not None)
    lost.kill()
    assert lost.wait() == -signal.SIGKILL
    name = the_run(tmp_path / "lost").name
    shutil.rmtree(tmp_path / "lost")

    done = train(f"resume={url}/{name}", "outputs=found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fetching the backup {url}/{name} into found" in done.stderr
    assert "resuming after step " in done.stdout
    here(*settings, "hydra.run.dir=whole")
    assert_same_state(tmp_path / "found" / name, tmp_path / "whole", 800)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    number: signal.Signals, code: int, here: Callable[..., str], tmp_path: Path
) -> None:
    settings = ["+experiment=wave", *TINY, "training.max_steps=100000", "hydra.run.dir=run"]
    plots = number == signal.SIGTERM
    settings += (
        ["monitoring.visualization.viz_interval=100000", "monitoring.visualization.dpi=40"]
        if plots
        else [NO_PLOTS]
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *settings],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run/logs/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    results = read(tmp_path / "run/results.json")
    assert results["status"] == "interrupted"
    stopped = results["totals"]["steps"]
    assert (tmp_path / f"run/checkpoints/checkpoint_step_{stopped}.pt").is_file()
    assert len(list((tmp_path / "run").glob(f"visualizations/*_step_{stopped:07d}_*.png"))) == (
        6 if plots else 0
    )
    assert "resume=run" in printed
    again = here("resume=run", NO_PLOTS, f"training.max_steps={stopped + 3}")
    assert f"resuming after step {stopped}" in again


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_refused_with_the_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        "+experiment=classic",
        *TINY,
        NO_PLOTS,
        "training.max_steps=100000",
        "hydra.run.dir=run",
    ]
    owner = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *settings],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/logs/metrics.jsonl").is_file() and time.monotonic() < deadline:
            os.sched_yield()
        monkeypatch.chdir(tmp_path)
        assert main(settings) == 2
        assert str(owner.pid) in capsys.readouterr().err
    finally:
        owner.kill()
        owner.wait()


def test_job_failures_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(JobError("why", "busy")))
    assert (str(error), error.ending, error.exit_code) == ("why", "busy", 2)


@pytest.mark.slow
def test_results_of_a_shorter_run_do_not_pass_for_those_of_the_longer(
    here: Callable[..., str], tmp_path: Path
) -> None:
    """Killed after the last checkpoint of a continuation: the old results are still there, and are
    replaced."""
    settings = ["+experiment=classic", *TINY, NO_PLOTS, "hydra.run.dir=run"]
    here(*settings)
    shorter = (tmp_path / "run/results.json").read_bytes()
    here("resume=run", "training.max_steps=16")
    (tmp_path / "run/results.json").write_bytes(shorter)
    here("resume=run", "training.max_steps=16")
    assert read(tmp_path / "run/results.json")["totals"]["steps"] == 16
