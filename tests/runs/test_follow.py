"""Following the metrics of a run gives the same entries as reading the whole file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs import follow as following
from spectral_exp.runs.follow import MetricsFollower, MetricsUpdate, follow
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.metric_lines import parse_entry, restore_entry

LONGEST = 1 << 12

RUN = """
import sys
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.lock import RunLock
with RunLock(sys.argv[1]), MetricsLogger(sys.argv[1] + "/logs") as logger:
    for step in range(int(sys.argv[2]), 400):
        logger.log_metrics(step, {"loss": 1 / step, "odd": float("nan")})
        if step == int(sys.argv[2]):
            print("begun", flush=True)
"""


class Reader:
    """Keeps the entries that a follower delivered and are not void."""

    def __init__(self, run: Path) -> None:
        self.follower = MetricsFollower(run)
        self.entries: list[dict[str, Any]] = []
        self.unreadable = 0

    def take(self, update: MetricsUpdate) -> None:
        if update.was_cut_back:
            self.entries, self.unreadable = [], 0
        self.entries += update.entries
        self.unreadable += update.unreadable

    def poll(self) -> MetricsUpdate:
        self.take(update := self.follower.poll())
        while update.is_behind:
            self.take(update := self.follower.poll())
        return update


def whole(content: bytes, *, is_over: bool) -> tuple[list[dict[str, Any]], int]:
    *lines, rest = content.split(b"\n")
    if is_over and parse_entry(rest) is not None:
        lines.append(rest)
    found = [parse_entry(line) if len(line) <= LONGEST else None for line in lines]
    entries = [restore_entry(entry) for entry in found if entry is not None]
    return entries, sum(map(bool, map(bytes.strip, lines))) - len(entries)


def make_run(root: Path) -> Path:
    RunPaths(root).logs.mkdir(parents=True)
    return RunPaths(root).metrics_file


_LINES = st.integers(0, 3).map(lambda step: b'{"step": %d, "loss": "NaN"}\n' % step)
_PIECES = st.one_of(_LINES, st.sampled_from([b'{"st', b'ep": 1}', b"\n", b"[1]\n", b"{}\n"]))
_MOVES = st.one_of(
    st.tuples(st.just("append"), _PIECES),
    st.tuples(st.just("cut"), st.integers(0, 80)),
    st.tuples(st.just("replace"), st.lists(_PIECES, max_size=5).map(b"".join)),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("poll"), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_MOVES, max_size=25))
def test_any_writes_and_cuts_give_the_same_as_the_whole_file(moves: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = make_run(Path(folder))
        reader = Reader(Path(folder))
        with RunLock(folder):
            for move, argument in moves:
                if move == "append":
                    with file.open("ab") as opened:
                        opened.write(argument)
                elif move == "cut" and file.exists():
                    os.truncate(file, max(0, file.stat().st_size - argument))
                elif move == "replace":
                    file.with_name("new").write_bytes(argument)
                    file.with_name("new").replace(file)
                elif move == "remove":
                    file.unlink(missing_ok=True)
                else:
                    assert not reader.poll().is_over
                    content = file.read_bytes() if file.exists() else b""
                    expected = whole(content, is_over=False)
                    assert repr((reader.entries, reader.unreadable)) == repr(expected)
        assert reader.poll().is_over
        content = file.read_bytes() if file.exists() else b""
        assert repr((reader.entries, reader.unreadable)) == repr(whole(content, is_over=True))


def test_large_files_and_long_lines_come_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_BLOCK", 1 << 14)
    monkeypatch.setattr(following, "_COMPARED_BYTES", 1 << 10)
    monkeypatch.setattr(following, "MAX_LINE_BYTES", LONGEST)
    file = make_run(tmp_path)
    small = b"".join(b'{"step": %d, "loss": 1.5}\n' % step for step in range(2000))
    long_line = b'{"step": 7, "text": "' + b"x" * 50_000 + b'"}\n'
    file.write_bytes(small + long_line + small[:300] + long_line[:-20])
    assert MetricsFollower(tmp_path).poll().is_behind
    reader = Reader(tmp_path)
    reader.poll()
    assert (reader.entries, reader.unreadable) == whole(file.read_bytes(), is_over=True)
    with file.open("ab") as opened:
        opened.write(b'"}\n{"step": 8}\n')
    reader.poll()
    assert (reader.entries, reader.unreadable) == whole(file.read_bytes(), is_over=True)
    # The same content in another file is no cut-back; other content of equal length is one.
    content = file.read_bytes()
    file.with_name("copy").write_bytes(content)
    file.with_name("copy").replace(file)
    assert reader.poll() == MetricsUpdate(is_over=True)
    file.with_name("copy").write_bytes(content.replace(b'"step": 5,', b'"step": 6,'))
    file.with_name("copy").replace(file)
    assert reader.poll().is_over
    assert (reader.entries, reader.unreadable) == whole(file.read_bytes(), is_over=True)


def test_a_resumed_run_is_followed_from_its_first_entry(tmp_path: Path) -> None:
    with RunLock(tmp_path), MetricsLogger(tmp_path / "logs") as logger:
        for step in range(1, 9):
            logger.log_metrics(step, {"loss": float(step)})
        reader = Reader(tmp_path)
        reader.poll()
        assert [entry["step"] for entry in reader.entries] == [*range(1, 9)]
        logger.cut_back(5)
        for step in range(6, 12):
            logger.log_metrics(step, {"loss": -float(step)})
        update = reader.poll()
        assert update.was_cut_back
        assert repr(reader.entries) == repr(logger.load_metrics())
        assert not update.is_over


def test_a_live_run_is_followed_until_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        updates = list(follow(tmp_path, interval_s=0.005))
    assert [update.is_over for update in updates] == [False] * (len(updates) - 1) + [True]
    entries = [entry for update in updates for entry in update.entries]
    assert [entry["step"] for entry in entries] == [*range(1, 400)]
    assert repr(entries) == repr(MetricsLogger(tmp_path / "logs", enabled=False).load_metrics())


def test_a_later_follower_goes_on_where_an_earlier_one_has_stopped(tmp_path: Path) -> None:
    file = make_run(tmp_path)
    first, second, third = (b'{"step": %d}\n' % step for step in (1, 2, 3))
    with RunLock(tmp_path):
        file.write_bytes(first)
        earlier = MetricsFollower(tmp_path)
        assert earlier.position.offset == 0
        earlier.poll()
        start = earlier.position
        assert start.offset == len(first)
        with file.open("ab") as lines:
            lines.write(second)
        later = MetricsFollower(tmp_path, start=start)
        assert later.position == start
        update = later.poll()
        assert (update.was_cut_back, [e["step"] for e in update.entries]) == (False, [2])
        # What it has skipped counts when the file is cut back.
        temporary = file.with_suffix(".new")
        temporary.write_bytes(first + third)
        temporary.replace(file)
        update = later.poll()
        assert (update.was_cut_back, [e["step"] for e in update.entries]) == (True, [1, 3])
        for content in (third + second, b"{}\n", None):
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            update = MetricsFollower(tmp_path, start=start).poll()
            assert update.was_cut_back


def test_a_run_that_is_not_there_is_over(tmp_path: Path) -> None:
    assert list(follow(tmp_path / "gone")) == [MetricsUpdate(is_over=True)]
    stopped = threading.Event()
    stopped.set()
    with RunLock(tmp_path):
        assert list(follow(tmp_path, stop=stopped)) == []
    with pytest.raises(SettingError, match="interval_s"):
        list(follow(tmp_path, interval_s=0))
    RunPaths(tmp_path).metrics_file.mkdir(parents=True)
    with pytest.raises(UserError, match="Is a directory"):
        list(follow(tmp_path))
