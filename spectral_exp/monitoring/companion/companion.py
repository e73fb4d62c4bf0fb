"""The companion process of a run, as training uses it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from spectral_exp.core.child_process import start_helper
from spectral_exp.core.errors import require
from spectral_exp.core.worker import ServiceThread
from spectral_exp.monitoring.companion.content import results_state
from spectral_exp.monitoring.companion.system import SystemMetrics
from spectral_exp.monitoring.companion.targets import parse_targets
from spectral_exp.monitoring.component import Component
from spectral_exp.runs import layout
from spectral_exp.runs.lock import LostRunError

log = logging.getLogger(__name__)

_PACKAGE = "spectral_exp"
_MAX_TEXT = 2000  # characters of a problem; a message must fit into the pipe at once
_EXIT_S = 2.0
"""Seconds that the process gets beyond the deadline, which it keeps by itself."""


class Companion(Component):
    """Starts the companion of a run, if it needs one, and passes its messages on.

    Also a context manager: `start`, then `close`.

    Training writes to it once, at the start. A companion that hangs, fails or is killed costs
    training nothing. It ends by itself: some time after `close`, or after the death of training,
    which it notices.

    Args:
        experiment_dir: root of the run.
        mirrors: trackers that follow the run, such as `tensorboard` or `wandb:entity/project`.
        alerts: addresses that get a message when the run fails, hangs or ends, such as
            `webhook:https://...`, or any address of apprise.
        enabled: False starts nothing.
        exit_deadline_s: seconds after the end of the run in which it delivers what is left, >= 0;
            `close` waits for it that long, unless it is known to be unable to deliver.
        system: what it measures; None for nothing.
    """

    measures_machine = True
    is_required = False
    files = (
        f"{layout.COMPANION_FOLDER}/*",
        f"{layout.LOGS_FOLDER}/{layout.COMPANION_LOG_NAME}*",
    )

    def __init__(
        self,
        experiment_dir: str | Path,
        mirrors: Sequence[str] = (),
        alerts: Sequence[str] = (),
        *,
        enabled: bool = True,
        exit_deadline_s: float = 30.0,
        system: SystemMetrics | None = None,
    ) -> None:
        require(
            0 <= exit_deadline_s <= 86_400,
            "exit_deadline_s",
            exit_deadline_s,
            "seconds from 0 to 86400",
        )
        self.paths = layout.RunPaths(Path(experiment_dir).absolute())
        self.exit_deadline_s = exit_deadline_s
        self._system = system if system is not None and system.enabled else None
        for name, value in {"mirrors": mirrors, "alerts": alerts}.items():
            require(not isinstance(value, str), name, "...", "a list: [ADDRESS, ADDRESS]")
        self._mirrors = parse_targets(mirrors) if enabled else []
        self._alerts: list[str] = []
        if enabled and alerts:
            # Slow: this loads the clients of web servers.
            from spectral_exp.monitoring.companion.addresses import check_addresses

            self._alerts = check_addresses(alerts)
        self.enabled = enabled and bool(self._mirrors or self._alerts or self._system)
        self._process: _Process | None = None
        self._problems = _Problems(self)

    def __enter__(self) -> Companion:
        self.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # After a second Ctrl-C, or without its run, the process must not wait for servers.
        waits = not isinstance(error, KeyboardInterrupt | LostRunError)
        self.close(f"{type(error).__name__}: {error}" if error else "", waits=waits)

    def start(self) -> None:
        """Start the process if it is needed and does not run; return without waiting for it."""
        if not self.enabled or self._process is not None:
            return
        try:
            self._process = _Process(self._request())
            if self._alerts:
                logging.getLogger(_PACKAGE).addHandler(self._problems)
        except (OSError, RuntimeError) as error:  # no memory, no process or no thread
            log.warning(
                "the companion process does not start: %s; training goes on without it", error
            )

    def close(self, error: str = "", *, waits: bool = True) -> None:
        """Let the process deliver what is left and end; wait for it at most `exit_deadline_s`.

        Args:
            error: why training ends, unless it has written that to its results.
            waits: False returns at once; the process keeps its deadline by itself.
        """
        process, self._process = self._process, None
        logging.getLogger(_PACKAGE).removeHandler(self._problems)
        if process is None:
            return
        process.finish(error)
        waits = waits and not process.is_behind
        if waits and not process.has_ended(self.exit_deadline_s + _EXIT_S):
            log.warning(
                "the companion process has not ended after %g s; see %s",
                self.exit_deadline_s,
                self.paths.companion_log,
            )

    def report(self, problem: logging.LogRecord) -> None:
        """Send a warning or an error of training, which may be worth an alert."""
        if self._process is not None:
            text = problem.getMessage()[:_MAX_TEXT]
            self._process.send({"problem": text, "source": problem.name})

    def _request(self) -> dict[str, Any]:
        system = self._system
        return {
            "root": str(self.paths.root),
            "pid": os.getpid(),
            "exit_deadline_s": self.exit_deadline_s,
            "system": system and {"interval_s": system.interval_s, "max_mb": system.max_mb},
            "mirrors": [asdict(target) for target in self._mirrors],
            "alerts": self._alerts,
            "results_before": results_state(self.paths),
        }


class _Problems(logging.Handler):
    """Passes warnings and errors of training to its companion."""

    def __init__(self, companion: Companion) -> None:
        super().__init__(logging.WARNING)
        self._companion = companion

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, unless it comes from the companion itself."""
        try:
            if record.name != log.name:
                self._companion.report(record)
        except Exception:  # as every handler: no record may stop the program
            self.handleError(record)
        # Without any other handler, `logging` prints warnings; this one must not prevent that.
        handlers = [*logging.getLogger(_PACKAGE).handlers, *logging.getLogger().handlers]
        if handlers == [self] and logging.lastResort is not None:
            logging.lastResort.handle(record)


