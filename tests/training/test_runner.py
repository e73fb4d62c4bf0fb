"""The training loop in this process: its steps, its ends, and the things that must not change
it."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_exp.config.build import build
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import Interrupted, RunError
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.results.checks import why_unfinished
from spectral_exp.runs.load import load_run
from spectral_exp.training import validation
from spectral_exp.training.evaluation import Evaluation
from spectral_exp.training.runner import Runner
from spectral_exp.training.state import TrainState
from spectral_exp.training.summary import summary
from tests.conftest import NO_PLOTS, TINY, compose

QUIET = (*TINY, NO_PLOTS, "training.sample_tokens=0", "device=cpu")
OFF = tuple(
    f"monitoring/{part}=off"
    for part in ("checkpoint", "metrics", "visualization", "spectra", "tracking")
)


EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


@contextmanager
def built(root: Path, *overrides: str, experiment: str = "classic") -> Iterator[Runner]:
    root.mkdir(exist_ok=True)
    # Composing takes longer than these runs: only what chooses a group goes through it, single
    # values are set after.
    choices = [o for o in overrides if "." not in o.partition("=")[0]]
    values = OmegaConf.from_dotlist([o for o in overrides if o not in choices])
    composed = compose(f"+experiment={experiment}", *QUIET, *choices)
    config: Any = OmegaConf.to_container(OmegaConf.merge(composed, values))
    with build(config, root, list(overrides)) as runner:
        yield runner


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def logged(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "logs/metrics.jsonl").read_text().splitlines()]


def results(root: Path) -> dict[str, Any]:
    content = json.loads((root / "results.json").read_text())
    assert isinstance(content, dict)
    return content


def before_each_update(runner: Runner, look: Callable[[], None]) -> None:
    """Call `look` whenever the optimizer is about to apply gradients."""
    runner.optimizer.register_step_pre_hook(lambda *_: look())


def test_a_scheduled_wave_ratio_follows_the_run(tmp_path: Path) -> None:
    settings = (
        "model.embedding.wave_ratio=scheduled",
        "training.max_steps=4",
        "monitoring.metrics.log_interval=1",
    )
    with built(tmp_path, *settings, experiment="wave") as runner:
        runner.run()
    assert [line["wave_ratio"] for line in logged(tmp_path)] == pytest.approx([0.6, 0.7, 0.8, 0.9])


def applied_gradients(runner: Runner, step: int) -> tuple[list[Tensor], float]:
    """The gradients that `train_step(step)` hands to the optimizer, and the norm it reports."""
    seen: list[Tensor] = []
    before_each_update(
        runner,
        lambda: seen.extend(
            p.grad.clone() for p in runner.model.parameters() if p.grad is not None
        ),
    )
    return seen, float(runner.stepper.take_step(step).grad_norm)


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["classic", "wave_qfe"])
def test_accumulated_gradient_is_the_mean_over_micro_batches(
    tmp_path: Path, experiment: str
) -> None:
    settings = ("training.grad_accum_steps=2", "training.grad_clip=0")
    with built(tmp_path, *settings, experiment=experiment) as runner:
        twin = copy.deepcopy(runner.model)
        applied: list[Tensor] = []
        before_each_update(
            runner,
            lambda: applied.extend(
                p.grad.clone() for p in runner.model.parameters() if p.grad is not None
            ),
        )
        report = runner.stepper.take_step(3)
        objectives, losses = [], []
        for micro_step in (0, 1):
            x, y = runner.batches(3, micro_step)
            objective, parts = runner.loss(twin(x), y)
            objectives.append(objective)
            losses.append(float(parts["loss"]))
        assert not torch.equal(runner.batches(3, 0)[0], runner.batches(3, 1)[0])
        expected = torch.autograd.grad(sum(objectives) / 2, list(twin.parameters()))
    assert report.tokens == 2 * 4 * 16
    assert report.loss == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert report.grad_norm == pytest.approx(norm(list(expected)), rel=1e-5)
    for found, wanted in zip(applied, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_parts_that_declare_no_randomness_draw_nothing(tmp_path: Path, experiment: str) -> None:
    with built(tmp_path, "model.dropout=0", experiment=experiment) as runner:
        assert not runner.model.uses_randomness
        assert not runner.loss.uses_randomness
        before = torch.get_rng_state()
        runner.stepper.take_step(1)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("silent", [True, False])
def test_random_numbers_of_a_step_depend_on_its_number(tmp_path: Path, silent: bool) -> None:
    found = []
    for number, luck in enumerate((1, 2)):
        with built(tmp_path / str(number), "model.dropout=0.5") as runner:
            if silent:  # one that does not tell
                del runner.model.uses_randomness
                runner = dataclasses.replace(runner)
            torch.manual_seed(luck)
            found.append(applied_gradients(runner, 3))
    (one, _), (other, _) = found
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_clipping_shortens_the_gradient_and_changes_nothing_else(tmp_path: Path) -> None:
    with built(tmp_path / "unclipped", "training.grad_clip=0") as runner:
        whole, length = applied_gradients(runner, 1)
    assert norm(whole) == pytest.approx(length, rel=1e-5)
    with built(tmp_path / "clipped", f"training.grad_clip={length / 4}") as runner:
        clipped, reported = applied_gradients(runner, 1)
    assert reported == length
    assert norm(clipped) == pytest.approx(length / 4, rel=1e-4)
    for short, long in zip(clipped, whole, strict=True):
        torch.testing.assert_close(short * 4, long, rtol=1e-4, atol=1e-9)
    with built(tmp_path / "generous", f"training.grad_clip={length * 2}") as runner:
        untouched, _ = applied_gradients(runner, 1)
    assert all(torch.equal(a, b) for a, b in zip(untouched, whole, strict=True))


@pytest.mark.parametrize("experiment", ["classic", "wave_rgd"])
def test_every_group_follows_the_schedule_from_its_own_peak(
    tmp_path: Path, experiment: str
) -> None:
    settings = (
        "schedule.warmup_steps=4",
        "monitoring.metrics.log_interval=1",
        "training.eval_interval=12",
    )
    with built(tmp_path, *settings, experiment=experiment) as first:
        first.optimizer.param_groups[-1]["lr"] *= 0.5
        peaks = [group["lr"] for group in first.optimizer.param_groups]
        runner = dataclasses.replace(first)
        applied: list[list[float]] = []
        before_each_update(
            runner, lambda: applied.append([group["lr"] for group in runner.optimizer.param_groups])
        )
        runner.run()
    expected = [[peak * runner.schedule.factor(step) for peak in peaks] for step in range(1, 13)]
    assert applied == expected
    assert len(peaks) >= 3
    assert [line["learning_rate"] for line in logged(tmp_path)] == [rates[0] for rates in expected]
    assert expected[0][0] == pytest.approx(0.25e-3)
    assert expected[3][0] == pytest.approx(1e-3)
    assert expected[11][0] == pytest.approx(1e-4)


def test_logged_speeds_of_a_continued_run_add_up_to_its_time(tmp_path: Path) -> None:
    """It was continued between two entries, the second of which covers steps of both attempts."""
    for steps in (13, 30):
        settings = (f"training.max_steps={steps}", "monitoring.metrics.log_interval=10")
        with built(tmp_path, *settings) as runner:
            runner.run()
    run = load_run(tmp_path)
    assert run.series("tokens_per_s").steps.tolist() == [10, 20, 30]
    assert run.train_s is not None
    assert run.train_time_s(np.array([30.0])).item() == pytest.approx(run.train_s, rel=1e-6)


# --- steps that cannot be applied -----------------------------------------------------------------


class SometimesNaN(nn.Module):
    """A loss that is not a number at given calls, counted from 1."""

    def __init__(self, loss: nn.Module, at: set[int]) -> None:
        super().__init__()
        self.inner, self.at, self.calls = loss, at, 0

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        objective, parts = self.inner(logits, targets)
        if self.calls not in self.at:
            return objective, parts
        return objective * math.nan, {**parts, "loss": parts["loss"] * math.nan}


@pytest.mark.parametrize("experiment", ["classic", "wave_rgd"])
def test_a_step_that_is_not_finite_changes_no_bit_and_is_counted(
    tmp_path: Path, experiment: str
) -> None:
    with built(tmp_path, "monitoring.metrics.log_interval=1", experiment=experiment) as runner:
        runner.stepper.loss = SometimesNaN(runner.loss, {1, 4, 5})
        after: dict[int, dict[str, Tensor]] = {0: weights(runner.model)}
        moments: dict[int, str] = {}
        original = runner.stepper.take_step

        def watched(step: int) -> Any:
            report = original(step)
            after[step] = weights(runner.model)
            moments[step] = repr(runner.optimizer.state_dict()["state"])
            return report

        runner.stepper.take_step = watched  # type: ignore[method-assign]
        state = runner.run()
    for step in (1, 4, 5):
        assert_equal(after[step], after[step - 1])
    assert moments[5] == moments[4] == moments[3] != moments[6]
    for step in (2, 3, 6, 12):
        assert any(
            not torch.equal(after[step][name], after[step - 1][name]) for name in after[step]
        ), step
    assert (state.step, state.bad_steps, state.bad_in_a_row) == (12, 3, 0)
    assert state.tokens == 9 * 4 * 16
    lines = logged(tmp_path)
    assert [line["step"] for line in lines if line["loss"] == "NaN"] == [1, 4, 5]
    assert [line["bad_steps"] for line in lines] == [1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3]
    assert results(tmp_path)["status"] == "completed"
    assert results(tmp_path)["totals"]["bad_steps"] == 3


def test_too_many_bad_steps_in_a_row_end_the_run_with_advice(tmp_path: Path) -> None:
    with built(tmp_path, "training.max_bad_steps=3") as runner:
        runner.stepper.loss = SometimesNaN(runner.loss, {2, 3, 5, 6, 7})
        with pytest.raises(
            RunError, match=r"3 steps in a row .* step 7 .*max_bad_steps=3.* those of step 4\b"
        ):
            runner.run()
        assert runner.state.step == 7
    found = results(tmp_path)
    assert found["status"] == "diverged"
    assert "3 steps in a row" in found["error"]
    assert found["totals"]["bad_steps"] == 5
    assert found["final_metrics"]["loss"] == "NaN"
    assert "diverged" in summary(tmp_path)


def test_a_checkpoint_that_falls_due_while_steps_are_skipped_follows_after_the_next_step(
    tmp_path: Path,
) -> None:
    kept = ("monitoring.checkpoint.keep_last_n=9", "monitoring.checkpoint.background=false")
    with built(tmp_path, *kept, "monitoring.checkpoint.save_interval=4") as runner:
        runner.stepper.loss = SometimesNaN(runner.loss, {4, 5})
        runner.run()
        assert runner.paths.checkpoint_steps() == [6, 8, 12]


# --- early stopping -------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the validations come out as `losses`, the last again and again."""
    remaining = list(losses)

    def evaluate(*_: Any) -> Evaluation:
        loss = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return Evaluation(loss, loss / math.log(2), 0.01, 64)

    monkeypatch.setattr(validation, "evaluate", evaluate)


