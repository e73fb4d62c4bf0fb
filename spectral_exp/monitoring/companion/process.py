"""The companion process: measures, mirrors and alerts until the run is over.

It reads a request and then messages on standard input, and writes its own messages to standard
output, a JSON object per line. The end of the input means that training has ended. Neither torch
nor matplotlib is imported here.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from spectral_exp.core.redact import redact, redact_text
from spectral_exp.monitoring.companion.addresses import describe_address
from spectral_exp.monitoring.companion.alerts import Alerts
from spectral_exp.monitoring.companion.delivery import Delivery
from spectral_exp.monitoring.companion.mirror import Mirror
from spectral_exp.monitoring.companion.sampler import SystemSampler
from spectral_exp.monitoring.companion.targets import Target
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import is_alive, read_owner

log = logging.getLogger(__name__)

_NICENESS = 5
_POLL_S = 0.25
_CHECK_OWNER_S = 2.0
_LOG_BYTES = 1 << 20


class Parent:
    """The process that trains: its messages, and whether it still owns the run.

    Args:
        root: of the run.
        pid: of the process.
        note_problem: called with the source and the text of each problem that it reports.

    Attributes:
        is_over: set when training has ended in some way.
        has_finished: whether it has sent that itself.
        error: why, if it has sent a reason.
    """

    def __init__(self, root: Path, pid: int, note_problem: Callable[[str, str], None]) -> None:
        self.is_over = threading.Event()
        self.has_finished = False
        self.error = ""
        self._note_problem = note_problem
        self._root = root
        self._pid = pid
        self._had_lock = False
        self._checked_s = 0.0
        threading.Thread(target=self._read, name="messages", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of training, at most `timeout_s`; return whether it has ended."""
        if not self.is_over.wait(timeout_s) and self._has_lost_run():
            self.is_over.set()
        return self.is_over.is_set()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            with suppress(ValueError):
                message = json.loads(line)
                if "problem" in message:
                    self._note_problem(message["source"], message["problem"])
                if message.get("end"):
                    self.has_finished, self.error = True, message["error"]
        self.is_over.set()

    def _has_lost_run(self) -> bool:
        """Return whether the run has another owner or none.

        A process that training has started may hold the pipe open, which then never ends.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s < _CHECK_OWNER_S:
            return False
        self._checked_s = now_s
        if not psutil.pid_exists(self._pid):
            return True
        owner = read_owner(self._root)
        is_owner = owner is not None and owner["pid"] == self._pid and is_alive(owner, self._root)
        self._had_lock |= is_owner
        return self._had_lock and not is_owner


class Service:
    """Everything that one companion process does.

    Args:
        request: `root`, `pid` of training, `exit_deadline_s`, and the parts that are on.
        send: passes a message to training.
    """

    def __init__(self, request: Mapping[str, Any], send: Any) -> None:
        self._send = send
        self._deadline_s = float(request["exit_deadline_s"])
        root = Path(request["root"])
        self._is_ending = threading.Event()
        self._sampler = None
        if system := request.get("system"):
            self._sampler = SystemSampler(root, request["pid"], **system)
        targets = [Target(**fields) for fields in request.get("mirrors", ())]
        self._deliveries = [
            Delivery(f"mirror to {target}", Mirror(root, target).push, self._is_ending)
            for target in targets
        ]
        self._alerts = None
        if addresses := request.get("alerts"):
            self._alerts = Alerts(root, addresses, request["results_before"])
            self._deliveries += [
                Delivery(f"alert by {describe_address(address)}", box.push, self._is_ending)
                for address, box in self._alerts.outboxes.items()
            ]
        note_problem = self._alerts.note if self._alerts else lambda source, problem: None
        self._parent = Parent(root, request["pid"], note_problem)
        self._was_behind: list[str] = []

    def run(self) -> int:
        """Work until the run is over and the rest delivered; return the exit code."""
        while not self._parent.wait(_POLL_S):
            self._measure()
            if self._alerts is not None:
                self._alerts.watch()
            self._report()
        if self._alerts is not None:
            parent = self._parent
            self._alerts.note_end(has_finished=parent.has_finished, error=parent.error)
        self._is_ending.set()
        if self._sampler is not None:
            self._sampler.close()
        end_s = time.monotonic() + self._deadline_s
        late = [d.name for d in self._deliveries if not d.has_ended(end_s - time.monotonic())]
        if late:
            log.warning(
                "%s: not everything was sent within exit_deadline_s=%g",
                ", ".join(late),
                self._deadline_s,
            )
        return 1 if late else 0

    def _measure(self) -> None:
        """Append a line to the system metrics if it is due, and if the machine can be measured."""
        if self._sampler is None:
            return
        try:
            self._sampler.sample_if_due()
        except Exception:  # mirrors and alerts go on
            log.exception("the machine cannot be measured; system metrics end here")
            self._sampler = None

    def _report(self) -> None:
        """Report to training which deliveries do not work at present."""
        behind = [delivery.name for delivery in self._deliveries if delivery.is_behind]
        if behind != self._was_behind:
            self._was_behind = behind
            self._send({"behind": behind})


class _Relay(logging.Handler):
    """Passes log records to training."""

    def __init__(self, send: Any) -> None:
        super().__init__(logging.WARNING)
        self._relay = send

    def emit(self, record: logging.LogRecord) -> None:
        self._relay({"level": record.levelno, "text": redact_text(record.getMessage())})


class _RedactingFormatter(logging.Formatter):
    """Formats records, with their tracebacks, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return redact_text(super().format(record))


def main() -> None:
    """Serve one run; called in a process of its own."""
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a library prints is lost, and does not disturb the messages.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # Tracker libraries import torch if they find it, for seconds and hundreds of megabytes.
    sys.modules["torch"] = None  # type: ignore[assignment]

    def send(message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # training is gone
            messages.write(json.dumps(message).encode() + b"\n")

    code = 1
    try:
        request = json.loads(next(line for line in sys.stdin.buffer if line.strip()))
        # From here on, messages of errors do not show the addresses either.
        redact({"alerts": request["alerts"]})
        _log_to(RunPaths(request["root"]).companion_log, send)
        code = Service(request, send).run()
    except Exception:
        log.exception("the companion process has failed; training goes on")
    finally:
        _end(code)


def _log_to(file: Path, send: Any) -> None:
    """Log to a file of the run, which is bounded, and pass warnings to training."""
    logger = logging.getLogger("spectral_exp")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False  # a full disk must not stop the process
    logger.addHandler(_Relay(send))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=_LOG_BYTES, backupCount=1, delay=True
        )
        handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def _end(code: int) -> None:
    """End at once, with the processes of tracker libraries, whatever their threads do."""
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    logging.shutdown()
    os._exit(code)
