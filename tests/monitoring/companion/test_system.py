"""System metrics: what is measured, how the file stays bounded, and how it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from spectral_exp.core.errors import SettingError
from spectral_exp.monitoring import MetricsLogger, SystemMetrics
from spectral_exp.monitoring.companion import sampler as sampler_module
from spectral_exp.monitoring.companion.gpus import Gpus
from spectral_exp.monitoring.companion.sampler import ProcessTree, SystemSampler
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_names import SYSTEM_PREFIXES, metric_info
from spectral_exp.runs.system_metrics import read_system_metrics
from tests.conftest import python


def sample(sampler: SystemSampler, times: int) -> None:
    """Take samples, each at a later time."""
    for _ in range(times):
        sampler._next_s = 0.0
        sampler.sample_if_due()


def test_lines_hold_the_machine_the_run_and_the_last_step(tmp_path: Path) -> None:
    MetricsLogger(tmp_path / "logs", 1).log_metrics(7, {"loss": 1.0})
    sampler = SystemSampler(tmp_path, os.getppid(), 10, 1)
    sampler.sample_if_due()
    assert not RunPaths(tmp_path).system_file.exists(), "it is not due"
    sample(sampler, 2)
    sampler.close()
    lines = [json.loads(line) for line in RunPaths(tmp_path).system_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 7]
    names = set(lines[0]) - {"step", "timestamp"}
    assert names >= {
        "system/cpu_percent",
        "system/memory_percent",
        "system/disk_free_mb",
        "system/run_cpu_percent",
        "system/run_memory_mb",
    }
    assert all(name.startswith(SYSTEM_PREFIXES) for name in names)
    assert all(metric_info(name).measures_machine for name in names)
    series = read_system_metrics(tmp_path)
    assert set(series) == names
    assert len(series["system/cpu_percent"].values) == 2
    assert 0 < series["system/memory_percent"].values[0] <= 100


FAMILY = """
import json, subprocess, sys
import psutil

def start(code):
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)

child = start("held = bytearray(90_000_000); print(flush=True); input()")
child.stdout.readline()
companion = start(
    "import os, json; from spectral_exp.monitoring.companion.sampler import ProcessTree;"
    "held = bytearray(400_000_000); print(json.dumps(ProcessTree(os.getppid()).read()))"
)
measured = json.loads(companion.communicate()[0])
child.communicate("x")
print(json.dumps([psutil.Process().memory_info().rss / 1e6, measured["system/run_memory_mb"]]))
"""


def test_the_tree_of_processes_counts_children_but_not_the_one_that_measures(
    tmp_path: Path,
) -> None:
    """In a process of its own: that of the tests may have other children."""
    done = python("-c", FAMILY, cwd=tmp_path)
    own_mb, memory_mb = json.loads(done.stdout)
    assert own_mb + 80 < memory_mb < own_mb + 400


def test_a_process_that_is_gone_has_no_readings() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert ProcessTree(process.pid).read() == {}


def test_the_file_stays_bounded_and_new_lines_stay_dense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module.Machine, "read", lambda self: {"system/load_1_min": 1.0})
    monkeypatch.setattr(sampler_module.ProcessTree, "read", lambda self: {})
    step = iter(range(10_000))
    monkeypatch.setattr(SystemSampler, "_step", lambda self: next(step))
    sampler = SystemSampler(tmp_path, os.getpid(), 10, 0.01)
    sample(sampler, 500)
    sampler.close()
    file = RunPaths(tmp_path).system_file
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert 5_000 < file.stat().st_size <= 10_000
    assert steps[0] == 0
    assert steps[-2:] == [498, 499]
    gaps = [after - before for before, after in pairwise(steps)]
    assert gaps == sorted(gaps, reverse=True), "the older, the rarer"


def test_a_full_disk_keeps_one_line_waiting_at_most(tmp_path: Path) -> None:
    file = RunPaths(tmp_path).system_file
    file.mkdir(parents=True)  # a write fails, as on a full disk
    sampler = SystemSampler(tmp_path, os.getpid(), 10, 1)
    sample(sampler, 3)
    assert len(sampler._lines._lines) == 1
    file.rmdir()
    sample(sampler, 2)
    sampler.close()
    assert len(file.read_text().splitlines()) == 2


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    file = RunPaths(tmp_path).system_file
    file.parent.mkdir()
    assert read_system_metrics(tmp_path) == {}
    good = '{"step": 1, "timestamp": "2026-01-01T0%d:00:00+00:00", "system/x": %s, "other": 1}\n'
    file.write_text(
        good % (1, 5) + "no JSON\n" + '{"step": 1, "timestamp": "never", "system/x": 1}\n'
        + good % (3, '"NaN"') + good % (0, 4) + '{"step": 1'
    )  # fmt: skip
    (series,) = read_system_metrics(tmp_path).values()
    assert (list(series.hours), list(series.values)) == ([0.0, 1.0], [4.0, 5.0])


@pytest.mark.parametrize("setting", [{"interval_s": 0.1}, {"interval_s": 1e9}, {"max_mb": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(setting))):
        SystemMetrics(**setting)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_gpus_report_their_state() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    readings = Gpus().read()
    if not readings:
        pytest.skip("there is no NVIDIA GPU")
    assert {name.rpartition("/")[2] for name in readings} >= {"utilization_percent", "memory_mb"}
