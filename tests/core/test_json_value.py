"""Whatever somebody logs or configures becomes standard JSON."""

from __future__ import annotations

import json
import math
import tempfile
from collections import OrderedDict, namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError
from spectral_exp.core.json_value import CIRCULAR, TOO_DEEP, jsonable
from spectral_exp.monitoring import ConfigTracker, MetricsLogger
from spectral_exp.runs.metrics_file import read_metrics


class Colour(Enum):
    RED = 1


class Size(str, Enum):
    LARGE = "large"


class Level(IntEnum):
    HIGH = 3


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Growing:
    """Something whose content is always something of the same kind."""

    def tolist(self) -> list[Growing]:
        return [Growing()]


Pair = namedtuple("Pair", "a b")

CASES: list[tuple[Any, Any]] = [
    (np.longdouble(1.5), 1.5),
    (np.longdouble("1e4000"), "Infinity"),
    (np.array([1.5, 2.5], dtype=np.longdouble), [1.5, 2.5]),
    (np.float16(0.5), 0.5),
    (np.int8(3), 3),
    (np.bool_(True), True),
    (np.str_("text"), "text"),
    (np.float64("nan"), "NaN"),
    (np.datetime64("2020-01-02T03:04:05.000000001"), "2020-01-02T03:04:05.000000001"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True), 1.5),
    (torch.tensor([1, 2]), [1, 2]),
    (torch.float32, "torch.float32"),
    (Decimal("0.1"), "0.1"),
    (Fraction(1, 3), "1/3"),
    (1 + 2j, "(1+2j)"),
    (b"bytes", "b'bytes'"),
    (date(2020, 1, 2), "2020-01-02"),
    (datetime(2020, 1, 2, 3, tzinfo=timezone.utc), "2020-01-02T03:00:00+00:00"),
    (timedelta(seconds=1), "0:00:01"),
    (PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, "Colour.RED"),
    (Size.LARGE, "large"),
    (Level.HIGH, 3),
    (Pair(1, [2]), [1, [2]]),
    (OrderedDict(a=(1, 2)), {"a": [1, 2]}),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset("ab"), ["a", "b"]),
    (range(3), [0, 1, 2]),
    ({1: "number", "1": "text", None: 0}, {"1": "text", "1 (int)": "number", "None": 0}),
    (
        {True: 1, "True": 2, "True (bool)": 3},
        {"True": 2, "True (bool)": 3, "True (bool) (bool)": 1},
    ),
    ({Unprintable(): Unprintable()}, {"<Unprintable>": "<Unprintable>"}),
    ([math.nan, math.inf, -math.inf], ["NaN", "Infinity", "-Infinity"]),
    (10**5000, hex(10**5000)),
    (-(10**4000), -(10**4000)),
]


@pytest.mark.parametrize(
    ("value", "expected"), CASES, ids=[str(number) for number in range(len(CASES))]
)
def test_values_of_all_kinds(value: Any, expected: Any) -> None:
    found = jsonable(value)
    assert (type(found), found) == (type(expected), expected)
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_circles_and_depth_end() -> None:
    circle: dict[str, Any] = {"x": 1}
    circle["again"] = [circle]
    assert jsonable(circle) == {"x": 1, "again": [CIRCULAR]}
    shared = [1]
    assert jsonable([shared, shared]) == [[1], [1]]
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, Growing()):
        text = json.dumps(jsonable(value))
        assert text.count("[") == 100
        assert TOO_DEEP in text
    while isinstance(deep, list):  # frees it level by level, which a destructor does not
        deep = deep[0]


ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(max_size=4),
        st.complex_numbers(),
        st.decimals(),
        st.fractions(),
        st.datetimes(),
        st.characters(categories=["Cs"]),
        st.integers(0, len(CASES) - 1).map(lambda number: CASES[number][0]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.none()),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def standard(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not standard JSON")

    return json.loads(text, parse_constant=refuse)


@settings(max_examples=15)
@given(ODD)
def test_any_value_can_be_logged_and_configured(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logger = MetricsLogger(folder)
        logger.log_metrics(1, {"odd": value, "loss": 1.5}, flush=False)
        logger.flush()
        [line] = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert standard(line)["loss"] == 1.5
        assert [entry["loss"] for entry in logger.load_metrics()] == [1.5]
        assert read_metrics(logger.metrics_file).series["loss"].values.tolist() == [1.5]
        assert len((Path(folder) / "training.log").read_text(encoding="utf-8").splitlines()) == 1
        path = ConfigTracker(folder).save_results({"odd": value})
        assert standard(path.read_text(encoding="utf-8"))["final_metrics"].keys() == {"odd"}


def test_a_configuration_of_odd_values_is_written_whole(tmp_path: Path) -> None:
    config = {str(number): value for number, (value, _) in enumerate(CASES)}
    path = ConfigTracker(tmp_path).save_config(config)
    expected = {str(number): expected for number, (_, expected) in enumerate(CASES)}
    # Fields keep their names, by which secrets are known.
    expected |= {name: value._asdict() for name, value in config.items() if isinstance(value, Pair)}
    assert standard(path.read_text(encoding="utf-8"))["config"] == expected


def test_exact_fractions_are_metrics(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(
        1, {"decimal": Decimal("0.5"), "fraction": Fraction(1, 4), "long": np.longdouble(0.75)}
    )
    [entry] = logger.load_metrics()
    assert (entry["decimal"], entry["fraction"], entry["long"]) == (0.5, 0.25, 0.75)


def test_names_that_are_no_strings_do_not_hide_each_other(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(1, {1: 1.0, "1": 2.0})  # type: ignore[dict-item]
    logger.log_metrics(2, {True: 4.0})  # type: ignore[dict-item]
    first, second = logger.load_metrics()
    assert (first["1"], first["1 (int)"], second["True"]) == (2.0, 1.0, 4.0)

    class Step:
        def __str__(self) -> str:
            return "step"

    with pytest.raises(SettingError, match="metrics"):
        logger.log_metrics(3, {Step(): 1.0})  # type: ignore[dict-item]
    assert logger.get_latest_step() == 2


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "\x1b[31mred", "\ud800", "\u2028"])
def test_an_entry_is_one_line_for_people_whatever_its_name(tmp_path: Path, name: str) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(1, {name: 1.0})
    logger.log_metrics(2, {name: "text\nof two lines"})
    lines = logger.training_log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("step", [10.0, np.int32(10), np.float32(10), torch.tensor(10)])
def test_whole_steps_of_any_type(tmp_path: Path, step: Any) -> None:
    logger = MetricsLogger(tmp_path, log_interval=10)
    assert logger.should_log(step)
    logger.log_metrics(step, {"loss": 1.0})
    [line] = logger.metrics_file.read_text().splitlines()
    assert line.startswith('{"step": 10, ')
    assert logger.get_latest_step() == 10


@pytest.mark.parametrize("step", [True, 10.5, math.nan, "10", None, -1])
def test_other_steps_are_refused_in_one_line(tmp_path: Path, step: Any) -> None:
    logger = MetricsLogger(tmp_path)
    with pytest.raises(SettingError, match="must be a whole number"):
        logger.log_metrics(step, {"loss": 1.0})
    assert not logger.metrics_file.exists()
