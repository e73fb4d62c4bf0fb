"""The index makes a repeated call fast, and is never believed against the files."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from pathlib import Path

import pytest

from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs import index, load, metrics_summary
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metrics_file import read_metrics
from tests.conftest import python
from tests.results.made_runs import make_run, rest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an index of the test's own."""
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The metrics files that are read."""
    read: list[Path] = []

    def noted(path: Path) -> object:
        read.append(path)
        return read_metrics(path)

    monkeypatch.setattr(metrics_summary, "read_metrics", noted)
    return read


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index take the files of a test as rested at once, though their inodes have just
    changed."""
    monkeypatch.setattr(index, "_MIN_AGE_NS", -(10**12))


def values(folder: Path) -> dict[str, float | None]:
    return {run.run_id: run.value("val_bpb") for run in ResultsAggregator([folder]).runs}


def test_a_repeated_call_reads_nothing(
    tmp_path: Path, cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    runs = tmp_path / "runs"
    for seed in range(1, 4):
        make_run(runs, seed=seed, status=None if seed == 2 else "diverged")
    first = ResultsAggregator([runs]).runs
    assert len(reads) == 3
    second = ResultsAggregator([runs]).runs
    assert len(reads) == 3
    assert first == second
    for one, other in zip(first, second, strict=True):
        assert one.metrics == other.metrics
        assert one.series("loss").values.tolist() == other.series("loss").values.tolist()
    assert {path.name for path in cache.iterdir()} == {index.INDEX_NAME}
    ResultsAggregator([runs], index=False)
    assert len(reads) == 6


def test_recently_changed_files_are_read_again(
    tmp_path: Path, cache: Path, reads: list[Path]
) -> None:
    make_run(tmp_path / "runs")
    for _ in range(2):
        values(tmp_path / "runs")
    assert len(reads) == 2


@pytest.mark.parametrize(
    "how", ["same size", "same size and time", "another file", "longer", "gone", "results"]
)
def test_no_change_is_missed(
    tmp_path: Path, cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    quiet(monkeypatch)
    path = make_run(tmp_path / "runs", status=None, val_bpb=2.5)
    rest(path)
    (before,) = values(tmp_path / "runs").values()
    assert before == 2.5
    paths = RunPaths(path)
    content = paths.metrics_file.read_bytes()
    changed = content.replace(b'"val_bpb": 2.5,', b'"val_bpb": 1.5,')
    assert len(changed) == len(content)
    assert changed != content
    time_ns = paths.metrics_file.stat().st_mtime_ns
    wanted: float | None = 1.5
    if how == "another file":
        other = path / "other"
        other.write_bytes(changed)
        os.utime(other, ns=(time_ns, time_ns))
        other.replace(paths.metrics_file)
    elif how == "longer":
        paths.metrics_file.write_bytes(
            content + b'{"step": 101, "timestamp": "t", "val_bpb": 1.5}\n'
        )
    elif how == "gone":
        paths.metrics_file.unlink()
        wanted = None
    elif how == "results":
        final = {"status": "completed", "final_metrics": {"val_bpb": 1.5}}
        paths.results_file.write_text(json.dumps(final))
    else:
        paths.metrics_file.write_bytes(changed)
        if how == "same size and time":
            os.utime(paths.metrics_file, ns=(time_ns, time_ns))
    (after,) = values(tmp_path / "runs").values()
    assert after == wanted
    # And what was read anew is kept in turn.
    (again,) = values(tmp_path / "runs").values()
    assert again == wanted


def test_other_code_does_not_believe_its_entries(
    tmp_path: Path, cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    make_run(tmp_path / "runs")
    values(tmp_path / "runs")
    monkeypatch.setattr(index, "_FORMAT", 0)
    values(tmp_path / "runs")
    assert len(reads) == 2


def test_a_failure_of_reading_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    run = make_run(tmp_path / "runs", val_bpb=2.5)
    with monkeypatch.context() as patch:
        patch.delattr(load, "summarize_metrics")  # stands for a fault of this package
        (facts,) = index.facts_of([run], index.index_file())
    assert facts["unusable"].startswith("reading it failed: NameError")
    assert list(values(tmp_path / "runs").values()) == [2.5]


@pytest.mark.parametrize("damage", ["garbage", "torn", "flipped", "empty", "other table"])
def test_a_damaged_index_costs_time_alone(
    tmp_path: Path, cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    quiet(monkeypatch)
    for seed in range(1, 4):
        make_run(tmp_path / "runs", seed=seed, val_bpb=2.0 + seed)
    wanted = values(tmp_path / "runs")
    file = cache / index.INDEX_NAME
    content = bytearray(file.read_bytes())
    if damage == "garbage":
        file.write_bytes(b"not a database at all " * 100)
    elif damage == "torn":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other table":
        file.unlink()
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE facts (path, stamp, crc32, facts, written)")
            connection.execute("INSERT INTO facts VALUES (1, 2, 3, 4, 5)")
        connection.close()
    else:
        place = content.index(b'"val_bpb"')
        content[place + 14] ^= 1
        file.write_bytes(content)
    assert values(tmp_path / "runs") == wanted
    assert values(tmp_path / "runs") == wanted
    assert len(reads) >= 4


def test_an_index_that_cannot_be_written_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quiet(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(tmp_path / "file" / "cache"))
    make_run(tmp_path / "runs")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert len(values(tmp_path / "runs")) == 1
    (record,) = caplog.records
    assert "cannot be written" in record.message


def test_a_locked_index_is_not_waited_for_long(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quiet(monkeypatch)
    monkeypatch.setattr(index, "_LOCK_TIMEOUT_S", 0.01)
    make_run(tmp_path / "runs")
    cache.mkdir()
    connection = sqlite3.connect(cache / index.INDEX_NAME)
    connection.execute("BEGIN EXCLUSIVE")
    assert len(values(tmp_path / "runs")) == 1
    connection.close()
    assert "database is locked" in caplog.text


def test_processes_share_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    quiet(monkeypatch)
    runs = tmp_path / "runs"
    for seed in range(1, 4):
        make_run(runs, seed=seed)
    code = (
        "import sys; from spectral_exp.runs import index; index._MIN_AGE_NS = -10**12\nfrom"
        " spectral_exp.results.aggregate import ResultsAggregator; ResultsAggregator([sys.argv[1]])"
    )
    done = python("-c", code, str(runs), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(values(runs)) == 3
    assert reads == []
