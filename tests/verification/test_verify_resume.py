from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.commands.verify_resume import main
from spectral_exp.monitoring.checkpoint.file import write_checkpoint
from spectral_exp.train import main as train_here
from spectral_exp.training.runner import Runner
from spectral_exp.verification import replay as verify_resume
from spectral_exp.verification.addition import order_of_addition
from tests.conftest import NO_PLOTS, TINY, python, train
from tests.verification.records import assert_refused, read_config, read_files, rewrite

RUN_OPTIONS = (
    *TINY,
    NO_PLOTS,
    "monitoring/checkpoint=sync",
    "monitoring.checkpoint.keep_last_n=9",
    "model.dropout=0.1",
    "training.grad_accum_steps=2",
    "loss=qfe",
    "schedule.warmup_steps=2",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 4, 6, 8 and 12."""
    folder = tmp_path_factory.mktemp("verify")
    options = ["+experiment=wave_rgd", *RUN_OPTIONS, f"hydra.run.dir={folder / 'run'}"]
    assert train_here(options) == 0
    return folder / "run"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same replays without the seconds that it takes to start three processes."""

    def called(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(verify_resume, "_run_in_process", called)


def change_checkpoint(run: Path, step: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a checkpoint and save it again with a right checksum."""
    path = run / f"checkpoints/checkpoint_step_{step}.pt"
    state = torch.load(path, weights_only=True)
    change(state)
    path.unlink()
    write_checkpoint(path, state)


def turn_last_bit(tensor: torch.Tensor) -> None:
    tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))


def turn_weight(state: dict[str, Any]) -> None:
    turn_last_bit(next(iter(state["model_state_dict"].values())))


def turn_optimizer(state: dict[str, Any]) -> None:
    turn_last_bit(state["optimizer_state_dict"]["state"][0]["exp_avg"])


def turn_rng(state: dict[str, Any]) -> None:
    state["rng_state"]["cpu"][-1] ^= 1


def rewrite_config(run: Path, **sections: dict[str, object]) -> None:
    """Change entries of sections of config.json, and give it a right checksum."""
    record = read_config(run)
    rewrite(
        run / "config.json",
        {section: record[section] | entries for section, entries in sections.items()},
    )


def continued(run: Path, from_step: int, *overrides: str) -> None:
    """Record a further attempt."""
    attempts = read_config(run)["attempts"]
    last = attempts[-1]
    new = {**last, "from_step": from_step, "overrides": [*last["overrides"], *overrides]}
    rewrite(run / "config.json", {"attempts": [*attempts, new]})


def diverged(printed: str) -> list[str]:
    return [
        line for line in printed.splitlines() if line.startswith(("DIVERGED first: ", "then: "))
    ]


@pytest.mark.slow
def test_a_sound_run_is_certified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_files(run)
    assert main([str(run), "--steps", "6"]) == 0
    printed = capsys.readouterr().out
    for what in (
        "steps 7 to 12, uninterrupted, with the same interrupted after step 9: "
        "loss, gradients, weights, optimizer, rng",
        "losses of 6 steps with those that the run recorded",
        "grad_norm of 3 steps with the values that the run logged",
        "weights, optimizer, rng after step 8 with the run's checkpoint",
        "weights, optimizer, rng after step 12 with the run's checkpoint",
    ):
        assert f"compared: {what}\n" in printed
    assert "changed" not in printed
    certificate = json.loads((run / "resume_certificate.json").read_text())
    assert (certificate["from_step"], certificate["to_step"], certificate["verdict"]) == (
        6,
        12,
        "identical",
    )
    assert [entry["step"] for entry in certificate["hashes"]] == [7, 8, 9, 10, 11, 12]
    assert len({entry["weights"] for entry in certificate["hashes"]}) == 6
    assert certificate["hashes_interrupted"] == certificate["hashes"]
    assert certificate["checkpoint"]["file"] == "checkpoint_step_6.pt"
    assert certificate["packages"]["torch"] == torch.__version__
    assert read_files(run) == before | {
        run / "resume_certificate.json": (run / "resume_certificate.json").read_bytes()
    }


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("change", "part"),
    [(turn_weight, "weights (model."), (turn_optimizer, "optimizer ("), (turn_rng, "rng (cpu)")],
)
def test_a_single_bit_in_a_later_checkpoint_is_found(
    run: Path,
    change: Callable[[dict[str, Any]], None],
    part: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change_checkpoint(run, 8, change)
    assert main([str(run), "--steps", "4", "--from", "6"]) == 1
    (line,) = diverged(capsys.readouterr().out)
    assert line.startswith(f"DIVERGED first: step 8: {part}")
    assert line.endswith("differ between the run and its replay")
    assert json.loads((run / "resume_certificate.json").read_text())["verdict"] == "diverged"


@pytest.mark.usefixtures("in_this_process")
def test_other_weights_to_begin_with_are_found_in_the_next_loss(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shift(state: dict[str, Any]) -> None:
        for tensor in state["model_state_dict"].values():
            if tensor.is_floating_point():
                tensor += 0.01

    change_checkpoint(run, 6, shift)
    assert main([str(run), "--steps", "2", "--from", "6"]) == 1
    assert diverged(capsys.readouterr().out)[0] == (
        "DIVERGED first: step 7: loss (loss) differ between the run and its replay"
    )


@pytest.mark.usefixtures("in_this_process")
def test_state_that_is_lost_on_resuming_is_found(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restore = Runner.restore

    def forgetful(runner: Runner) -> None:
        restore(runner)
        if runner.state.step == 9:  # where the second replay is interrupted
            for state in runner.optimizer.state.values():
                state["exp_avg"].zero_()

    monkeypatch.setattr(Runner, "restore", forgetful)
    assert main([str(run), "--steps", "6", "--from", "6"]) == 1
    (line,) = diverged(capsys.readouterr().out)
    # The loss and the gradients of step 10 come from weights that were restored.
    assert line.startswith("DIVERGED first: step 10: weights (model.")
    assert line.endswith("differ between the uninterrupted and the interrupted replay")


@pytest.mark.usefixtures("in_this_process")
def test_a_run_is_replayed_from_its_start(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    assert main([str(run), "--steps", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "compared: loss of 6 steps with the values that the run logged" in printed
    assert "not compared: steps 13 to 1000: the run ends at training.max_steps=12" in printed
    certificate = json.loads((run / "resume_certificate.json").read_text())
    assert (certificate["from_step"], certificate["to_step"], certificate["checkpoint"]) == (
        0,
        12,
        None,
    )


@pytest.mark.usefixtures("in_this_process")
def test_a_changed_seed_and_thread_count_are_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_config(run, config={"seed": 99}, hardware={"torch_threads": 77})
    assert main([str(run), "--steps", "3", "--from", "4"]) == 1
    printed = capsys.readouterr().out
    assert "DIVERGED first: step 5: loss (loss)" in printed
    assert "settings changed: seed: " in printed
    assert " -> 99" in printed
    assert "environment changed: torch_threads: 77 -> " in printed


@pytest.mark.usefixtures("in_this_process")
def test_changed_text_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_config(run, dataset={"train_sha256": "0"})
    assert main([str(run), "--steps", "2"]) == 2
    error = capsys.readouterr().err
    assert f"{run} was trained on other text (train_sha256: 0 -> " in error
    assert "verify_resume_" not in error


@pytest.mark.usefixtures("in_this_process")
def test_broken_checkpoints_are_reported_and_not_changed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints/checkpoint_step_8.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = read_files(run)
    assert main([str(run), "--steps", "2", "--from", "8"]) == 2
    error = capsys.readouterr().err
    assert "the checkpoint of step 8 in" in error
    assert "is broken; choose another one with --from: 0, 4, 6, 12" in error
    assert (
        main([str(run), "--steps", "2", "--from", "6", "--output", str(run.parent / "c.json")]) == 0
    )
    assert (
        "not compared: the run's checkpoint of step 8, which is broken" in capsys.readouterr().out
    )
    assert read_files(run) == before


@pytest.mark.usefixtures("in_this_process")
def test_edited_metrics_are_found_in_order(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "logs/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["step"] == 10:
            line["grad_norm"] += 1e-12
        if line["step"] == 12:
            line["loss"] += 1e-12
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        main([str(run), "--steps", "4", "--from", "8", "--output", str(run.parent / "c.json")]) == 1
    )
    assert [line.partition(" differ")[0] for line in diverged(capsys.readouterr().out)] == [
        "DIVERGED first: step 10: gradients (norm)",
        "then: step 12: loss (metrics line)",
    ]
    assert not (run / "resume_certificate.json").exists()
    assert (run.parent / "c.json").is_file()


@pytest.mark.usefixtures("in_this_process")
def test_steps_before_other_settings_are_not_replayed_with_these(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    continued(run, 6, "monitoring.metrics.log_interval=1", "training.eval_interval=5")
    assert main([str(run), "--steps", "2", "--from", "4"]) == 0
    continued(run, 8, "threads=2")
    assert main([str(run), "--steps", "2", "--from", "4"]) == 2
    error = capsys.readouterr().err
    assert "--from=4 must be >= 8: the run was continued after step 8 with other settings" in error
    assert "threads=1 -> threads=2" in error
    assert main([str(run), "--steps", "10"]) == 0
    assert json.loads((run / "resume_certificate.json").read_text())["from_step"] == 8


@pytest.mark.usefixtures("in_this_process")
def test_the_next_checkpoint_to_compare_with_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--steps", "2", "--from", "8"]) == 0
    reason = "with the run's next checkpoint, of step 12; --from=8 --steps=4 compares them"
    assert f"not compared: weights, optimizer, rng {reason}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_lengthened_run_is_replayed_from_its_former_end(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = train("resume=run", "training.max_steps=16", cwd=run.parent)
    assert longer.returncode == 0, longer.stderr
    assert main([str(run), "--steps", "4", "--from", "6"]) == 2
    assert "training.max_steps=12 -> training.max_steps=16" in capsys.readouterr().err
    assert main([str(run), "--steps", "4"]) == 0
    certificate = json.loads((run / "resume_certificate.json").read_text())
    assert (certificate["from_step"], certificate["to_step"]) == (12, 16)


@pytest.mark.slow
def test_a_script_that_verifies_a_run_runs_once(run: Path) -> None:
    """It needs no `if __name__ == "__main__"`: the helper processes do not import it."""
    script = run.parent / "script.py"
    script.write_text(
        "from spectral_exp.commands.verify_resume import main\n"
        "print('begin')\n"
        "print(main(['run', '--steps', '2', '--from', '6']))\n"
    )
    done = python(str(script), cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "begin"
    assert done.stdout.count("begin") == 1
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.slow
def test_compressed_checkpoints_are_replayed(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    options = (*RUN_OPTIONS, "monitoring.checkpoint.compression=zstd", "hydra.run.dir=run")
    assert train("+experiment=wave", *options, cwd=tmp_path).returncode == 0
    assert main([str(tmp_path / "run"), "--steps", "6"]) == 0
    certificate = json.loads((tmp_path / "run/resume_certificate.json").read_text())
    assert certificate["checkpoint"]["file"] == "checkpoint_step_6.pt.zst"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["run", "--steps", "1"], "--steps=1 must be >= 2"),
        (
            ["run", "--from", "5"],
            "--from=5 must be the step of a checkpoint; choose from 0 (the start), 4, 6, 8, 12",
        ),
        (["run", "--from", "12"], "--from=12 leaves less than 2 steps: training.max_steps=12"),
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


@pytest.mark.parametrize(
    ("attempt", "has_bits"),
    [
        ({}, True),
        ({"processes": 4, "devices": ["cpu"] * 4, "strategy": "ddp"}, True),
        ({"processes": 2, "devices": ["cpu"] * 2, "strategy": "ddp"}, False),
        ({"processes": 4, "devices": ["cuda:0"] * 4, "strategy": "ddp"}, False),
        ({"processes": 2, "devices": ["cuda:0"] * 2, "strategy": "ddp", "exact": True}, True),
        ({"processes": 4, "devices": ["cpu"] * 4, "strategy": "fsdp"}, False),
        ({"processes": 4, "devices": ["cpu"] * 4, "strategy": "fsdp", "exact": True}, True),
        ({"processes": 2, "devices": ["cpu"] * 2, "strategy": "fsdp", "exact": True}, False),
    ],
)
def test_every_attempt_must_have_the_bits_of_one_process(
    attempt: dict[str, Any], has_bits: bool
) -> None:
    # The last attempt, whose settings are recorded, says nothing about an earlier one.
    config = {"training": {"grad_accum_steps": 4}, "distributed": {"exact": True}}
    record = {"config": config, "attempts": [attempt, {"processes": 1}]}
    assert (order_of_addition(record) == "") == has_bits
