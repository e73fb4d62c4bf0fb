from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.timestamps import seconds_since_epoch, timestamp
from spectral_exp.monitoring.metrics import MetricsLogger
from tests.conftest import NO_PLOTS, TINY, train

pytestmark = pytest.mark.skipif(not hasattr(time, "tzset"), reason="the tests change the time zone")

WITH_OFFSET = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d")
ZONES = ("UTC0", "IST-5:30", "NST+3:30", "<+1345>-13:45")


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_a_timestamp_names_a_moment_in_every_zone(zone: str) -> None:
    before_s = int(time.time())
    text = timestamp()
    assert WITH_OFFSET.fullmatch(text)
    assert before_s <= seconds_since_epoch(text) <= time.time()


def test_metrics_lines_name_their_moment_in_every_zone(zone: str, tmp_path: Path) -> None:
    from spectral_exp.monitoring import metrics

    metrics._second.cache_clear()
    before_s = time.time()
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(1, {"loss": 1.0})
    (entry,) = logger.load_metrics()
    metrics._second.cache_clear()
    assert WITH_OFFSET.fullmatch(entry["timestamp"])
    assert before_s - 0.001 <= seconds_since_epoch(entry["timestamp"]) <= time.time()


@given(st.datetimes(datetime(1971, 1, 2), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_moments_are_read_with_and_without_an_offset(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert seconds_since_epoch(aware.isoformat()) == aware.timestamp()
    assert seconds_since_epoch(moment.isoformat()) == moment.timestamp()


@pytest.mark.parametrize(
    "damaged", [None, "", "yesterday", 7, {}, "9999-99-99T00:00:00", "2026-01-01T00:00:00+99:00"]
)
def test_damaged_timestamps_are_nan(damaged: object) -> None:
    assert math.isnan(seconds_since_epoch(damaged))


def moments(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All strings below `node` that look like a date and time, with the name of their entry."""
    if isinstance(node, dict):
        for key, item in node.items():
            yield from moments(item, key)
    elif isinstance(node, list):
        for item in node:
            yield from moments(item, name)
    elif isinstance(node, str) and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", node):
        yield name, node


@pytest.mark.slow
def test_every_moment_in_the_files_of_a_run_has_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backup = tmp_path / "backup"
    backup.mkdir()
    monkeypatch.setenv("TZ", "IST-5:30")
    done = train(
        "+experiment=wave",
        *TINY,
        NO_PLOTS,
        f"backup_url=file://{backup}",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, str]] = []
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")]:
        for line in (
            path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        ):
            found += moments(json.loads(line))
    found += moments(
        torch.load(tmp_path / "run/checkpoints/checkpoint_latest.pt", weights_only=True)
    )
    assert len(found) > 10
    assert [(name, text) for name, text in found if not text.endswith("+05:30")] == []
    first = (tmp_path / "run/train.log").read_text().partition("]")[0]
    assert WITH_OFFSET.fullmatch(first.removeprefix("["))
