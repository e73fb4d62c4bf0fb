from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.commands.reproduce import main
from spectral_exp.train import main as train_here
from spectral_exp.verification.reproduction import Extent, compare_runs
from tests.conftest import NO_PLOTS, ROOT, TINY, python, train
from tests.verification.records import assert_refused, read_config, read_files, rewrite

OPTIONS = ("+experiment=wave", *TINY, NO_PLOTS, "schedule.warmup_steps=2")
WHOLE = Extent(last=12, to_the_end=True, status="completed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    assert train_here([*OPTIONS, "seed=5", f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def rewrite_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "logs/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]


def test_a_run_is_reproduced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_files(run)
    assert main([str(run), "--current-code"]) == 0
    printed = capsys.readouterr().out
    for what in ("environment", "data", "metrics", "settings", "results"):
        assert f"{what}: equal" in printed
    assert "not compared: measurements of the machine: timestamp, tokens_per_s" in printed
    report = json.loads((run.parent / "run_reproduced/reproduction.json").read_text())
    assert (report["verdict"], report["steps"], report["lines_compared"]) == ("identical", 12, 6)
    assert report["values_compared"] > 6 * 4
    assert read_files(run) == before


@pytest.mark.slow
def test_with_steps_the_lines_up_to_the_next_logged_one_are_compared(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = metrics_of(run)
    lines[2]["loss"] += 1e-9
    rewrite_metrics(run, lines)
    # Metrics are logged every second step.
    assert (
        main([str(run), "--current-code", "--steps", "5", "--output", str(run.parent / "new")]) == 1
    )
    printed, messages = capsys.readouterr()
    assert messages == ""  # above all none of a signal: the user has sent none
    assert "metrics: 1 difference\n  loss at step 6: " in printed
    assert "not compared: final results: compared up to step 6, and the run is completed" in printed
    report = json.loads((run.parent / "new/reproduction.json").read_text())
    assert (report["verdict"], report["steps"], report["lines_compared"]) == ("different", 6, 3)


def test_every_kind_of_difference_is_named(run: Path, finished: Path) -> None:
    assert compare_runs(run, finished, WHOLE)["verdict"] == "identical"
    config = read_config(run)
    rewrite(
        run / "config.json",
        {
            "packages": {**config["packages"], "torch": "1.0"},
            "hardware": {**config["hardware"], "torch_threads": 77},
            "git": {**config["git"], "hash": "1" * 40},
        },
    )
    report = compare_runs(run, finished, WHOLE)
    environment = report["differences"]["environment"]
    assert [line.partition(" -> ")[0] for line in environment] == [
        "torch_threads: 77",
        "torch: 1.0",
    ]
    assert report["differences"]["code"][0].startswith(f"commit: {'1' * 40} -> ")
    # These are reasons for other numbers, and no other numbers themselves.
    assert report["verdict"] == "identical"
    rewrite(run / "config.json", {"dataset": {**config["dataset"], "train_sha256": "0"}})
    report = compare_runs(run, finished, WHOLE)
    assert report["differences"]["data"][0].startswith("train_sha256: 0 -> ")
    assert report["verdict"] == "different"


def test_other_metrics_are_named(run: Path, finished: Path) -> None:
    lines = metrics_of(run)
    lines[1]["tokens_per_s"] = 1.0
    lines[2]["grad_norm"] = "NaN"
    lines[3]["loss"] += 1e-9
    lines[4]["loss"] += 1.0
    del lines[4]["learning_rate"]
    rewrite_metrics(run, lines[:5])
    report = compare_runs(run, finished, WHOLE)
    found = report["differences"]["metrics"]
    assert [line.partition(": ")[0] for line in found] == [
        "grad_norm at step 6",
        "learning_rate at step 10",
        "lines",
        "loss at step 8",
    ]
    assert "step 12 was not logged by the run" in found[2]
    assert found[3].endswith("by -1e-09")
    assert report["verdict"] == "different"


def test_other_results_are_named(run: Path, finished: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    results["final_metrics"]["val_loss"] += 1e-9
    results["totals"]["time_s"] += 1.0
    (run / "results.json").write_text(json.dumps(results))
    report = compare_runs(run, finished, WHOLE)
    (line,) = report["differences"]["results"]
    assert line.startswith("final_metrics.val_loss: ")
    assert report["verdict"] == "different"


def test_a_changed_setting_is_named(run: Path, finished: Path) -> None:
    config = read_config(run)["config"]
    config["seed"] = 6
    config["monitoring"]["checkpoint"]["keep_last_n"] = 99
    rewrite(run / "config.json", {"config": config})
    assert compare_runs(run, finished, WHOLE)["differences"]["settings"] == ["seed: 6 -> 5"]


def test_a_run_of_several_settings_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = read_config(run)["attempts"][0]
    later = {**first, "from_step": 8, "overrides": [*first["overrides"], "threads=2"]}
    rewrite(run / "config.json", {"attempts": [first, later]})
    assert main([str(run), "--current-code"]) == 2
    error = capsys.readouterr().err
    assert "continued after step 8 with other settings (threads=1 -> threads=2)" in error
    assert "--steps 8 repeats the steps before" in error
    assert not (run.parent / "run_reproduced").exists()


@pytest.mark.slow
def test_a_lengthened_run_is_repeated_up_to_there(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = train("resume=run", "training.max_steps=16", cwd=run.parent)
    assert longer.returncode == 0, longer.stderr
    assert main([str(run), "--current-code"]) == 2
    error = capsys.readouterr().err
    assert (
        "continued after step 12 with other settings (training.max_steps=12 ->"
        " training.max_steps=16)" in error
    )
    assert "--steps 12" in error
    assert not (run.parent / "run_reproduced").exists()
    assert main([str(run), "--current-code", "--steps", "12"]) == 0
    report = json.loads((run.parent / "run_reproduced/reproduction.json").read_text())
    assert report["lines_compared"] == 6
    assert "results" not in report["differences"]


@pytest.mark.slow
def test_an_interrupted_run_that_went_on_is_repeated_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*OPTIONS, "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    # As a run killed after step 8 leaves it: no results, and nothing of the steps since.
    for name in (
        "results.json",
        *(f"checkpoints/checkpoint_step_12.pt{end}" for end in ("", ".json")),
    ):
        (tmp_path / "run" / name).unlink()
    for link in ("latest", "best"):
        (tmp_path / f"run/checkpoints/checkpoint_{link}.pt").unlink()
    assert train("resume=run", cwd=tmp_path).returncode == 0
    assert len(read_config(tmp_path / "run")["attempts"]) == 2
    assert main([str(tmp_path / "run"), "--current-code"]) == 0
    assert "results: equal" in capsys.readouterr().out


@pytest.mark.slow
def test_the_code_that_made_a_run_is_used_wherever_the_checkout_is_now(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for folder in ("spectral_exp", "conf"):
        shutil.copytree(
            ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (checkout / ".gitignore").write_text("__pycache__\n")
    identity = {
        f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=checkout,
            env=os.environ | identity,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def change(before: str, after: str) -> None:
        file = checkout / "spectral_exp/training/step.py"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    change("= peak * factor", "= peak * factor * 0.5")
    made = train("+experiment=wave", *TINY, NO_PLOTS, "hydra.run.dir=../run", cwd=checkout)
    assert made.returncode == 0, made.stderr
    change("= peak * factor * 0.5", "= peak * factor * 2.0")
    git("commit", "-qam", "two")

    # From within the checkout, where the package of the current folder would be the nearest.
    refused = python("-m", "spectral_exp", "reproduce", "../run", cwd=checkout)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "changes to" in refused.stderr
    assert "add --trust-code" in refused.stderr
    assert not (tmp_path / "run_reproduced").exists()
    same = python("-m", "spectral_exp", "reproduce", "../run", "--trust-code", cwd=checkout)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "code: equal" in same.stdout
    assert len(git("worktree", "list").splitlines()) == 1
    other = python(
        "-m",
        "spectral_exp",
        "reproduce",
        "../run",
        "--current-code",
        "--output",
        "../other",
        cwd=checkout,
    )
    assert other.returncode == 1, other.stdout + other.stderr
    assert "learning_rate at step 2: " in other.stdout


def test_missing_code_is_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(run)
    attempts = [attempt | {"git_hash": "0" * 8} for attempt in config["attempts"]]
    rewrite(run / "config.json", {"git": {**config["git"], "hash": "0" * 40}, "attempts": attempts})
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert "0000000000 of the run's code is not in" in error
    assert "--current-code" in error
    assert not (run.parent / "run_reproduced").exists()


def test_code_of_several_versions_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(run)
    attempts = [
        {**config["attempts"][0], "git_hash": "1" * 8},
        {**config["attempts"][0], "from_step": 8},
    ]
    rewrite(run / "config.json", {"attempts": attempts})
    assert main([str(run)]) == 2
    assert "the run was made by several versions of the code (11111111, " in capsys.readouterr().err


def test_a_damaged_record_is_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"seed": 5', '"seed": 7'))
    assert main([str(run)]) == 2
    assert "was changed or damaged" in capsys.readouterr().err


def test_a_secret_cannot_be_repeated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(run)
    first = config["attempts"][0]
    rewrite(
        run / "config.json",
        {"attempts": [{**first, "overrides": [*first["overrides"], "+api_key=<redacted>"]}]},
    )
    assert main([str(run), "--current-code"]) == 2
    assert "error: api_key is a secret, which is never written to a file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_training_is_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_config(run)
    first = config["attempts"][0]
    rewrite(
        run / "config.json",
        {"attempts": [{**first, "overrides": [*first["overrides"], "model.n_head=3"]}]},
    )
    assert main([str(run), "--current-code"]) == 2
    assert (
        "error: the repeated training failed with exit code 2; its messages are above"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["run", "--steps", "0"], "--steps=0 must be >= 1"),
        (["run", "--output", "."], ". exists; remove it"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    finished: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished.parent)
    assert_refused(main, options, message, capsys)