PATIENT = (
    "training.max_steps=40",
    "training.eval_interval=2",
    "training.patience=2",
    "training.min_delta=0.1",
)


def test_the_best_validation_may_be_that_of_a_skipped_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.5, 2.0, 2.9])
    with built(tmp_path, *PATIENT) as runner:
        runner.stepper.loss = SometimesNaN(runner.loss, {6})
        state = runner.run()
        best = runner.checkpoint.load_best_checkpoint()
    assert best is not None
    assert (best["step"], state.best_step, state.step) == (6, 6, 10)
    assert results(tmp_path)["final_metrics"]["step"] == 6
    assert results(tmp_path)["best_checkpoint"] == "checkpoints/checkpoint_step_6.pt"


def test_a_save_for_steps_at_risk_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the best validation is saved a second time, because many steps are at risk."""
    scripted(monkeypatch, [3.0, 2.9, 2.0, 2.9])
    rare = ("monitoring.checkpoint.save_interval=1000", "monitoring.checkpoint.max_steps_at_risk=3")
    with built(tmp_path, *PATIENT, *rare) as runner:
        state = runner.run()
        best = runner.checkpoint.load_best_checkpoint()
    assert best is not None
    assert (best["step"], state.best_step) == (6, 6)
    assert results(tmp_path)["final_metrics"]["step"] == 6


def test_best_weights_that_are_gone_are_not_said_to_be_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(monkeypatch, [3.0, 2.5, 2.0, 2.9])
    with built(tmp_path, *PATIENT) as runner:
        monkeypatch.setattr(
            runner.checkpoint, "load_best_checkpoint", runner.checkpoint.load_latest_checkpoint
        )
        runner.run()
    assert "restored the weights of step 10, the best that are kept" in caplog.text
    assert "the best validation was that of step 6" in caplog.text


def test_patience_ends_training_and_the_best_weights_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 2.45 is better than 2.5, but by less than min_delta; 2.3 starts the count anew.
    scripted(monkeypatch, [3.0, 2.5, 2.45, 2.3, 2.4, 2.25])
    with built(tmp_path, *PATIENT, "monitoring.checkpoint.save_interval=1") as runner:
        state = runner.run()
        final = weights(runner.model)
        best = runner.checkpoint.load_best_checkpoint()
        last = runner.checkpoint.load_latest_checkpoint()
    assert (state.step, state.stopped_early, state.best_step, state.best_val_loss) == (
        12,
        True,
        8,
        2.3,
    )
    assert best is not None
    assert last is not None
    assert (best["step"], last["step"]) == (8, 12)
    assert_equal(final, best["model_state_dict"])
    assert any(not torch.equal(final[name], last["model_state_dict"][name]) for name in final)
    found = results(tmp_path)
    assert found["status"] == "stopped_early"
    assert found["best_metrics"]["step"] == 8
    assert found["best_checkpoint"] == "checkpoints/checkpoint_step_8.pt"
    # The numbers are those of the weights that the run ends with, and so is their step.
    assert (found["final_metrics"]["step"], found["totals"]["steps"]) == (8, 12)
    assert found["final_metrics"]["loss"] == state.loss_history[7]
    assert "val_step" not in found["final_metrics"]
    assert "at step 8" in next(
        line for line in summary(tmp_path).splitlines() if line.startswith("  final")
    )

    kept = [tmp_path / "logs/metrics.jsonl", *(tmp_path / "checkpoints").iterdir()]
    files = {path: path.read_bytes() for path in kept}
    with built(tmp_path, *PATIENT, "monitoring.checkpoint.save_interval=1") as runner:
        state = runner.run()
    assert (state.step, state.stopped_early) == (12, True)
    assert {p: p.read_bytes() for p in files} == files
    assert results(tmp_path) == found

    with built(tmp_path, *PATIENT, "training.patience=null", "training.max_steps=13") as runner:
        assert runner.run().step == 13
    assert results(tmp_path)["status"] == "completed"


def test_without_restore_best_the_last_weights_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [2.0, 3.0])
    with built(tmp_path, *PATIENT, "training.restore_best=false") as runner:
        assert runner.run().step == 6
        last = runner.checkpoint.load_latest_checkpoint()
        assert last is not None
        assert_equal(weights(runner.model), last["model_state_dict"])
    assert results(tmp_path)["best_metrics"]["step"] == 2


def test_stopping_early_without_checkpoints_warns_that_nothing_can_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(monkeypatch, [2.0, 3.0])
    with built(tmp_path, *PATIENT, "monitoring/checkpoint=off") as runner:
        assert runner.run().stopped_early
    assert "final weights are those of the last step" in caplog.text
    assert "resume=" not in summary(tmp_path)


def test_a_pruned_run_ends_as_an_early_stop_does_and_goes_on_only_without_its_pruner(
    tmp_path: Path,
) -> None:
    def never(step: int, metrics: Mapping[str, float]) -> str:
        return ""

    def at_eight(step: int, metrics: Mapping[str, float]) -> str:
        asked.append((step, sorted(metrics)))
        return "val_bpb is worse" if step == 8 else ""

    asked: list[tuple[int, list[str]]] = []
    often = ("training.max_steps=12", "training.eval_interval=4", "training.patience=9")
    plain, kept, pruned = (tmp_path / name for name in ("plain", "kept", "pruned"))
    with built(plain, *often) as runner:
        runner.run()
    with built(kept, *often) as runner:
        runner.validator.why_prune = never
        runner.run()
    # What did not end a run has not changed it.
    assert_same_training(plain, kept)

    with built(pruned, *often) as runner:
        runner.validator.why_prune = at_eight
        assert runner.run().step == 8
        last = runner.checkpoint.load_latest_checkpoint()
    assert asked == [(step, ["perplexity", "val_bpb", "val_loss"]) for step in (4, 8)]
    assert last is not None
    assert last["step"] == 8
    found = results(pruned)
    assert (found["status"], found["pruned_because"]) == ("pruned", "val_bpb is worse")
    assert (found["final_metrics"]["step"], found["totals"]["steps"]) == (8, 8)
    assert f"resume={pruned}\n" in summary(pruned) + "\n"  # it belongs to no search
    run = load_run(pruned)
    assert not run.finished
    reason = why_unfinished(run)
    assert reason is not None
    assert str(reason) == "pruned at step 8 of 12 (val_bpb is worse)"

    files = {path: path.read_bytes() for path in pruned.rglob("*.pt")}
    with built(pruned, *often) as runner:  # the same command again
        runner.validator.why_prune = at_eight
        assert runner.run().step == 8
    assert results(pruned) == found
    assert {path: path.read_bytes() for path in files} == files
    assert len(asked) == 2

    with built(pruned, *often) as runner:
        runner.run()
    assert_same_training(plain, pruned)
    assert results(pruned)["status"] == "completed"
    assert results(pruned)["pruned_because"] is None


def assert_same_training(one: Path, other: Path) -> None:
    """Assert that the last states of two runs and their training metrics are equal."""
    states = [torch.load(root / "checkpoints/checkpoint_step_12.pt") for root in (one, other)]
    for state in states:
        del state["train_state"]["train_s"]
        state["history"] = {"loss": state["loss_history"]}
    for part in ("model_state_dict", "rng_state", "history"):
        assert_equal(states[0][part], states[1][part])
    assert states[0]["train_state"] == states[1]["train_state"]


# --- what is recorded -----------------------------------------------------------------------------


def test_a_run_that_stops_between_validations_names_the_step_of_each_value(tmp_path: Path) -> None:
    with built(tmp_path, "training.eval_interval=4") as runner:
        runner.stepper.take_step = stop_at(runner, 6)  # type: ignore[method-assign,assignment]
        with pytest.raises(Interrupted):
            runner.run()
    found = results(tmp_path)["final_metrics"]
    validated = [line for line in logged(tmp_path) if "val_loss" in line]
    assert (found["step"], found["val_step"]) == (6, 4)
    assert found["val_loss"] == validated[-1]["val_loss"]
    assert validated[-1]["step"] == 4
    final = next(line for line in summary(tmp_path).splitlines() if line.startswith("  final"))
    assert (
        final.index("loss ")
        < final.index("at step 6")
        < final.index("val_loss ")
        < final.index("at step 4")
    )


def stop_at(runner: Runner, step: int) -> Callable[[int], Any]:
    """The training step of `runner`, in which a signal comes at `step`."""
    train_step = runner.stepper.take_step

    def stopping(number: int) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(number)

    return stopping


def test_the_threads_that_are_recorded_are_those_of_training(tmp_path: Path) -> None:
    with built(tmp_path, "threads=3") as runner:
        recorded = json.loads((tmp_path / "config.json").read_text())["hardware"]["torch_threads"]
        seen = []
        train_step = runner.stepper.take_step

        def watched(step: int) -> Any:
            seen.append(torch.get_num_threads())
            return train_step(step)

        runner.stepper.take_step = watched  # type: ignore[method-assign]
        runner.run()
    assert set(seen) == {recorded} == {3}


SCHEDULES = {
    "cosine": ("schedule=cosine", "schedule.warmup_steps=2"),
    "linear": ("schedule=linear", "schedule.warmup_steps=2"),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_longer_schedule_warns_that_the_rate_rises(
    schedule: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with built(tmp_path, *SCHEDULES[schedule]) as runner:
        runner.run()
    before = logged(tmp_path)[-1]["learning_rate"]
    with built(tmp_path, *SCHEDULES[schedule], "training.max_steps=24") as runner:
        runner.run()
    (warning,) = [record.message for record in caplog.records if "learning rate" in record.message]
    after = logged(tmp_path)[-6]
    assert after["step"] == 14
    assert warning.startswith(
        f"the learning rate rises with another schedule: at step 12 it was {before:.4g}, "
    )
    assert "training.max_steps=24; step 13 uses" in warning
    assert "the learning rate rises" in (tmp_path / "logs/training.log").read_text()


@pytest.mark.parametrize(
    "overrides", [("schedule=constant",), ("schedule=cosine", "schedule.decay_steps=30")]
)
def test_a_schedule_that_goes_on_as_it_was_is_not_mentioned(
    overrides: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for max_steps in (12, 16, 16):
        with built(tmp_path, *overrides, f"training.max_steps={max_steps}") as runner:
            runner.run()
    assert "with another schedule" not in caplog.text


# --- the alarm ------------------------------------------------------------------------------------


class Peeking(nn.Module):
    """A model that sees the next token wherever the input holds it, and guesses evenly at the last
    position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        seen = F.one_hot(ids[:, 1:], 256).float() * 30
        logits: Tensor = self.model(ids) * 0 + F.pad(seen, (0, 0, 0, 1))
        return logits


