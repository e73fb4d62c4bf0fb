from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.differences import are_equal


def entries_of(logger: MetricsLogger) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in logger.load_metrics()]


def test_due_at_multiples_of_the_interval(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, log_interval=10)
    assert [step for step in range(31) if logger.should_log(step)] == [10, 20, 30]


@pytest.mark.parametrize("interval", [0, -1, 0.5, "often"])
def test_bad_interval_is_refused(tmp_path: Path, interval: Any) -> None:
    with pytest.raises(SettingError, match="log_interval"):
        MetricsLogger(tmp_path, interval)


def test_entry_is_one_json_line_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(10, {"loss": 1.5, "learning_rate": 0.001})
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert list(entry) == ["step", "timestamp", "loss", "learning_rate"]
    assert (entry["step"], entry["loss"], entry["learning_rate"]) == (10, 1.5, 0.001)
    assert "step 10" in (tmp_path / "training.log").read_text()
    assert "loss 1.5" in (tmp_path / "training.log").read_text()


def test_numbers_of_all_makes_are_accepted(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    metrics = {
        "python": 1,
        "numpy": np.float32(0.5),
        "numpy64": np.float64(0.25),
        "array": np.array([2.0]),
        "torch": torch.tensor(3.0, requires_grad=True),
        "several": torch.tensor([1.0, 2.0]),
        "text": "warm-up",
    }
    logger.log_metrics(np.int64(1), metrics)  # type: ignore[arg-type]
    [entry] = logger.load_metrics()
    del entry["timestamp"]
    assert entry == {
        "step": 1,
        "python": 1,
        "numpy": 0.5,
        "numpy64": 0.25,
        "array": 2.0,
        "torch": 3.0,
        "several": [1.0, 2.0],
        "text": "warm-up",
    }


@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_come_back_exactly_and_files_stay_standard(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder, MetricsLogger(folder) as logger:
        for step, value in enumerate(values, 1):
            logger.log_metrics(step, {"loss": value})
        loaded = [entry["loss"] for entry in logger.load_metrics()]
        assert [(math.isnan(a), a) if a == a else True for a in loaded] == [
            (math.isnan(b), b) if b == b else True for b in values
        ]
        assert "NaN," not in (Path(folder) / "metrics.jsonl").read_text().replace('"NaN"', "")


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.just(10**400), st.booleans(), st.floats().map(np.float64)
)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name not in {"step", "timestamp"}),
        NUMBERS,
        max_size=6,
    )
)
@example({"pin": 0.5, "password": math.nan, "is_pin": True, "beyond floats": 10**400})
@example({"100 %": 1.5, '"quoted" %s': 2, "large": 1e308, "larger": 1.5e308})
def test_any_mixture_of_numbers_and_names_comes_back(metrics: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, MetricsLogger(folder) as logger:
        logger.log_metrics(7, metrics)
        [entry] = logger.load_metrics()
        assert entry.pop("step") == 7
        datetime.fromisoformat(entry.pop("timestamp"))
        assert entry.keys() == metrics.keys()
        assert all(are_equal(entry[name], metrics[name]) for name in metrics)


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="step"):
        MetricsLogger(tmp_path).log_metrics(1, {"step": 3})


