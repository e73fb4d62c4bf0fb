"""Mirrors a run to a tracker, from its files, as far as they are written.

How far the tracker has come is kept in the run, in `companion/<tracker>.json`, and written after
each push. So one remote run receives all attempts at a run, from any process.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import RunError, UserError
from spectral_exp.core.file_locks import try_lock
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.core.redact import redact
from spectral_exp.core.regular_file import open_run_file
from spectral_exp.monitoring.companion import content
from spectral_exp.monitoring.companion.targets import Target
from spectral_exp.monitoring.companion.trackers import make_tracker
from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker
from spectral_exp.runs.follow import LineFollower, MetricsFollower, Position
from spectral_exp.runs.layout import TRAINING_LOG_NAME, RunPaths
from spectral_exp.runs.marks import read_marks
from spectral_exp.runs.plot_files import read_png

log = logging.getLogger(__name__)

_PLOTS_PER_PUSH = 20
_LOCK_SUFFIX = ".lock"
_KEY = re.compile("[0-9a-f]{16}")


@dataclass
class _Cursor:
    """How far a tracker has come.

    Attributes:
        key: of the remote run.
        remote: what the tracker needs to open it again.
        step: the last step of anything that was sent; -1 for none.
        skipped_step: metrics up to this step are not sent again, after their file was cut back.
        sample_step, plot_steps: the last step of a sample, and of each kind of plot.
        metrics, messages: how far the two files were read.
        plot: time (ns) and name of the last plot that was sent.
        sent: kind of content -> checksum of what was sent last.
    """

    key: str = ""
    remote: dict[str, Any] = field(default_factory=dict)
    step: int = -1
    skipped_step: int = -1
    sample_step: int = -1
    plot_steps: dict[str, int] = field(default_factory=dict)
    metrics: Position = field(default_factory=Position)
    messages: Position = field(default_factory=Position)
    plot: tuple[int, str] = (0, "")
    sent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> _Cursor:
        """Return the cursor in a file, or a new one if it is missing or damaged."""
        if not file.exists():
            return cls()
        try:
            return cls._parse(read_json(file))
        except (UserError, KeyError, TypeError, ValueError):
            log.warning("%s is damaged; the tracker gets a new run", file)
            return cls()

    def at_start(self) -> _Cursor:
        """Return the cursor of the same remote run before anything is sent."""
        return _Cursor(key=self.key, remote=self.remote)

    @classmethod
    def _parse(cls, values: Mapping[str, Any]) -> _Cursor:
        """Return a cursor whose values have their types; a stranger may have written them.

        Raises:
            KeyError, TypeError, ValueError: they do not.
        """
        remote = dict(values["remote"])
        folder = remote.get("folder", "x")
        is_inside = folder == Path(folder).name and folder not in ("", ".", "..")
        if not (_KEY.fullmatch(values["key"]) and is_inside):
            raise ValueError
        mtime_ns, name = values["plot"]
        return cls(
            key=values["key"],
            remote=remote,
            step=int(values["step"]),
            skipped_step=int(values["skipped_step"]),
            sample_step=int(values["sample_step"]),
            plot_steps={str(kind): int(step) for kind, step in values["plot_steps"].items()},
            metrics=_parse_position(values["metrics"]),
            messages=_parse_position(values["messages"]),
            plot=(int(mtime_ns), str(name)),
            sent={str(kind): int(checksum) for kind, checksum in values["sent"].items()},
        )


def _parse_position(value: Any) -> Position:
    offset, digest = value
    return Position(int(offset), str(digest))


class Mirror:
    """Sends a run to one tracker.

    Args:
        root: of the run.
        target: the tracker.
    """

    def __init__(self, root: Path, target: Target) -> None:
        self._paths = RunPaths(root)
        self._target = target
        self._file = self._paths.companion / target.file_name
        self._lock: int | None = None
        self._tracker: Tracker | None = None
        self._cursor = _Cursor()
        self._metrics: MetricsFollower
        self._messages: LineFollower
        self._samples: list[content.Sample] = []
        self._has_new_plots = True
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._status = ""

    @property
    def waits_for_end(self) -> bool:
        """Whether the tracker gets nothing before training has ended."""
        return make_tracker(self._target.kind, self._target.where).takes_whole_runs

    def push(self, is_over: bool) -> bool:
        """Send what is new; return whether more is waiting.

        After an error, the next call opens the tracker again and sends what is not known to have
        arrived.

        Args:
            is_over: whether training has ended. Then the remote run ends too, once it has
                everything.

        Raises:
            RunError: another process mirrors the run to this tracker.
            Exception: any error of the tracker.
        """
        self._acquire()
        try:
            tracker = self._open_tracker(is_over)
            if tracker is None:
                return False
            # A plot that came within one tick of the clock leaves the time of its folder as it was.
            self._has_new_plots |= is_over
            is_more_waiting = self._send(tracker)
            if is_over and not is_more_waiting:
                tracker.close(self._status or "interrupted")
                self._tracker = None
                self._release()
            return is_more_waiting
        except Exception:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the tracker without sending anything more; `push` opens it again."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with suppress(Exception):  # of the library, which has just failed
                tracker.close("")
        self._release()

    # --- the tracker ------------------------------------------------------------------------------

    def _open_tracker(self, is_over: bool) -> Tracker | None:
        """Return the open tracker, or None if it has to wait for the end of training."""
        if self._tracker is not None:
            return self._tracker
        tracker = make_tracker(self._target.kind, self._target.where)
        if tracker.takes_whole_runs and not is_over:
            return None
        cursor = _Cursor.read(self._file)
        if tracker.takes_whole_runs:
            cursor = _Cursor(key=cursor.key)
        if not cursor.key:
            # Kept before the remote run exists, so that it is found again whatever happens.
            cursor.key = secrets.token_hex(8)
            self._write(cursor)
        self._tracker = tracker
        self._open_run(tracker, cursor)
        return tracker

    def _open_run(self, tracker: Tracker, cursor: _Cursor) -> None:
        if cursor.step < 0:  # the remote run may begin anew, so settings and tags come again
            cursor = cursor.at_start()
        root = self._paths.root.resolve()
        group, _ = content.read_settings(self._paths)
        run = MirroredRun(root, root.name, group or root.name, cursor.key, cursor.step)
        try:
            cursor.remote = tracker.open(run, cursor.remote)
        except FileNotFoundError:  # its files are gone: it gets all of them again
            cursor = cursor.at_start()
            self._write(cursor)
            cursor.remote = tracker.open(replace(run, last_step=cursor.step), cursor.remote)
        self._write(cursor)  # otherwise the next process could make a second remote run
        if tracker.stored_step is not None and tracker.stored_step < cursor.step:
            cursor.step = cursor.skipped_step = tracker.stored_step
            cursor.metrics = Position()
        self._cursor = cursor
        self._seen.clear()
        self._samples.clear()
        self._metrics = MetricsFollower(self._paths.root, start=cursor.metrics)
        self._messages = LineFollower(self._paths.root, TRAINING_LOG_NAME, cursor.messages)

    def _rewind(self, tracker: Tracker) -> None:
        """Begin the remote run anew, since steps that it holds are trained again."""
        tracker.close("")
        cursor = self._cursor.at_start()
        self._write(cursor)  # before anything is removed
        self._open_run(tracker, cursor)

    # --- what is sent -----------------------------------------------------------------------------

    def _send(self, tracker: Tracker) -> bool:
        before = asdict(self._cursor)
        self._send_config(tracker)
        is_more_waiting = self._send_steps(tracker)
        if not is_more_waiting:
            self._send_results(tracker)
        if asdict(self._cursor) != before:
            tracker.flush()
            self._write(self._cursor)
        return is_more_waiting

    def _send_config(self, tracker: Tracker) -> None:
        if self._has_changed(self._paths.config_file):
            _, settings = content.read_settings(self._paths)
            if settings and self._is_new("config", settings):
                tracker.log_config(settings)
        if self._has_changed(self._paths.notes_file):
            tags = list(read_marks(self._paths.root)[0].tags)
            if (tags or "tags" in self._cursor.sent) and self._is_new("tags", {"tags": tags}):
                tracker.set_tags(tags)

    def _send_steps(self, tracker: Tracker) -> bool:
        """Send metrics, samples and plots in the order of their steps.

        A tracker that is ahead would take nothing for earlier steps.
        """
        update = self._metrics.poll()
        cursor = self._cursor
        if update.was_cut_back and cursor.step >= 0:
            if tracker.can_rewind:
                self._rewind(tracker)
                return True
            cursor.skipped_step = cursor.step
        points = [content.read_point(e) for e in update.entries if e["step"] > cursor.skipped_step]
        last_step = max([cursor.step, *(point.step for point in points)])
        is_more_waiting = self._read_samples() or update.is_behind
        plots = self._find_plots()
        is_more_waiting |= len(plots) > _PLOTS_PER_PUSH
        others: list[content.Sample | content.Plot] = [*self._samples, *plots[:_PLOTS_PER_PUSH]]
        for other in sorted(others, key=lambda other: other.step):
            if update.is_behind and other.step > last_step:
                break
            self._send_points(tracker, [point for point in points if point.step <= other.step])
            points = [point for point in points if point.step > other.step]
            if isinstance(other, content.Plot):
                self._send_plot(tracker, other)
            else:
                self._send_sample(tracker, other)
        self._send_points(tracker, points)
        cursor.metrics = self._metrics.position
        if not self._samples:
            cursor.messages = self._messages.position
        return is_more_waiting

    def _read_samples(self) -> bool:
        """Read samples unless some are waiting; return whether the log holds more lines."""
        if self._samples:
            return False
        update = self._messages.poll()
        # The log keeps the lines of all attempts, also of steps that were trained again.
        found = {sample.step: sample for sample in content.samples_in(update.lines)}
        self._samples = [s for step, s in found.items() if step > self._cursor.sample_step]
        return update.is_behind

    def _find_plots(self) -> list[content.Plot]:
        """Return the plots that were not sent; a folder of thousands is not listed every second."""
        has_changed = self._has_changed(self._paths.visualizations)
        if not (has_changed or self._has_new_plots):
            return []
        plots = content.new_plots(self._paths, self._cursor.plot)
        self._has_new_plots = bool(plots)
        return plots

    def _send_points(self, tracker: Tracker, points: Sequence[Point]) -> None:
        if points:
            tracker.log_points(points)
            self._record_step(max(point.step for point in points))

    def _send_sample(self, tracker: Tracker, sample: content.Sample) -> None:
        tracker.log_text("samples", sample.step, sample.text)
        self._samples.remove(sample)
        self._cursor.sample_step = sample.step
        self._record_step(sample.step)

    def _send_plot(self, tracker: Tracker, plot: content.Plot) -> None:
        cursor = self._cursor
        is_repeated = plot.step <= cursor.plot_steps.get(plot.kind, -1)
        png = None if is_repeated else read_png(plot.file)
        if png is not None:
            tracker.log_image(f"plots/{plot.kind}", plot.step, png)
            cursor.plot_steps[plot.kind] = plot.step
            self._record_step(plot.step)
        cursor.plot = max(cursor.plot, (plot.mtime_ns, plot.file.name))

    def _send_results(self, tracker: Tracker) -> None:
        if self._has_changed(self._paths.results_file):
            results = content.read_outcome(self._paths)
            self._status = str(results.get("status", ""))
            if results and self._is_new("results", results):
                tracker.log_results(results)

    def _has_changed(self, file: Path) -> bool:
        """Return whether a file is another one than at the last call."""
        try:
            state = file.stat()
        except OSError:
            return False
        before = self._seen.get(file)
        self._seen[file] = now = (state.st_ino, state.st_size, state.st_mtime_ns)
        return now != before

    def _record_step(self, step: int) -> None:
        self._cursor.step = max(self._cursor.step, step)

    def _is_new(self, kind: str, values: Mapping[str, Any]) -> bool:
        """Return whether values differ from those that were sent last."""
        checksum = zlib.crc32(repr(sorted(values.items())).encode(errors="replace"))
        is_new = self._cursor.sent.get(kind) != checksum
        self._cursor.sent[kind] = checksum
        return is_new

    # --- the cursor -------------------------------------------------------------------------------

    def _write(self, cursor: _Cursor) -> None:
        # The address that a library returns may hold a login.
        write_json_atomic(self._file, asdict(cursor) | {"remote": redact(cursor.remote)})

    def _acquire(self) -> None:
        """Lock the cursor: the companion of an earlier attempt may not have ended yet."""
        if self._lock is not None:
            return
        self._file.parent.mkdir(exist_ok=True)
        descriptor = open_run_file(self._file.with_suffix(_LOCK_SUFFIX), os.O_RDWR | os.O_CREAT)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise RunError("another process mirrors the run to it at present")
        self._lock = descriptor

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
