"""What a tracker receives equals what the run has logged, whatever happens in between."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.commands import mirror as mirror_command
from spectral_exp.core.errors import RunError
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.monitoring.companion import mirror as mirror_module
from spectral_exp.monitoring.companion.mirror import Mirror
from spectral_exp.monitoring.companion.targets import Target
from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.marks import update_marks


def png(width: int) -> bytes:
    """A black picture of that width, one pixel high."""
    size = width.to_bytes(4, "big") + (1).to_bytes(4, "big")
    chunks = {
        b"IHDR": size + bytes([8, 2, 0, 0, 0]),
        b"IDAT": zlib.compress(bytes(1 + 3 * width)),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks.items():
        crc = zlib.crc32(name + data).to_bytes(4, "big")
        content += len(data).to_bytes(4, "big") + name + data + crc
    return content


class Memory(Tracker):
    """A tracker in this process, which fails when it is told to.

    Attributes:
        can_rewind: as TensorBoard can.
        takes_whole_runs: as wandb does offline.
        fails_after: number of calls that still succeed; None for all.
        server: what has arrived, and is kept beyond `close`.
    """

    can_rewind = True
    fails_after: int | None = None

    def __init__(self) -> None:
        self.server: dict[str, list[Any]] = {}
        self.opened: list[tuple[str, int]] = []
        self.remotes: list[dict[str, Any]] = []
        self.ended: list[str] = []

    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        self.opened.append((run.key, run.last_step))
        self.remotes.append(dict(remote))
        if self.can_rewind and run.last_step < 0:
            self.server.clear()
        if self.can_rewind:
            # Like the first step of an event file.
            for name in ("points", "images", "texts"):
                kept = [item for item in self.server.get(name, []) if item[0] <= run.last_step]
                self.server[name] = kept
        return {"n": len(self.opened)}

    def _receive(self, kind: str, items: Sequence[Any]) -> None:
        if self.fails_after is not None:
            if self.fails_after == 0:
                self.fails_after = None
                self.server.setdefault(kind, []).extend(items[: len(items) // 2])
                raise OSError("the server is gone")
            self.fails_after -= 1
        self.server.setdefault(kind, []).extend(items)

    def log_points(self, points: Sequence[Point]) -> None:
        self._receive("points", points)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._receive("config", [dict(config)])

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._receive("results", [dict(results)])

    def log_text(self, name: str, step: int, text: str) -> None:
        self._receive("texts", [(step, name, text)])

    def log_image(self, name: str, step: int, png: bytes) -> None:
        self._receive("images", [(step, name, png)])

    def set_tags(self, tags: Sequence[str]) -> None:
        self._receive("tags", [list(tags)])

    def flush(self) -> None:
        pass

    def close(self, status: str) -> None:
        if status:
            self.ended.append(status)

    def values(self) -> list[tuple[int, dict[str, float]]]:
        return [(step, values) for step, _, values in self.server.get("points", [])]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(mirror_module, "make_tracker", lambda kind, where: memory)
    return memory


def push_all(mirror: Mirror, *, is_over: bool = False) -> None:
    while mirror.push(is_over):
        pass


TARGET = Target("trackio", "project")
TEXT = "it's\n"


@settings(max_examples=15)
@given(data=st.data())
def test_every_line_arrives_once_in_order_through_failures_restarts_and_cut_backs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("run")
    tracker = Memory()
    tracker.can_rewind = data.draw(st.booleans(), "can_rewind")  # type: ignore[misc]
    logger = MetricsLogger(root / "logs", 1)
    step, attempt = 0, 0
    newest: dict[int, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror_module, "make_tracker", lambda kind, where: tracker)
        mirror = Mirror(root, TARGET)
        for action in data.draw(st.lists(st.sampled_from("lpprckf"), min_size=3, max_size=25)):
            if action == "l":
                for _ in range(data.draw(st.integers(1, 4))):
                    step += 1
                    newest[step] = step + attempt / 100
                    logger.log_metrics(step, {"loss": newest[step]})
            elif action == "p":
                with suppress(OSError):
                    push_all(mirror)
            elif action == "r":  # another process goes on
                mirror.abandon()
                mirror = Mirror(root, TARGET)
            elif action == "k" and tracker.can_rewind:  # killed after sending, before keeping it
                kept = {f: f.read_bytes() for f in RunPaths(root).companion.glob("*.json")}
                with suppress(OSError):
                    push_all(mirror)
                mirror.abandon()
                for file, content in kept.items():
                    file.write_bytes(content)
                mirror = Mirror(root, TARGET)
            elif action == "c" and step:
                step = data.draw(st.integers(0, step), "cut back to")
                attempt += 1
                newest = {at: value for at, value in newest.items() if at <= step}
                logger.cut_back(step)
            elif action == "f":
                tracker.fails_after = data.draw(st.integers(0, 2))
        tracker.fails_after = None
        push_all(mirror, is_over=True)
    received = [(at, values["loss"]) for at, values in tracker.values()]
    steps = [at for at, _ in received]
    if tracker.can_rewind:
        assert received == sorted(newest.items())
    elif tracker.opened:
        # Half of a failed call may have arrived; real trackers drop what they already have.
        assert set(steps) >= set(newest)
        assert len({key for key, _ in tracker.opened}) == 1
    logger.close()


def test_settings_results_samples_plots_and_tags_arrive_once(
    tmp_path: Path, tracker: Memory
) -> None:
    paths = RunPaths(tmp_path)
    logger = MetricsLogger(paths.logs, 1)
    paths.visualizations.mkdir()
    record = {"config": {"name": "wave", "optimizer": {"lr": 0.1}}, "git_hash": "a" * 8}
    paths.config_file.write_text(json.dumps(record))
    update_marks(tmp_path, {"tags": ["good"]})
    for step in (1, 2, 3):
        logger.log_metrics(step, {"loss": float(step), "note": "text", "bad": float("nan")})
        logger.log_message(f"sample at step {step}: {TEXT * step!r}")
        stamp = f"20260101_00000{step}"
        (paths.visualizations / f"phases_step_{step}_{stamp}.png").write_bytes(png(step))
    (paths.visualizations / "phases_step_9_20260101_000009.png").write_bytes(b"no PNG")
    mirror = Mirror(tmp_path, TARGET)
    push_all(mirror)
    paths.results_file.write_text(
        json.dumps({"status": "completed", "totals": {"steps": 3}, "best_metrics": {"step": None}})
    )
    push_all(mirror, is_over=True)
    push_all(Mirror(tmp_path, TARGET), is_over=True)
    assert tracker.values() == [(step, {"loss": float(step)}) for step in (1, 2, 3)]
    assert tracker.server["texts"] == [(step, "samples", TEXT * step) for step in (1, 2, 3)]
    assert tracker.server["images"] == [(step, "plots/phases", png(step)) for step in (1, 2, 3)]
    (config,) = tracker.server["config"]
    assert (config["name"], config["optimizer.lr"], config["git_hash"]) == ("wave", 0.1, "a" * 8)
    assert tracker.server["results"] == [{"status": "completed", "totals.steps": 3}]
    assert tracker.server["tags"] == [["good"]]
    assert tracker.ended == ["completed", "completed"]


def test_a_remote_run_that_begins_anew_stays_in_its_place_and_gets_everything_again(
    tmp_path: Path, tracker: Memory
) -> None:
    RunPaths(tmp_path).config_file.write_text(json.dumps({"config": {"name": "wave"}}))
    for _ in range(2):  # the process ends before the first step
        mirror = Mirror(tmp_path, TARGET)
        push_all(mirror)
        mirror.abandon()
        assert [config["name"] for config in tracker.server["config"]] == ["wave"]
    with MetricsLogger(tmp_path / "logs", 1) as logger:
        logger.log_metrics(1, {"loss": 1.0})
        logger.log_metrics(2, {"loss": 2.0})
        push_all(Mirror(tmp_path, TARGET), is_over=True)
        logger.cut_back(1)
        push_all(Mirror(tmp_path, TARGET), is_over=True)
    assert tracker.values() == [(1, {"loss": 1.0})]
    assert [config["name"] for config in tracker.server["config"]] == ["wave"]
    assert tracker.opened[-1][1] == -1
    assert tracker.remotes == [{}, *({"n": n} for n in range(1, len(tracker.opened)))]


def test_a_tracker_never_gets_a_later_step_before_an_earlier_one(
    tmp_path: Path, tracker: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some trackers drop everything that belongs to an earlier step than the last one."""
    order: list[int] = []
    monkeypatch.setattr(
        Memory, "_receive", lambda self, kind, items: order.extend(item[0] for item in items)
    )
    logger = MetricsLogger(tmp_path / "logs", 1)
    logger.log_message("sample at step 0: 'text'")
    for step in range(7, 30, 7):
        logger.log_message(f"sample at step {step}: 'text'")
    line = {"timestamp": "2026-01-01T00:00:00", "loss": 1.0, "note": "x" * 500_000}
    with RunPaths(tmp_path).metrics_file.open("w") as file:
        file.writelines(json.dumps({"step": step} | line) + "\n" for step in range(1, 30))
    mirror = Mirror(tmp_path, TARGET)
    assert mirror.push(False), "the file is too long for one push"
    push_all(mirror, is_over=True)
    assert order == sorted(order)
    assert len(order) == 29 + 5


