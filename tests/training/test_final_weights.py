"""The test of the final weights, how much text is evaluated, and what limits conclusions."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_exp.commands.evaluate import evaluate_run
from spectral_exp.config.build import build
from spectral_exp.core.errors import Interrupted
from spectral_exp.core.signals import StopRequest
from spectral_exp.data.batches import EvalWindows
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.distributed.world import World
from spectral_exp.results.checks import run_flags
from spectral_exp.runs.load import load_run
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.training.evaluation import evaluate
from spectral_exp.training.summary import summary
from tests.conftest import compose
from tests.training.test_runner import PATIENT, QUIET, built, results, scripted

TESTED = "data.test_fraction=0.1"
SHORT = ("training.max_steps=4", "training.eval_interval=4")


def test_the_final_weights_are_tested_once_on_the_whole_test_text(tmp_path: Path) -> None:
    with built(tmp_path, *SHORT, TESTED) as runner:
        runner.run()
        exact = evaluate(runner.model, runner.test_windows, runner.device).test_metrics()
    content = results(tmp_path)
    assert exact.items() <= content["final_metrics"].items()
    final, score = content["final_metrics"], evaluate_run(tmp_path, split="test").score
    assert final["test_loss"] == pytest.approx(score.loss, rel=1e-3)
    assert final["test_bpb"] == pytest.approx(score.bpb, rel=1e-3)
    assert final["test_standard_error_bpb"] == pytest.approx(score.standard_error_bpb, rel=0.02)
    # The last window of `evaluate` ends with the text, those of training do not overlap.
    assert score.windows - 1 <= final["test_windows"] <= score.windows
    run = load_run(tmp_path)
    assert run.value("test_bpb") == run.value("test_bpb", "best") == final["test_bpb"]
    assert (run.value("test_bpb", "step:3"), run.final_step("test_bpb")) == (None, 4)
    assert metric_info("test_bpb").lower_is_better
    assert metric_info("test_bpb").kind == "validation"
    assert metric_info("test_loss").is_per_token
    read = content["evaluation"]
    assert read["test"]["windows"] == read["test"]["available_windows"] == final["test_windows"]
    assert (read["val"]["windows"], read["val"]["tokens"]) == (4, 4 * 16)
    assert read["val"]["available_windows"] == (run.record["dataset"]["val_tokens"] - 1) // 16
    assert read["val"]["standard_error_bpb"] > 0
    assert content["monitoring_cost"]["test_s"] > 0
    assert any(line.startswith("  test") for line in summary(tmp_path).splitlines())

    with built(tmp_path, *SHORT, TESTED) as runner:
        runner.run()
    assert results(tmp_path) == content

    # An attempt that only writes the results again did not validate.
    runner.paths.results_file.unlink()
    with built(tmp_path, *SHORT, TESTED) as runner:
        runner.run()
    assert results(tmp_path)["evaluation"]["val"] == read["val"]


def test_after_an_early_stop_the_best_weights_are_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.5, 2.45, 2.3, 2.4, 2.25])
    with built(tmp_path, *PATIENT, TESTED, "monitoring.checkpoint.save_interval=1") as runner:
        assert runner.run().best_step == 8
        best = runner.checkpoint.load_checkpoint(8)
        assert best is not None
        runner.model.load_state_dict(best["model_state_dict"])
        exact = evaluate(runner.model, runner.test_windows, runner.device)
    final = results(tmp_path)["final_metrics"]
    assert (final["step"], final["test_loss"]) == (8, exact.loss)


class LastOfGroup(Ranks):
    """Process 0 after the others have ended: they no longer exchange signals.

    Args:
        ranks: that of the run, which knows the signals of this process.
    """

    world = World(rank=0, size=2)
    stop_signal = None

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @property
    def stop(self) -> StopRequest | None:  # type: ignore[override]
        return self._ranks.stop


@pytest.mark.parametrize("is_last_of_group", [False, True])
def test_a_test_that_a_signal_ends_is_repeated_by_the_same_command(
    is_last_of_group: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, status = [*SHORT, TESTED], "completed"
    if is_last_of_group:  # which restores the best weights, and tests them alone
        scripted(monkeypatch, [3.0, 3.1])
        settings += ["training.eval_interval=1", "training.patience=1"]
        status = "stopped_early"
    windows = EvalWindows.__iter__

    def kill_in_the_test(self: EvalWindows) -> Iterator[Any]:
        for i, window in enumerate(windows(self)):
            if i == 3:  # the validation has one batch
                os.kill(os.getpid(), signal.SIGTERM)
            yield window

    with monkeypatch.context() as patched:
        patched.setattr(EvalWindows, "__iter__", kill_in_the_test)
        with built(tmp_path, *settings) as runner:
            if is_last_of_group:
                runner._final_weights.ranks = LastOfGroup(runner.ranks)
            with pytest.raises(Interrupted):
                runner.run()
    before = results(tmp_path)
    assert before["status"] == status
    assert "test_loss" not in before["final_metrics"]
    with built(tmp_path, *settings) as runner:
        runner.run()
    after = results(tmp_path)["final_metrics"]
    assert after["test_loss"] > 0
    assert before["final_metrics"].items() <= after.items()


def test_what_limits_conclusions_is_said_once_and_found_in_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ("training.max_steps=2", "optimizer.warmup_steps=500", "schedule.warmup_steps=8")
    with built(tmp_path, *settings, experiment="wave_rgd") as runner:
        runner.run()
        available = runner.windows.n_available
    said = "\n".join(caplog.messages)
    length = "is longer than the run of 2 steps (training.max_steps=2)"
    assert f"schedule.warmup_steps=8 {length}: the learning rate reaches 25%" in said
    assert f"optimizer.warmup_steps=500 {length}: the strength of RGD's gate reaches 0%" in said
    assert f"reads 4 of {available} windows, 64 tokens: the standard error of val_loss is" in said
    assert "roughly 12% of it or more; raise training.eval_windows" in said
    found = {one.kind: str(one) for one in run_flags(load_run(tmp_path))}
    assert "schedule.warmup_steps is 8, and the run had 2 steps" in found[
        "short for schedule.warmup_steps"
    ]  # fmt: skip
    assert "optimizer.warmup_steps is 500" in found["short for optimizer.warmup_steps"]
    few = found["few validation windows"]
    assert few.startswith(f"each validation read 4 of {available} windows: the standard error")

    caplog.clear()
    with built(tmp_path, *settings, "training.max_steps=3", experiment="wave_rgd") as runner:
        runner.run()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and "windows" in r.msg]
    assert "is longer than" not in "\n".join(caplog.messages)


def test_text_that_was_trained_on_is_said_and_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The test text, but not the validation text, is a copy of a part of the training text."""
    random = np.random.default_rng(1)
    train, val = (
        random.integers(97, 123, size).astype(np.uint8).tobytes() for size in (8000, 1000)
    )
    text = tmp_path / "text.txt"
    text.write_bytes(train + train[100:1100] + val)
    tiny = [override for override in QUIET if not override.startswith("data")]
    source = ("data=text_file", f"data.path={text}", "data.test_fraction=0.1")
    config = compose("+experiment=classic", *tiny, *source, *SHORT)
    (tmp_path / "run").mkdir()
    with build(config, tmp_path / "run", []) as runner:
        runner.run()
    sentence = "stands word for word in the training text"
    (said,) = [message for message in caplog.messages if sentence in message]
    assert said.startswith(f"100.0% of the test text {sentence}, in passages of 128 tokens")
    read = results(tmp_path / "run")["evaluation"]
    assert (read["val"]["repeated_share"], read["test"]["repeated_share"]) == (0, 1)
    found = {one.kind: str(one) for one in run_flags(load_run(tmp_path / "run"))}
    assert found["repeated test text"].startswith(f"100.0% of the test text {sentence}")
    assert "repeated validation text" not in found
