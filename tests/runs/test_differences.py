from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.runs.differences import are_equal, code_differences, list_differences
from spectral_exp.runs.overrides import (
    changed_settings,
    is_among,
    matters_for_logs,
    matters_for_steps,
    setting_of,
)
from spectral_exp.runs.training_record import read_record


def attempt(from_step: int, *overrides: str) -> dict[str, Any]:
    return {"from_step": from_step, "overrides": list(overrides)}


def test_attempts_that_left_nothing_are_passed_over(tmp_path: Path) -> None:
    attempts = [attempt(0, "seed=1"), attempt(0, "seed=2"), attempt(4, "seed=2")]
    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"training": {}}, "attempts": attempts})
    )
    assert read_record(tmp_path)["attempts"] == attempts[1:]


def test_only_runs_of_the_training_command_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"config": {"lr": 0.1}}))
    with pytest.raises(UserError, match="was not made by python -m"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("a.b=1", "a.b"),
        ("+model/size@x=tiny", "model/size"),
        ("~loss", "loss"),
        ("++seed=a=b", "seed"),
    ],
)
def test_the_setting_of_an_override(override: str, setting: str) -> None:
    assert setting_of(override) == setting


def test_names_cover_only_the_settings_below_them() -> None:
    assert is_among("monitoring/checkpoint", ["monitoring"])
    assert is_among("training.patience", ["training.patience"])
    assert not is_among("training.patience_s", ["training.patience"])
    assert not is_among("training", ["training.patience"])


@pytest.mark.parametrize(
    ("setting", "logs", "steps"),
    [
        ("seed", True, True),
        ("training", True, True),
        ("training.max_steps", True, True),
        ("threads", True, True),
        ("training.eval_interval", True, False),
        ("monitoring.metrics.log_interval", True, False),
        ("monitoring.checkpoint.keep_last_n", False, False),
        ("monitoring/checkpoint", False, False),
        ("hydra.run.dir", False, False),
    ],
)
def test_settings_matter_for_logs_or_steps(setting: str, logs: bool, steps: bool) -> None:
    assert (matters_for_logs(setting), matters_for_steps(setting)) == (logs, steps)


def test_changes_between_attempts() -> None:
    attempts = [
        attempt(0, "seed=1", "seed=2", "threads=1"),
        attempt(4, "seed=2", "threads=1", "monitoring/tracking=off"),
        attempt(8, "seed=2", "training.max_steps=9"),
    ]
    assert changed_settings(attempts) == [
        (8, "threads=1 -> default, default -> training.max_steps=9")
    ]


def test_nan_equals_nan_and_absent_equals_nothing() -> None:
    assert are_equal(math.nan, math.nan)
    assert not are_equal(math.nan, 0.0)
    assert list_differences({"a": None, "b": 1}, {"b": 1}) == ["a: None -> absent"]


def test_code_with_other_changes_is_other_code() -> None:
    git = {"hash": "1", "dirty": True}
    assert code_differences(git, b"x", git, b"x") == []
    assert code_differences(git, b"", git, b"") == []
    (line,) = code_differences(git, b"", git, b"x")
    assert line.startswith("uncommitted changes: none -> patch with CRC-32 ")
    assert code_differences(git, b"", {"hash": None}, b"") == ["commit: 1 -> None"]