def leaks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelno == logging.ERROR and "LEAK" in r.getMessage()
    ]


def test_a_model_that_sees_the_answer_raises_the_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with built(tmp_path / "honest") as runner:
        runner.run()
    assert not leaks(caplog)
    with built(tmp_path / "peeking") as runner:
        runner.stepper.compute = Peeking(runner.model)
        runner.run()
        entropy = runner.data.entropy_bits_per_byte
    assert entropy is not None
    assert results(tmp_path / "peeking")["final_metrics"]["val_bpb"] < entropy
    assert len(leaks(caplog)) == 2
    assert f"{entropy:.4f}" in leaks(caplog)[0]


@pytest.mark.parametrize(("errors_below", "alarm"), [(3.9, False), (4.1, True)])
def test_the_alarm_leaves_room_for_chance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    errors_below: float,
    alarm: bool,
) -> None:
    with built(tmp_path, "training.max_steps=1") as runner:
        entropy = runner.data.entropy_bits_per_byte
        assert entropy is not None
        found = Evaluation(1.0, entropy - errors_below * 0.01, 0.01, 64)
        monkeypatch.setattr(validation, "evaluate", lambda *_: found)
        runner.run()
    assert bool(leaks(caplog)) == alarm


# --- presets and precision ------------------------------------------------------------------------


