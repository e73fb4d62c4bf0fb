"""Messages about what happens to a run: at most one of a kind in ten minutes."""

from __future__ import annotations

import logging
import queue
import re
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.core.redact import redact_text
from spectral_exp.core.timestamps import timestamp
from spectral_exp.core.wording import format_count
from spectral_exp.monitoring.companion.addresses import send_message
from spectral_exp.monitoring.companion.content import read_outcome, results_state
from spectral_exp.runs.follow import MetricsFollower
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.status import DONE

log = logging.getLogger(__name__)

QUIET_S = 600.0
"""Seconds after an alert in which no other one of its kind is sent."""

_FILE_NAME = "alerts.json"
_LOOK_EVERY_S = 1.0
# Pattern in an error of training -> kind of the alert.
_ERRORS = {
    r"training\.max_bad_steps": "non_finite",
    "max_steps_at_risk": "risk",
    r"\brank \d": "rank_lost",
}
_DISK_SOURCES = (
    "spectral_exp.monitoring.checkpoint.failures",
    "spectral_exp.core.append_file",
    "spectral_exp.core.files",
)

TITLES = {
    "failed": "has failed",
    "rank_lost": "has lost a process",
    "non_finite": "gave up: the loss is not finite",
    "risk": "stopped: its checkpoints are not durable",
    "disk": "cannot write to its disk",
    "leak": "sees its validation text",
    "interrupted": "was interrupted",
    "finished": "has finished",
    "hang": "logs nothing more",
    "sweep_done": "is done",
}
"""Kind of an alert -> what the run does."""


@dataclass(frozen=True)
class Alert:
    """A message about a run or a sweep.

    Attributes:
        kind: one of `TITLES`.
        subject: the name of the run or sweep.
        text: the details, without secrets.
    """

    kind: str
    subject: str
    text: str

    def send(self, address: str) -> None:
        """Send it; see `send_message`."""
        fields = {"event": self.kind, "run": self.subject, "time": timestamp()}
        title = f"{self.subject} {TITLES[self.kind]}"
        send_message(address, title, f"{self.text} ({socket.gethostname()})", fields)


class HangDetector:
    """Notices that a run has logged nothing for ten times as long as usual."""

    _FACTOR = 10.0
    _LEAST_S = 60.0
    _FEWEST = 5

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s
        self._gaps_s: deque[float] = deque(maxlen=200)
        self._has_alerted = False

    def see(self, n_lines: int, now_s: float) -> str:
        """Note that so many lines came since the last call; return the alert, or ""."""
        silent_s = now_s - self._last_s
        if n_lines:
            self._gaps_s.append(silent_s / n_lines)
            self._last_s = now_s
            self._has_alerted = False
            return ""
        if self._has_alerted or len(self._gaps_s) < self._FEWEST:
            return ""
        usual_s = statistics.median(self._gaps_s)
        # A validation or a checkpoint may take long each time.
        limit_s = max(self._FACTOR * usual_s, 3 * max(self._gaps_s), self._LEAST_S)
        if silent_s < limit_s:
            return ""
        self._has_alerted = True
        return f"nothing logged for {silent_s:.0f} s; the usual interval is {usual_s:.3g} s"