class _Process:
    """A running companion process.

    Attributes:
        is_behind: whether it has reported that it cannot deliver at present.

    Raises:
        OSError, RuntimeError: it cannot be started.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.is_behind = False
        self._is_finished = False
        self._lock = threading.RLock()  # a signal handler may log, too
        self._process = start_helper("spectral_exp.monitoring.companion.process", outlives=True)
        self._input = cast("IO[bytes]", self._process.stdin)
        # A process that is stopped must not stop this one, whose pipe would be full some day.
        if os.name == "posix":
            os.set_blocking(self._input.fileno(), False)
        self.send(request)
        self._thread = ServiceThread(self._read, "companion reader")
        try:
            self._thread.start()
        except BaseException:
            self._process.kill()
            raise

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, or drop it if the process does not read."""
        # The first newline ends a message that the full pipe has taken in part. Another thread may
        # have closed the pipe, but not between the two calls: a new file could have its number.
        with self._lock, suppress(OSError, ValueError):
            os.write(self._input.fileno(), f"\n{json.dumps(message)}\n".encode())

    def finish(self, error: str) -> None:
        """Send the process the end of training."""
        self._is_finished = True
        self.send({"end": True, "error": error[:_MAX_TEXT]})
        with self._lock, suppress(OSError):
            self._input.close()

    def has_ended(self, timeout_s: float) -> bool:
        """Return whether the process ends within `timeout_s`."""
        return self._thread.ended.wait(timeout_s)

    def _read(self, thread: ServiceThread) -> None:
        with cast("IO[bytes]", self._process.stdout) as messages:
            for line in messages:
                with suppress(ValueError):  # it was killed in the middle of a line
                    self._receive(json.loads(line))
        code = self._process.wait()
        if code and not self._is_finished:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            log.warning("the companion process has ended early (%s); training goes on", how)

    def _receive(self, message: Mapping[str, Any]) -> None:
        if "behind" in message:
            self.is_behind = bool(message["behind"])
        if "text" in message:
            log.log(int(message["level"]), "%s", message["text"])