def test_overfit_one_batch_sees_one_batch_only(tmp_path: Path) -> None:
    with built(
        tmp_path, "training=overfit_one_batch", "schedule.warmup_steps=0", "training.batch_size=4"
    ) as runner:
        seen: list[Tensor] = []
        runner.model.register_forward_pre_hook(
            lambda m, args: seen.append(args[0]) if m.training else None
        )
        first = runner.batches(1, 0)[0]
        state = runner.run()
    assert len(seen) == 12
    assert all(torch.equal(x, first) for x in seen)
    assert state.loss_history[-1] < state.loss_history[0]
    with built(tmp_path / "usual") as runner:
        assert not torch.equal(runner.batches(1, 0)[0], runner.batches(2, 0)[0])


def test_profile_writes_a_trace_of_the_recorded_steps(tmp_path: Path) -> None:
    settings = (
        "training=profile",
        "training.max_steps=14",
        "training.profile_steps=2",
        "training.batch_size=4",
    )
    with built(tmp_path, *settings) as runner:
        runner.run()
    events = json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert (
        sum(
            name.startswith("ProfilerStep#") and e.get("cat") == "user_annotation"
            for name, e in zip(names, events, strict=True)
        )
        == 2
    )
    assert any("backward" in name.lower() for name in names)