class Alerts:
    """Finds out what happens to a run, and gives it to the deliveries of all addresses.

    Args:
        root: of the run.
        addresses: who gets the messages.
        results_before: the `results_state` before this attempt at the run.
    """

    def __init__(
        self, root: Path, addresses: Sequence[str], results_before: Sequence[int] | None = None
    ) -> None:
        self._paths = RunPaths(root)
        self._name = root.name
        self._file = self._paths.companion / _FILE_NAME
        self._results_before = results_before
        self._follower = MetricsFollower(root)
        self._hang: HangDetector | None = None
        self._next_look_s = 0.0
        self._sent_s = self._read_times()
        self._suppressed: dict[str, int] = {}
        self._lock = threading.Lock()
        self.outboxes = {address: Outbox(address) for address in addresses}

    def watch(self) -> None:
        """Check whether the run goes on; to be called repeatedly."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_EVERY_S
        try:
            update = self._follower.poll()
        except UserError:  # another file took its place; the run itself reports it
            return
        if self._hang is None or update.is_behind:
            self._hang = self._hang or HangDetector(now_s)
            return
        if text := self._hang.see(len(update.entries), now_s):
            self.add("hang", text)

    def note(self, source: str, problem: str) -> None:
        """Note a warning or an error of training.

        Args:
            source: the name of its logger.
            problem: the message.
        """
        if problem.startswith("LEAK"):
            self.add("leak", problem)
        elif source in _DISK_SOURCES and "again" not in problem:
            self.add("disk", problem)

    def note_end(self, *, has_finished: bool, error: str) -> None:
        """Note the end of training.

        Args:
            has_finished: whether it has reported its end; otherwise it was killed.
            error: what it has reported.
        """
        if results_state(self._paths) == self._results_before:
            if not has_finished:
                self.add("failed", "its process has ended without results, as if it was killed")
            elif error:
                self.add(*_kind_of(error))
            return
        results = read_outcome(self._paths)
        status, reason = str(results.get("status", "")), str(results.get("error", "")) or error
        # The results of a loop of the user's own have no status.
        if status in DONE or (has_finished and not status and not reason):
            self.add("finished", _summary(results))
        elif status == "interrupted":
            self.add("interrupted", f"at step {results.get('totals.steps')}; resume continues it")
        elif status == "not_saved":
            self.add("disk", reason)
        else:
            self.add(*_kind_of(reason))

    def add(self, kind: str, text: str) -> None:
        """Queue an alert, unless one of its kind was queued a short while ago."""
        with self._lock:
            now_s = time.time()
            if 0 <= now_s - self._sent_s.get(kind, 0.0) < QUIET_S:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return
            self._sent_s[kind] = now_s
            if count := self._suppressed.pop(kind, 0):
                text += f"; not sent before: {format_count(count, 'alert')} of this kind"
            for outbox in self.outboxes.values():
                outbox.put(Alert(kind, self._name, redact_text(text)))
            # Another attempt at the run keeps the silence too.
            with suppress(OSError):
                self._file.parent.mkdir(exist_ok=True)
                write_json_atomic(self._file, self._sent_s)

    def _read_times(self) -> dict[str, float]:
        if not self._file.exists():
            return {}
        try:
            return {
                kind: float(time_s)
                for kind, time_s in read_json(self._file).items()
                if isinstance(time_s, int | float)
            }
        except UserError:
            return {}


class Outbox:
    """The alerts that wait for one address."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._waiting: queue.SimpleQueue[Alert] = queue.SimpleQueue()
        self._next: Alert | None = None

    def put(self, alert: Alert) -> None:
        """Add an alert."""
        self._waiting.put(alert)

    def push(self, is_over: bool) -> bool:
        """Send the oldest alert; return whether more are waiting. Raises as `send_message`."""
        if self._next is None:
            try:
                self._next = self._waiting.get_nowait()
            except queue.Empty:
                return False
        self._next.send(self._address)
        self._next = None
        return not self._waiting.empty()


def send_at_once(addresses: Sequence[str], alert: Alert, timeout_s: float) -> None:
    """Send an alert to all addresses within `timeout_s`; log what does not arrive."""
    threads = [
        threading.Thread(target=_send_or_log, args=(address, alert), daemon=True)
        for address in addresses
    ]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))


def _send_or_log(address: str, alert: Alert) -> None:
    try:
        alert.send(address)
    except Exception as error:  # of a foreign library
        log.warning("an alert was not sent: %s", redact_text(str(error)))


def _kind_of(error: str) -> tuple[str, str]:
    """Return the kind and text of the alert for an error of training."""
    kinds = (kind for pattern, kind in _ERRORS.items() if re.search(pattern, error))
    kind = next(kinds, "failed")
    return kind, error or "without a reason"


def _summary(results: dict[str, Any]) -> str:
    """Return the outcome in one line."""
    names = ("final_metrics.val_bpb", "final_metrics.val_loss", "final_metrics.loss")
    shown = [
        f"{name.rpartition('.')[2]} {results[name]:.4g}"
        for name in names
        if isinstance(results.get(name), float)
    ]
    steps = results.get("totals.steps")
    status = str(results.get("status", "completed")).replace("_", " ")
    return ", ".join([status, *([f"{steps} steps"] if steps else []), *shown])
