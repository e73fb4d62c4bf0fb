"""The page at the end of a run, from results as runs write them."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.monitoring import ConfigTracker
from spectral_exp.runs.overrides import quote
from spectral_exp.training.summary import summary

TOTALS = {
    "steps": 12,
    "tokens": 768,
    "bad_steps": 0,
    "train_s": 61.0,
    "time_s": 70.0,
    "tokens_per_s": 12.6,
}
COST = {"blocked_s": {"checkpoint": 0.5, "metrics": 0.25}, "share_of_training": 0.0123}


def write(root: Path, status: str = "completed", checkpoint: bool = True, **changed: Any) -> None:
    content: dict[str, Any] = {
        "final_metrics": {"step": 12, "loss": 2.0, "val_loss": 1.5},
        "status": status,
        "best_metrics": {"step": 6, "val_loss": 1.25, "val_bpb": 1.75},
        "totals": TOTALS,
        "reference": {"unigram_bits_per_byte": 3.5, "entropy_bits_per_byte": None},
        "monitoring_cost": COST,
    }
    ConfigTracker(root).save_results(**{**content, **changed})
    if checkpoint:
        (root / "checkpoints").mkdir(exist_ok=True)
        (root / "checkpoints/checkpoint_step_12.pt").write_bytes(b"")


def test_the_summary_of_a_finished_run_is_complete(tmp_path: Path) -> None:
    write(tmp_path, reference={"unigram_bits_per_byte": 3.5, "entropy_bits_per_byte": 1.2345678})
    text = summary(tmp_path)
    for words in (
        "completed",
        "12, 768 tokens in 1 min 01 s of training",
        "13 tokens/s",
        "loss 2.0000  val_loss 1.5000  at step 12",
        "val_loss 1.2500  val_bpb 1.7500  at step 6",
        "3.5000 bits per byte",
        "1.2346 bits per byte: the limit of the source",
        "1.23 % of training time blocked (checkpoint 0.50 s, metrics 0.25 s)",
        str(tmp_path / "results.json"),
        f"resume={tmp_path} training.max_steps=24",
        f"python -m spectral_exp generate {tmp_path}",
    ):
        assert words in text, (words, text)
    # Only what is there is pointed at.
    assert "metrics.jsonl" not in text
    assert "config.json" not in text


def test_a_run_that_failed_at_once_has_a_page_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        "failed",
        checkpoint=False,
        final_metrics={"step": 1, "loss": math.nan},
        best_metrics=None,
        totals={**TOTALS, "tokens": 0, "train_s": 0.0, "tokens_per_s": 0.0},
    )
    text = summary(tmp_path)
    assert "failed" in text
    assert "best" not in text
    # Neither command would work without a checkpoint.
    assert "resume=" not in text
    assert "generate" not in text


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("interrupted", "resume={}\n"),
        ("failed", "resume={}\n"),
        ("stopped_early", "spectral_exp generate {}"),
    ],
)
def test_the_next_commands_suit_the_status(tmp_path: Path, status: str, offered: str) -> None:
    write(tmp_path, status)
    assert offered.format(tmp_path) in summary(tmp_path)
    # Patience has run out: more steps would not be taken.
    assert "max_steps=" not in summary(tmp_path)


def test_without_results_the_summary_gives_the_reason(tmp_path: Path) -> None:
    assert summary(tmp_path, no_results="monitoring/tracking=off").endswith(
        "(monitoring/tracking=off)"
    )
    (tmp_path / "results.json").write_text("{}")  # of an earlier attempt
    assert summary(tmp_path, no_results="training did not begin").endswith(
        "(training did not begin)"
    )


def test_the_next_commands_name_a_folder_of_any_bytes(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"r\xffn '\xc3\xa9\n")
    root.mkdir()
    write(root)
    commands = summary(root).rpartition("Next\n")[2].splitlines()
    for command, prefix in zip(commands, ("", "resume="), strict=True):
        words = command.replace("python -m spectral_exp", "printf '%s\\0'", 1)
        shown = subprocess.run(["bash", "-c", words], capture_output=True, check=True).stdout
        expected = quote(str(root)) if prefix else str(root)
        assert os.fsencode(prefix + expected) in shown.split(b"\0")