@pytest.mark.parametrize(
    "experiment",
    ["classic", "classic_rotary", "wave_rgd_qfe", "phasor", "pure_wave", "pure_wave_linear"],
)
def test_bf16_trains_close_to_fp32(tmp_path: Path, experiment: str) -> None:
    histories = {}
    for precision in ("fp32", "bf16"):
        settings = (
            f"training.precision={precision}",
            "training.max_steps=4",
            "training.eval_interval=4",
        )
        with built(
            tmp_path / precision, *settings, "schedule.warmup_steps=0", experiment=experiment
        ) as runner:
            kinds: set[torch.dtype] = set()
            runner.model.register_forward_hook(lambda m, args, out, seen=kinds: seen.add(out.dtype))
            histories[precision] = list(runner.run().loss_history)
            assert all(p.dtype == torch.float32 for p in runner.model.parameters())
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert math.isfinite(results(tmp_path / precision)["final_metrics"]["val_loss"])
    assert histories["bf16"] == pytest.approx(histories["fp32"], rel=0.02)
    assert histories["bf16"] != histories["fp32"]


# --- what must not change training ----------------------------------------------------------------


def trained(
    root: Path, *overrides: str, experiment: str = "wave_rgd"
) -> tuple[dict[str, Tensor], TrainState]:
    with built(root, "model.dropout=0.1", *overrides, experiment=experiment) as runner:
        state = runner.run()
        return weights(runner.model), state


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], TrainState]:
    return trained(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize(
    "overrides",
    [
        (
            "training.eval_interval=1",
            "monitoring.metrics.log_interval=1",
            "monitoring.checkpoint.save_interval=1",
            "monitoring.spectra.interval=1",
        ),
        (
            "training.eval_interval=5",
            "monitoring.metrics.log_interval=7",
            "monitoring.checkpoint.save_interval=100",
        ),
        ("training.sample_tokens=20", "training.eval_interval=2", "training.sample_prompt=abc"),
        OFF,
    ],
    ids=["often", "rarely", "samples", "off"],
)
def test_watching_never_changes_training(
    tmp_path: Path, reference: tuple[dict[str, Tensor], TrainState], overrides: tuple[str, ...]
) -> None:
    final, state = trained(tmp_path, *overrides)
    assert_equal(final, reference[0])
    assert state.loss_history == reference[1].loss_history


def test_with_all_components_off_only_the_tokenizer_is_written(tmp_path: Path) -> None:
    with built(tmp_path, *OFF) as runner:
        assert runner.run().step == 12
        assert runner.results.monitoring_cost()["share_of_training"] < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
    assert "no results were written" in summary(tmp_path)


def test_samples_depend_on_the_step_alone_and_leave_the_generators_as_they_are(
    tmp_path: Path,
) -> None:
    with built(
        tmp_path, "training.sample_tokens=40", "model.dropout=0.5", experiment="wave"
    ) as runner:
        before = torch.get_rng_state()
        texts = [runner.sample(step) for step in (1, 2, 1)]
        assert torch.equal(torch.get_rng_state(), before)
        assert runner.model.training
        assert texts[0] == texts[2]
        assert texts[0][1] != texts[1][1]
        assert texts[0][0] == texts[1][0] != ""


# --- storage that refuses -------------------------------------------------------------------------


def test_too_many_steps_at_risk_end_the_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        built(tmp_path, "monitoring.checkpoint.max_steps_at_risk=5") as runner,
        monkeypatch.context() as patched,
    ):
        patched.setattr(checkpoint_file, "write_checkpoint", refuse)
        with pytest.raises(
            RunError, match=r"no checkpoint has become durable for 6 steps .*max_steps_at_risk=5"
        ):
            runner.run()
    assert results(tmp_path)["status"] == "failed"
    assert results(tmp_path)["monitoring_cost"]["saves_failed"] >= 1
    assert logged(tmp_path)[-1]["steps_at_risk"] >= 4


