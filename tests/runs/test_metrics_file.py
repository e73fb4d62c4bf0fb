"""Metrics files read as columns, against `json` line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.json_value import NON_FINITE
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.metric_lines import metric_number, parse_entry
from spectral_exp.runs.metrics_file import MetricFile, parse_metrics, read_metrics


def by_json(content: bytes) -> tuple[dict[str, dict[int, float]], int]:
    """Values by metric and step, and the number of lines that are no entries; the slow and obvious
    way."""
    found: dict[str, dict[int, float]] = {}
    unreadable = 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if (
            not isinstance(entry, dict)
            or type(entry.get("step")) is not int
            or abs(entry["step"]) >= 2**53
        ):
            unreadable += 1
            continue
        for name, value in entry.items():
            number = NON_FINITE.get(value) if isinstance(value, str) else value
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if name not in ("step", "timestamp") and number is not None and is_number:
                found.setdefault(name, {})[entry["step"]] = float(number)
    return found, unreadable


def assert_equal(read: MetricFile, content: bytes) -> None:
    wanted, unreadable = by_json(content)
    assert read.unreadable + read.unfinished == unreadable
    assert set(read.series) == set(wanted)
    for name, values in wanted.items():
        steps = sorted(values)
        assert read.series[name].steps.tolist() == steps
        np.testing.assert_array_equal(read.series[name].values, [values[step] for step in steps])


def lines(*entries: dict[str, Any]) -> bytes:
    return "".join(
        json.dumps({"step": i, "timestamp": f"t{i}"} | e) + "\n" for i, e in enumerate(entries, 1)
    ).encode()


def test_lines_of_the_logger_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with MetricsLogger(tmp_path) as logger:
        for step in range(1, 400):
            metrics: dict[str, Any] = {
                "loss": float(rng.random()),
                "rate": 1e-5 * step,
                "count": step,
            }
            if step % 50 == 0:
                metrics |= {"val_loss": float(np.float32(rng.random())), 'odd "name" é': -1.5}
            if step == 100:
                metrics |= {"loss": math.nan, "rate": math.inf, "text": "hello"}
            logger.log_metrics(step, metrics)
    read = read_metrics(logger.metrics_file)
    assert list(read.series) == ["loss", "rate", "count", "val_loss", 'odd "name" é']
    assert_equal(read, logger.metrics_file.read_bytes())
    assert math.isnan(read.series["loss"].values[99])
    assert read.series["rate"].values[99] == math.inf
    assert read.last_step == 399


def test_nothing() -> None:
    assert parse_metrics(b"") == MetricFile()
    assert parse_metrics(b"\n\n") == MetricFile()


def test_an_unfinished_last_line_is_distinguished() -> None:
    content = lines({"loss": 1.0}, {"loss": 2.0})
    read = parse_metrics(content + b'{"step": 3, "timestamp": "t", "lo')
    assert (read.unfinished, read.unreadable, read.last_step) == (True, 0, 2)
    # A whole line that only lacks its newline counts.
    read = parse_metrics(content[:-1])
    assert (read.unfinished, read.unreadable, read.last_step) == (False, 0, 2)
    assert read.series["loss"].values.tolist() == [1.0, 2.0]


def test_of_a_step_logged_twice_the_later_line_counts() -> None:
    content = lines({"loss": 1.0}, {"loss": 2.0, "val": 9.0}, {"loss": 3.0}) + lines(
        {}, {"loss": 20.0}
    )
    read = parse_metrics(content)
    assert read.series["loss"].steps.tolist() == [1, 2, 3]
    assert read.series["loss"].values.tolist() == [1.0, 20.0, 3.0]
    assert read.series["val"].values.tolist() == [9.0]


def test_layouts_that_only_look_alike() -> None:
    """As many quotes, but other names, orders, spaces, types, or a key twice."""
    content = lines({"loss": 1.5}, {"lost": 2.5}, {"loss": 3.5}) + b"".join(
        text + b"\n"
        for text in (
            b'{"step": 4, "loss": 4.5, "timestamp": "t"}',
            b'{"step":5,"timestamp":"t","loss":5.5}',
            b'{"timestamp": "t", "step": 6, "loss": 6.5}',
            b'{"step": 7, "timestamp": 7, "loss": "NaN"}',
            b'{"step": 8, "timestamp": "t", "loss": null}',
            b'{"step": 9, "timestamp": "t", "loss": [1, 2]}',
            b'{"step": 10.0, "timestamp": "t", "loss": 1.0}',
            b'{"step": 1, "step": 11, "timestamp": "t"}',
            b'{"step": true, "timestamp": "t", "loss": 1.0}',
            b'{"step": 12, "timestamp": "t", "loss": 1.0}}',
            b'{"step": 13, "timestamp": "t", "loss": 01.0}',
            b'{"step": 14, "timestamp": "a\\"b", "loss": 14.5}',
            b'{"step": 15, "timestamp": "t", "loss": {"a": 1}}',
            b'{"step": 16, "timestamp": "\x00", "loss": 1.0}',
            b'{"step": 17, "timestamp": "2026-01-01T00:00\x1f", "loss": 1.0}',
            b'{"step": 18, "timestamp": "2026-01-01\\x", "loss": 1.0}',
            b'{"step": 19, "timestamp": "2026-01-01\xff", "loss": 1.0}',
            b'{"step": 20, "timestamp": "2026 \xc3\xa9 \x7f", "loss": 1.0}',
            b'[1, 2, "a", "b", "c"]',
            b"\xff\xfe garbage",
        )
    )
    assert_equal(parse_metrics(content), content)


_VALUES = (
    st.floats() | st.integers(-(10**20), 10**20) | st.none() | st.booleans() | st.text(max_size=3)
)
_ENTRIES = st.dictionaries(
    st.sampled_from(["loss", "val_loss", "a", 'q"', "step", "timestamp"]), _VALUES, max_size=5
)


@settings(max_examples=60)
@given(st.lists(_ENTRIES, max_size=12), st.data())
def test_any_entries_with_any_damage(entries: list[dict[str, Any]], data: st.DataObject) -> None:
    content = bytearray(lines(*_jsonable(entries)))
    for _ in range(data.draw(st.integers(0, 2)) if content else 0):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert_equal(parse_metrics(bytes(content)), bytes(content))


def _jsonable(entries: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for entry in entries:
        yield {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }


def test_many_lines_of_a_broken_run() -> None:
    """More layouts than are tried, and every line with a number that is none."""
    entries = [
        {f"name_{i % 70}": float(i), "loss": "NaN" if i % 2 else float(i)} for i in range(500)
    ]
    content = lines(*entries)
    assert_equal(parse_metrics(content), content)


def test_lines_that_orjson_refuses_are_read_by_json() -> None:
    content = b"".join(
        b'{"step": %d, %s}\n' % (step, rest)
        for step, rest in enumerate(
            (
                b'"a": NaN, "b": Infinity, "c": -Infinity',
                b'"a": 1e999, "b": -1e999',
                b'"a": -' + b"9" * 400 + b', "b": 18446744073709551617',
                b'"a": 1, "text": "\\ud800"',
                b'"\\udc00": 1.5',
                b'"a": 2, "a": 3',
                b'"a": -0, "b": -0.0',
                b'"a": "NaN", "b": "Infinity", "c": "infinity"',
                b'"a": 0.1, "b": {"c": NaN}',
                b'"a": 2.2250738585072011e-308, "b": 4.9e-324, "c": 9007199254740993',
            )
        )
    )
    content += (
        b'\xef\xbb\xbf{"step": 90, "a": 1}\n{"step": 18446744073709551616, "a": 1}\n\x0b{"step":'
        b" 91}\n"
    )
    read = parse_metrics(content)
    found: dict[str, dict[int, str]] = {}
    unreadable = 0
    for line in content.splitlines():
        entry = parse_entry(line)
        unreadable += entry is None
        for name, value in (entry or {}).items():
            if name != "step" and (number := metric_number(value)) is not None:
                found.setdefault(name, {})[(entry or {})["step"]] = repr(number)
    assert read.unreadable == unreadable == 2
    assert {
        name: dict(zip(map(int, series.steps), map(repr, series.values.tolist()), strict=True))
        for name, series in read.series.items()
    } == found