def test_only_one_process_mirrors_a_run_to_a_tracker(tmp_path: Path, tracker: Memory) -> None:
    first, second = Mirror(tmp_path, TARGET), Mirror(tmp_path, TARGET)
    first.push(False)
    with pytest.raises(RunError, match="another process mirrors"):
        second.push(False)
    second.abandon()
    first.push(True)
    second.push(True)
    assert len(tracker.opened) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"key": "x"},
        {"key": "*/../../../home/someone"},
        {"remote": {"folder": "../../somewhere"}},
        {"remote": {"folder": ".."}},
        {"remote": None},
        {"metrics": 3},
        {"step": "many"},
        {"plot": [1]},
        {"plot_steps": {"phases": None}},
    ],
)
def test_a_damaged_or_hostile_cursor_begins_a_new_remote_run(
    tmp_path: Path, tracker: Memory, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    Mirror(tmp_path, TARGET).push(True)
    (file,) = RunPaths(tmp_path).companion.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    Mirror(tmp_path, TARGET).push(True)
    assert "is damaged" in caplog.text
    assert len({key for key, _ in tracker.opened}) == 2


def test_a_run_that_is_written_at_once_waits_for_its_end(
    tmp_path: Path, tracker: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker.takes_whole_runs = True
    tracker.can_rewind = False  # type: ignore[misc]
    logger = MetricsLogger(tmp_path / "logs", 1)
    logger.log_metrics(1, {"loss": 1.0})
    mirror = Mirror(tmp_path, TARGET)
    assert not mirror.push(False)
    mirror.abandon()
    with RunLock(tmp_path):
        assert not mirror_command._mirror(tmp_path, TARGET)
    captured = capsys.readouterr()
    assert not captured.out
    assert "is not mirrored to trackio:project: it takes whole runs" in captured.err
    assert not tracker.server
    push_all(mirror, is_over=True)
    logger.log_metrics(2, {"loss": 2.0})
    tracker.server.clear()
    push_all(Mirror(tmp_path, TARGET), is_over=True)
    assert [step for step, _ in tracker.values()] == [1, 2]