def test_unflushed_entries_wait_for_the_next_flush(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log_metrics(1, {"loss": 1.0}, flush=False)
        assert not logger.metrics_file.exists()
        logger.log_metrics(2, {"loss": 2.0})
        assert len(logger.metrics_file.read_bytes().splitlines()) == 2
        logger.log_metrics(3, {"loss": 3.0}, flush=False)
    assert entries_of(logger) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_disabled_logger_writes_nothing(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path / "logs", enabled=False) as logger:
        logger.log_metrics(10, {"loss": 1.0})
        logger.log_message("hello")
        assert not logger.should_log(10)
        assert logger.load_metrics() == []
        assert logger.cut_back(0) == 0
    assert list(tmp_path.iterdir()) == []


def test_messages_are_one_entry_each(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log_message("first\nmore")
        logger.log_message("second")
    first, more, second = logger.training_log.read_text().splitlines()
    assert first.endswith(" first")
    assert more == "    more"
    assert second.endswith(" second")


def test_second_logger_continues_the_file(tmp_path: Path) -> None:
    for step in (1, 2):
        with MetricsLogger(tmp_path) as logger:
            logger.log_metrics(step, {"loss": float(step)})
    assert entries_of(MetricsLogger(tmp_path)) == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("cut", range(1, 40))
def test_torn_last_line_is_passed_over_and_repaired(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLogger(tmp_path) as logger:
        for step in (1, 2):
            logger.log_metrics(step, {"loss": float(step)})
    content = logger.metrics_file.read_bytes()
    logger.metrics_file.write_bytes(content[:-cut])
    whole = (
        [(1, 1.0), (2, 2.0)] if cut == 1 else [(1, 1.0)]
    )  # a line that lacks only its newline is whole
    assert entries_of(MetricsLogger(tmp_path)) == whole
    with MetricsLogger(tmp_path) as logger:
        logger.log_metrics(3, {"loss": 3.0})
    caplog.clear()
    assert entries_of(MetricsLogger(tmp_path)) == [*whole, (3, 3.0)]
    assert not caplog.records


def test_garbage_in_the_middle_costs_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLogger(tmp_path) as logger:
        for step in (1, 2, 3):
            logger.log_metrics(step, {"loss": float(step)})
    lines = logger.metrics_file.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x00\xff" * 20 + b"\n"
    logger.metrics_file.write_bytes(b"".join(lines))
    assert entries_of(MetricsLogger(tmp_path)) == [(1, 1.0), (3, 3.0)]
    assert "1 unreadable line" in caplog.text


def test_cut_back_moves_later_entries_aside(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        for step in range(1, 6):
            logger.log_metrics(step, {"loss": float(step)})
        before = logger.metrics_file.read_bytes().splitlines(keepends=True)
        assert logger.cut_back(3) == 2
        assert logger.get_latest_step() == 3
        logger.log_metrics(4, {"loss": 40.0})
    assert entries_of(logger) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert (tmp_path / "metrics.cut.jsonl").read_bytes() == b"".join(before[3:])
    assert logger.metrics_file.read_bytes().startswith(b"".join(before[:3]))


def test_cut_back_of_nothing_changes_nothing(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    assert logger.cut_back(5) == 0
    logger.log_metrics(5, {"loss": 1.0})
    inode = logger.metrics_file.stat().st_ino
    assert logger.cut_back(5) == 0
    assert logger.metrics_file.stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "training.log"]


def test_latest_step(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    assert logger.get_latest_step() == 0
    reader = MetricsLogger(tmp_path)
    for step in (7, 9):
        logger.log_metrics(step, {"loss": 1.0})
        assert logger.get_latest_step() == reader.get_latest_step() == step


def test_summary_is_over_finite_values(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    for step, loss in enumerate([4.0, 1.0, math.nan, 3.0, math.inf], 1):
        logger.log_metrics(step, {"loss": loss, "phase": "train"})
    logger.log_metrics(6, {"val_loss": math.nan})
    summary = logger.get_metrics_summary()
    assert set(summary) == {"loss", "val_loss"}
    assert summary["loss"] == {
        "min": 1,
        "max": 4,
        "mean": 8 / 3,
        "final": 3,
        "count": 5,
        "non_finite": 2,
    }
    assert math.isnan(summary["val_loss"]["mean"])
    assert summary["val_loss"]["non_finite"] == 1


def test_empty_log_has_no_summary(tmp_path: Path) -> None:
    assert MetricsLogger(tmp_path / "none").get_metrics_summary() == {}


def test_an_unreadable_log_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot read"):
        MetricsLogger(tmp_path).load_metrics()


# --- real faults ----------------------------------------------------------------------------------


def test_a_deleted_log_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = tmp_path / "logs"
    logger = MetricsLogger(logs)
    logger.log_metrics(1, {"loss": 1.0})
    shutil.rmtree(logs)
    for step in (2, 3):
        logger.log_metrics(step, {"loss": 1.0})
    assert [entry["step"] for entry in MetricsLogger(logs).load_metrics()] == [2, 3]
    assert caplog.text.count("metrics.jsonl was deleted while it was written") == 1


ENDLESS = """
import sys
from spectral_exp.monitoring import MetricsLogger
logger = MetricsLogger(sys.argv[1])
step = 0
while True:
    step += 1
    logger.log_metrics(step, {"loss": 1.0 / step, "text": "x" * 50})
    print(step, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 50, 400])
def test_nothing_reported_is_lost_on_sigkill(tmp_path: Path, lines: int) -> None:
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = [line for line in process.stdout if line.endswith("\n")]
    logger = MetricsLogger(tmp_path)
    steps = [entry["step"] for entry in logger.load_metrics()]
    assert steps[: lines + len(rest)] == list(range(1, lines + len(rest) + 1))
    assert len(steps) <= lines + len(rest) + 1


FULL_DISK = """
import logging, resource, signal, sys
from spectral_exp.monitoring import MetricsLogger
logging.basicConfig(stream=sys.stderr)
logger = MetricsLogger(sys.argv[1])
logger.log_metrics(1, {"loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for step in range(2, 60):
    logger.log_metrics(step, {"loss": float(step)})
content = logger.metrics_file.read_bytes()
assert content.endswith(b"\\n") and len(content.splitlines()) < 59, content
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logger.log_metrics(60, {"loss": 60.0})
"""


@pytest.mark.parametrize("limit", [500, 531, 1000])
def test_entries_wait_for_a_full_disk(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert entries_of(MetricsLogger(tmp_path)) == [(step, float(step)) for step in range(1, 61)]
    assert len((tmp_path / "training.log").read_text().splitlines()) == 60
    assert done.stderr.count("cannot write") == 2  # once for each file
    assert done.stderr.count("is being written again") == 2


def test_missing_folder_costs_a_warning_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").touch()
    logger = MetricsLogger(tmp_path / "logs")
    with caplog.at_level(logging.WARNING):
        logger.log_metrics(1, {"loss": 1.0})
        logger.log_metrics(2, {"loss": 2.0})
    assert sum("cannot write" in message for message in caplog.messages) == 2
    (tmp_path / "logs").unlink()
    logger.log_metrics(3, {"loss": 3.0})
    assert entries_of(logger) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_forgotten_loggers_close_their_files(tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("counts open files in /proc")
    before = len(list(open_files.iterdir()))
    for number in range(20):
        MetricsLogger(tmp_path / str(number)).log_metrics(1, {"loss": 1.0})
    assert len(list(open_files.iterdir())) == before


@given(st.recursive(st.floats(allow_nan=False), lambda x: st.dictionaries(st.text("ab"), x)))
@example({"a": {"b": 1.0}, "c": {"b": {"a": 2.0}}})
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nested_metrics_get_joined_names(tmp_path: Path, value: Any) -> None:
    def leaves(value: Any, above: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            return {above: value}
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in leaves(inner, f"{above}/{key}").items()
        }

    expected = leaves(value, "m")
    with MetricsLogger(Path(tempfile.mkdtemp(dir=tmp_path))) as logger:
        logger.log_metrics(1, {"m": value})
        (entry,) = logger.load_metrics()
    del entry["step"], entry["timestamp"]
    assert entry == expected


def test_metrics_that_are_equal_once_joined_are_refused(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    with pytest.raises(SettingError, match="a/b"):
        logger.log_metrics(1, {"a/b": 1.0, "a": {"b": torch.tensor(2.0)}})
    inside: dict[str, Any] = {"x": 1.0}
    inside["self"] = inside
    logger.log_metrics(2, {"a": inside})
    assert logger.load_metrics()[0]["a/x"] == 1.0