def test_storage_that_comes_back_in_time_saves_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint_file.write_checkpoint
    refused: list[int] = []

    def refuse_once(*arguments: Any, **options: Any) -> Any:
        if not refused:
            refused.append(1)
            raise OSError(28, "No space left on device")
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint_file, "write_checkpoint", refuse_once)
    with built(tmp_path, "monitoring.checkpoint.max_steps_at_risk=5") as runner:
        runner.run()
    found = results(tmp_path)
    assert found["status"] == "completed"
    assert found["monitoring_cost"]["saves"][-1]["step"] == 12
    assert {"blocked_s", "durable_s", "size_bytes"} <= set(found["monitoring_cost"]["saves"][0])


@pytest.mark.parametrize("optimizer", ["adamw", "rgd"])
def test_reports_that_are_read_late_change_nothing(tmp_path: Path, optimizer: str) -> None:
    """As on a GPU, where bad steps are skipped before they are known: weights, logs and checkpoints
    are the same."""
    found = []
    for reads_late in (False, True):
        runs = tmp_path / str(reads_late)
        runs.mkdir()
        with built(runs, f"optimizer={optimizer}") as runner:
            runner.stepper.reads_late = reads_late
            original = runner.loss.forward

            def spoiled(
                logits: Tensor, targets: Tensor, runner: Runner = runner, original: Any = original
            ) -> Any:
                objective, parts = original(logits, targets)
                bad = runner.state.step + 1 in (5, 6) and torch.is_grad_enabled()
                return (
                    (objective * math.nan, {"loss": parts["loss"] * math.nan})
                    if bad
                    else (objective, parts)
                )

            runner.loss.forward = spoiled
            state = runner.run()
            assert (state.bad_steps, state.bad_in_a_row, state.tokens) == (2, 0, 10 * 4 * 16)
            logged = [
                {
                    k: v
                    for k, v in entry.items()
                    if k in ("step", "loss", "grad_norm", "val_loss", "bad_steps")
                }
                for entry in runner.metrics.load_metrics()
            ]
            weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
            found.append((repr(logged), repr(state.loss_history), weights.tolist()))
    assert found[0] == found[1]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_resume_reads_the_history_from_the_metrics_and_names_missing_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "run"
    with built(root) as runner:
        runner.run()
        history = runner.history
    caplog.clear()
    metrics = root / "logs/metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    with built(root) as runner, caplog.at_level(logging.WARNING):
        runner.restore()
        assert runner.history == history
    assert warnings(caplog) == []
    metrics.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # as a power cut may leave it
    with built(root) as runner, caplog.at_level(logging.WARNING):
        runner.restore()
        assert runner.history["loss"][0].tolist() == [2, 4]
    assert [message.partition(" are missing")[0] for message in warnings(caplog)] == [
        "the metrics of steps 5 to 12"
    ]
