"""Reading the end of a metrics file, cutting it back, and summaries in little memory."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.monitoring import MetricsLogger
from spectral_exp.monitoring.metric_summary import Summary
from spectral_exp.runs.metric_lines import last_entry


def line(step: int, padding: int = 0) -> bytes:
    return b'{"step": %d, "text": "%s"}\n' % (step, b"x" * padding)


@pytest.mark.parametrize("padding", [0, 1, 65_000, 65_536, 200_000])
@pytest.mark.parametrize(
    "end",
    [b"", b'{"step": 9, "lo', b"\x00" * 100_000, b"garbage\n\n", b"{" * 70_000 + b"\n"],
    ids=["nothing", "unfinished", "zeros", "garbage", "braces"],
)
def test_the_latest_step_is_that_of_the_last_whole_line(
    tmp_path: Path, padding: int, end: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        line(1) + line(70) + line(50, padding) + end
    )  # after a resume, steps are repeated
    assert MetricsLogger(tmp_path).get_latest_step() == 50
    path.write_bytes(end)
    assert MetricsLogger(tmp_path).get_latest_step() == 0
    path.write_bytes(line(1) + line(50, padding).rstrip(b"\n"))
    assert MetricsLogger(tmp_path).get_latest_step() == 50


@settings(max_examples=40)
@given(st.lists(st.one_of(st.integers(0, 200_000), st.just(-1)), max_size=6), st.integers(1, 40))
def test_lines_of_any_size_are_found_from_the_end(sizes: list[int], cut: int) -> None:
    lines = [b"no entry\n" if size < 0 else line(step, size) for step, size in enumerate(sizes)]
    content = b"".join(lines)[: -cut if sizes else None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(content)
        expected = [entry["step"] for entry in MetricsLogger(folder).load_metrics()]
        found = last_entry(path)
        assert (None if found is None else found["step"]) == (expected[-1] if expected else None)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9), st.integers(0, 400), st.booleans()
)
def test_cutting_back_moves_each_line_once_however_often_it_is_tried(
    steps: list[int], last: int, already: int, torn: bool
) -> None:
    lines = [b'{"step": %d, "line": %d}\n' % (step, number) for number, step in enumerate(steps)]
    kept = [text for text, step in zip(lines, steps, strict=True) if step <= last]
    cut = (
        b"".join(text for text, step in zip(lines, steps, strict=True) if step > last)
        + b"torn\n" * torn
    )
    with tempfile.TemporaryDirectory() as folder:
        logger = MetricsLogger(folder)
        logger.metrics_file.write_bytes(b"".join(lines) + b"torn" * torn)
        logger.cut_file.write_bytes(
            b"earlier\n" + cut[:already]
        )  # an attempt that was killed while it wrote
        entries = []
        assert (
            logger.cut_back(last, lambda entry: entries.append(entry["line"]))
            == len(steps) - len(kept) + torn
        )
        assert logger.metrics_file.read_bytes() == b"".join(kept)
        assert logger.cut_file.read_bytes() == b"earlier\n" + cut
        assert entries == [number for number, step in enumerate(steps) if step <= last]


def test_a_temporary_file_of_a_killed_attempt_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".metrics.jsonl.12-ab.tmp").touch()
    MetricsLogger(tmp_path).cut_back(0)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(), max_size=30), st.integers(1, 4))
def test_a_summary_in_parts_is_exact(values: list[float], chunk: int) -> None:
    summary = Summary()
    for value in values:
        summary.add(value)
        if len(values) % chunk == 0:
            summary.result()
    found = summary.result()
    finite = [value for value in values if math.isfinite(value)]
    assert (found["count"], found["non_finite"]) == (len(values), len(values) - len(finite))
    if not finite:
        assert math.isnan(found["mean"])
        return
    assert (found["min"], found["max"], found["final"]) == (min(finite), max(finite), finite[-1])
    scaled = math.fsum(value / 2**64 for value in finite) / len(finite) * 2**64
    assert found["mean"] == pytest.approx(scaled, rel=1e-12, abs=sys.float_info.min * 2**70)


def test_a_summary_of_numbers_beyond_every_float(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    for step, value in enumerate([10**400, 1e308, 1e308, 2.0], 1):
        logger.log_metrics(step, {"loss": value})
    found = logger.get_metrics_summary()["loss"]
    assert (found["max"], found["non_finite"], found["count"]) == (1e308, 1, 4)
    assert found["mean"] == pytest.approx(2e308 / 3 if math.isfinite(2e308) else 1e308 / 3 * 2)
