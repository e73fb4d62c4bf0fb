"""Plots drawn in a helper process, in order, while training goes on."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
import weakref
from pathlib import Path

from spectral_exp.core.files import write_atomic
from spectral_exp.core.helper import HelperEndedError, HelperProcess
from spectral_exp.core.worker import ServiceThread
from spectral_exp.monitoring.visualization.jobs import (
    DrawingError,
    Failures,
    PlotReport,
    PlotSet,
    ProcessEndedError,
)
from spectral_exp.plots.load import writable_folder
from spectral_exp.plots.run import DrawFigure, Style

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05
"""Pause before drawing, since the next call often follows at once."""

_POLL_S = 0.005
"""Interval at which `wait` polls."""

_RECHECK_S = 1.0
"""Interval at which the thread looks for work: a call may be interrupted before it notifies it."""

_MAX_DEATHS = 3
"""Processes in a row that may end before they have answered once."""

_drawing: weakref.WeakSet[BackgroundDrawing] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Finish the plots before the process ends, if their owner has not closed them."""
    for background in list(_drawing):
        background.close()


class BackgroundDrawing:
    """Draws sets of plots in order, without blocking the caller.

    A thread sends one figure at a time to a helper process and writes the returned files. If the
    helper dies, the rest of its set is lost, and the next set gets a new helper. At most one set of
    each kind waits; a newer one replaces it.

    Args:
        style: how the figures look.
        failures: counts plots that could not be drawn.
        exit_deadline_s: seconds that `close` waits for the remaining plots.
        hang_s: seconds at one figure after which the next set ends the helper as hung.

    Attributes:
        skipped: plots replaced by newer ones, or not drawn before the end.
        reports: the finished sets, in order.
    """

    def __init__(
        self, style: Style, failures: Failures, exit_deadline_s: float, hang_s: float = 120.0
    ) -> None:
        self.style = style
        self.exit_deadline_s = exit_deadline_s
        self.hang_s = hang_s
        self.skipped = 0
        self.reports: list[PlotReport] = []
        self._failures = failures
        # Entered itself, not by way of the condition: no signal is handled inside of that.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[str, PlotSet] = {}
        self._current: PlotSet | None = None
        self._since_s = 0.0
        self._abandoned = self._closing = False
        self._thread: ServiceThread | None = None
        self._owner_process: int | None = None
        self._process: DrawingProcess | None = None
        self._deaths = 0
        _drawing.add(self)

    @property
    def busy(self) -> bool:
        """Whether plots are waiting or being drawn."""
        return self._current is not None or bool(self._waiting)

    @property
    def process_id(self) -> int | None:
        """The process id of the helper, or None."""
        process = self._process
        return None if process is None else process.pid

    def submit(self, plots: PlotSet) -> None:
        """Queue a set of plots. Raises RuntimeError if the system allows no more threads."""
        with self._lock:
            self._end_hung_process()
            replaced = self._waiting.pop(plots.kind, None)
            self.skipped += 0 if replaced is None else len(replaced.plots)
            self._waiting[plots.kind] = plots
            self._abandoned = self._closing = False
            try:
                self._ensure_thread()
            except RuntimeError:  # a limit on processes counts threads too
                del self._waiting[plots.kind]
                raise
            self._changed.notify_all()
        if replaced is not None:
            _log.info(
                "%s are replaced by %s: drawing takes longer than the steps between",
                replaced,
                plots,
            )

    def _ensure_thread(self) -> None:
        """Start a thread unless one is running. The caller holds the lock.

        An exception of a signal handler may leave a thread that has not begun. When it begins, it
        finds that another thread has replaced it.
        """
        is_started = self._thread is not None and self._thread.is_started
        if not is_started or self._owner_process != os.getpid():
            self._owner_process = os.getpid()
            self._thread = ServiceThread(self._work, "plots")
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is drawn, at most `timeout_s`; return whether that is so."""
        # A forked process has no such thread: the original draws.
        if self._owner_process != os.getpid():
            return True
        # Not `Condition.wait`: an exception of a signal handler inside it would leave its lock
        # broken.
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while self.busy and time.monotonic() < deadline_s:
            with self._lock:
                if self.busy:
                    self._ensure_thread()
            time.sleep(_POLL_S)
        return not self.busy

    def close(self) -> None:
        """Wait until everything is drawn, at most `exit_deadline_s`, and end the helper.

        Plots that are not drawn by then are logged. A later set starts another helper.
        """
        thread = self._thread
        if thread is None or self._owner_process != os.getpid():
            return
        try:
            self.wait(self.exit_deadline_s)
        except BaseException:
            self._abandon("are not drawn, because the wait for them was interrupted")
            raise
        else:
            self._abandon(
                f"were not drawn within exit_deadline_s={self.exit_deadline_s:g}; raise it to wait "
                "longer"
            )
        finally:
            thread.ended.wait(1.0)

    def _abandon(self, reason: str) -> None:
        """Drop the remaining plots, log `reason` if there are any, and make the thread end."""
        with self._lock:
            left = [*([self._current] if self._current else []), *self._waiting.values()]
            self.skipped += sum(len(plots.plots) for plots in self._waiting.values())
            self._waiting.clear()
            self._abandoned, self._closing = bool(left), True
            self._changed.notify_all()
        if left:
            _log.warning("%s %s", " and ".join(map(str, left)), reason)
            self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _end_hung_process(self) -> None:
        """Kill a helper that spends more than `hang_s` at one figure.

        The thread records its end.
        """
        is_drawing = self._process is not None and self._current is not None
        if is_drawing and time.monotonic() - self._since_s > self.hang_s:
            self._kill()

    # --- the thread -------------------------------------------------------------------------------

    def _work(self, thread: ServiceThread) -> None:
        try:
            while (plots := self._next(thread)) is not None:
                files, cpu_s = self._draw(plots)
                self.reports.append(PlotReport.of(plots, files, cpu_s))
        except BaseException:
            self._current = None  # no call may wait for a thread that has ended
            self._end_process()
            with self._lock:
                if self._thread is thread:
                    self._thread = None
            raise

    def _next(self, thread: ServiceThread) -> PlotSet | None:
        """Return the set that has waited longest; None at the end."""
        with self._lock:
            if self._thread is not thread:
                return None
            self._current = None
            self._changed.notify_all()
            was_idle = not self._waiting
            while not self._waiting:
                if self._closing:
                    self._thread = None  # later sets get another thread and helper
                    self._end_process()
                    return None
                self._changed.wait(_RECHECK_S)
            self._since_s = time.monotonic()
            self._current = self._waiting.pop(next(iter(self._waiting)))
            if was_idle:
                self._changed.wait_for(lambda: self._closing, _PAUSE_S)
            return self._current

    def _draw(self, plots: PlotSet) -> tuple[int, float]:
        """Draw and write a set; return the number of files and the helper's processor seconds."""
        files, cpu_s = 0, 0.0
        for index, plot in enumerate(plots.plots):
            left = len(plots.plots) - index
            if self._abandoned or self._deaths >= _MAX_DEATHS:
                self._skip(left)
                break
            self._since_s = time.monotonic()
            try:
                if self._process is None:
                    self._process = DrawingProcess(plot.path.parent)
                png, taken_s = self._process.draw(plot.draw, self.style)
                cpu_s += taken_s
                self._deaths = 0
                write_atomic(plot.path, png)
                files += 1
            except ProcessEndedError as error:
                self._end_process()
                self._note_death(error, f"{plot.name} and what follows it of {plots}", left)
                break
            except Exception as error:
                self._deaths = 0
                self._failures.note(plot.name, error)
        return files, cpu_s

    def _note_death(self, error: ProcessEndedError, name: str, n_plots: int) -> None:
        if self._abandoned:
            self._skip(n_plots)
            return
        self._failures.note(name, error, n_plots)
        self._deaths += 1
        if self._deaths == _MAX_DEATHS:
            _log.warning(
                "no more plots are drawn: %d processes in a row ended at their first one; "
                "background=false draws in the process that trains",
                _MAX_DEATHS,
            )

    def _skip(self, n_plots: int) -> None:
        with self._lock:
            self.skipped += n_plots

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class DrawingProcess(HelperProcess):
    """A helper process that draws one figure at a time.

    Args:
        folder: where matplotlib may keep its font list if there is no other writable folder.

    Raises:
        ProcessEndedError: it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {
            **dict.fromkeys(threads, "1"),
            "MPLBACKEND": "agg",
            **writable_folder(folder),
        }
        try:
            super().__init__("spectral_exp.monitoring.visualization.child", environment)
        except OSError as error:
            raise ProcessEndedError(
                f"a process that draws could not be started: {error}"
            ) from error
        self._cpu_s = 0.0

    def draw(self, drawing: DrawFigure, style: Style) -> tuple[bytes, float]:
        """Return the PNG file of a figure, and the processor seconds since the figure before.

        Raises:
            DrawingError: the figure cannot be drawn.
            ProcessEndedError: the process has ended.
        """
        try:
            self.send((drawing, style))
            answer, cpu_s = self.receive()
        except HelperEndedError as error:
            raise ProcessEndedError(f"the process that draws ended {error}") from error
        taken_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        if isinstance(answer, bytes):
            return answer, taken_s
        raise DrawingError(*answer)
