"""Slow steps are a finding of a run, with the cause that its system metrics show."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from spectral_exp.monitoring import ConfigTracker, MetricsLogger
from spectral_exp.results.checks import run_flags
from spectral_exp.runs.load import load_run
from tests.results.fakes import fake_run, said

USUAL = {"system/cpu_percent": 50.0, "system/run_cpu_percent": 190.0,
         "system/memory_available_mb": 4000.0, "gpu/0/temperature_c": 60.0}  # fmt: skip


@pytest.mark.parametrize(
    ("then", "cause"),
    [
        ({}, ""),
        ({"system/cpu_percent": 60.0, "system/run_cpu_percent": 200.0}, ""),  # the run itself
        ({"system/cpu_percent": 100.0, "system/run_cpu_percent": 100.0},
         ": other processes used 3.0 processors, and usually 0.1"),
        ({"system/memory_available_mb": 200.0}, ": only 200 MB of memory were available"),
        ({"gpu/0/temperature_c": 91.0},
         ": the GPU had 91 °C, at which it may have been slowed down"),
    ],
)  # fmt: skip
def test_the_cause_is_what_was_measured_meanwhile(
    then: dict[str, float], cause: str, tmp_path: Path
) -> None:
    lines = [{"step": step, **USUAL} for step in (10, 20, 30, 50)] + [{"step": 40, **USUAL, **then}]
    (tmp_path / "logs").mkdir()
    text = "".join(
        json.dumps({"timestamp": "2026-01-01T00:00:00+00:00", **x}) + "\n" for x in lines
    )
    (tmp_path / "logs/system.jsonl").write_text(text + "torn {")
    run = fake_run(
        curves={"slowdown": {30: 3.5, 50: 7.25}},
        record={"hardware.cpu_count": 4, "hardware.memory_gb": 16.0},
    )
    run = dataclasses.replace(run, path=tmp_path)
    assert said(run_flags(run)) == [f"steps up to step 50 took 7.2 times as long as usual{cause}"]


def test_no_cause_is_named_without_system_metrics(tmp_path: Path) -> None:
    ConfigTracker(tmp_path).save_config({})
    with MetricsLogger(tmp_path / "logs") as metrics:
        for step in range(10, 60, 10):
            metrics.log_metrics(step, {"loss": 1.0, **({"slowdown": 4.0} if step == 40 else {})})
    (found,) = [one for one in run_flags(load_run(tmp_path)) if one.kind == "slow steps"]
    assert str(found) == "steps up to step 40 took 4.0 times as long as usual"
    assert found.severity == "info"
