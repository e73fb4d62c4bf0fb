"""Plots drawn in a child process, one after another, while training goes on."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import pickle
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import IO, cast

from spectral_exp.core.child_process import start_helper
from spectral_exp.monitoring.visualization.jobs import (
    DrawingError,
    Failures,
    PlotReport,
    PlotSet,
    ProcessEndedError,
    write_plot,
)
from spectral_exp.plots.load import writable_folder
from spectral_exp.plots.run import DrawFigure

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05
"""Before drawing begins: the next call often follows at once, and gathers faster while no other process runs."""

_LOOK_EVERY_S = 0.005
"""While somebody waits for what is drawn."""

_LISTEN_S = 1.0
"""After which the thread looks for work by itself: a call may be interrupted before it has notified the thread."""

_MAX_DEATHS = 3
"""Processes in a row that may end before they have answered once."""

_drawing: weakref.WeakSet[BackgroundDrawing] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let no plot be cut off by the end of the process, however its owner forgot it."""
    for background in list(_drawing):
        background.close()


class BackgroundDrawing:
    """Draws sets of plots in the order in which they come, and never lets the caller wait for it.

    A thread hands one figure at a time to a child process, which starts with the first, and writes what comes back. So
    the child may die at any moment: what was left of its set is lost, and the next set gets a new one. One set of each
    kind waits at most; a newer one takes its place.

    Args:
        dpi: dots per inch.
        failures: takes note of what could not be drawn.
        exit_deadline_s: seconds that `close` waits for what is not drawn yet.
        hang_s: seconds at one figure after which the next set finds the child hung, and ends it.

    Attributes:
        skipped: plots that were not drawn because newer ones, or the end, came before their turn.
        reports: the sets that are done, in order.
    """

    def __init__(self, dpi: int, failures: Failures, exit_deadline_s: float, hang_s: float = 120.0) -> None:
        self.dpi = dpi
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
        self._thread: threading.Thread | None = None
        self._owner_process: int | None = None
        self._process: DrawingProcess | None = None
        self._deaths = 0
        _drawing.add(self)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be drawn."""
        return self._current is not None or bool(self._waiting)

    @property
    def process_id(self) -> int | None:
        """The child's, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def submit(self, plots: PlotSet) -> None:
        """Take a set to be drawn. Raises RuntimeError if the system allows no more threads."""
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
            _log.info("%s are passed over for %s: drawing takes longer than the steps between", replaced, plots)

    def _ensure_thread(self) -> None:
        """Start a thread unless one is at work. With the lock held.

        An exception of a signal handler may leave a thread that is about to begin and does not count as alive yet: it
        then finds that another one has its place.
        """
        # Not `is_alive`, which takes a thread for ended if it is interrupted itself.
        begun = self._thread is not None and self._thread.ident is not None
        if not begun or self._owner_process != os.getpid():
            self._owner_process = os.getpid()
            self._thread = threading.Thread(target=self._work, name="plots", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return when everything is drawn, or after `timeout_s`; whether it is."""
        # In a forked copy of the process there is no such thread: what is to be drawn is the original's affair.
        if self._owner_process != os.getpid():
            return True
        # Not by the condition: an exception of a signal handler inside of its `wait` would leave its lock in disorder.
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while self.busy and time.monotonic() < deadline_s:
            with self._lock:
                if self.busy:
                    self._ensure_thread()
            time.sleep(_LOOK_EVERY_S)
        return not self.busy

    def close(self) -> None:
        """Wait until everything is drawn, at most `exit_deadline_s`, tell what is not, and end the child.

        A later set starts another one.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        try:
            self.wait(self.exit_deadline_s)
        finally:
            self._abandon()
            thread.join(1.0)

    def _abandon(self) -> None:
        """Give up what is not drawn yet, and let the thread end."""
        with self._lock:
            left = [*([self._current] if self._current else []), *self._waiting.values()]
            self.skipped += sum(len(plots.plots) for plots in self._waiting.values())
            self._waiting.clear()
            self._abandoned, self._closing = bool(left), True
            self._changed.notify_all()
            process = self._process
        if left:
            told = " and ".join(map(str, left))
            _log.warning("%s: not drawn when the end came; exit_deadline_s=%g is how long it waits for them",
                         told, self.exit_deadline_s)  # fmt: skip
            if process is not None:
                process.kill()

    def _end_hung_process(self) -> None:
        """Kill a child that has been at one figure for too long; the thread then takes note of its end."""
        if self._process is not None and self._current is not None and time.monotonic() - self._since_s > self.hang_s:
            self._process.kill()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (plots := self._next()) is not None:
                files, cpu_s = self._draw(plots)
                self.reports.append(PlotReport.of(plots, files, cpu_s))
        except BaseException:
            self._current = None  # nobody must wait for a thread that has ended, however it did
            self._end_process()
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None
            raise

    def _next(self) -> PlotSet | None:
        """The set that has waited longest; None at the end."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return None
            self._current = None
            self._changed.notify_all()
            was_idle = not self._waiting
            while not self._waiting:
                if self._closing:
                    self._thread = None  # what comes from now on is for another thread and its process
                    self._end_process()
                    return None
                self._changed.wait(_LISTEN_S)
            self._since_s = time.monotonic()
            self._current = self._waiting.pop(next(iter(self._waiting)))
            if was_idle:
                self._changed.wait_for(lambda: self._closing, _PAUSE_S)
            return self._current

    def _draw(self, plots: PlotSet) -> tuple[int, float]:
        """Draw and write a set; how many files there are, and the child's processor seconds for them."""
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
                png, taken_s = self._process.draw(plot.draw, self.dpi)
                cpu_s += taken_s
                self._deaths = 0
                write_plot(plot.path, png)
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
            _log.warning("no more plots are drawn: %d processes in a row ended at their first one; background=false "
                         "draws in the process that trains", _MAX_DEATHS)  # fmt: skip

    def _skip(self, n_plots: int) -> None:
        with self._lock:
            self.skipped += n_plots

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class DrawingProcess:
    """A child process that draws, one figure at a time.

    Args:
        folder: where matplotlib may keep its font list if there is no other writable folder.

    Raises:
        ProcessEndedError: it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = start_helper(
                "spectral_exp.monitoring.visualization.child",
                environment={**one_thread, "MPLBACKEND": "agg", **writable_folder(folder)},
            )
        except OSError as error:
            raise ProcessEndedError(f"a process that draws could not be started: {error}") from error
        self._cpu_s = 0.0
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def draw(self, drawing: DrawFigure, dpi: int) -> tuple[bytes, float]:
        """The PNG file of a figure, and the processor seconds it took, with the first those for starting.

        Raises:
            DrawingError: the figure cannot be drawn.
            ProcessEndedError: the process has ended.
        """
        request = pickle.dumps((drawing, dpi), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._requests.write(request)
            self._requests.flush()
            answer: bytes | tuple[str, str]
            answer, cpu_s = pickle.load(self._answers)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise ProcessEndedError(f"the process that draws ended {self.end()}") from error
        taken_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        if isinstance(answer, bytes):
            return answer, taken_s
        raise DrawingError(*answer)

    def kill(self) -> None:
        """Let it end at once, without waiting. Only the figure it is drawing is lost."""
        self._process.kill()

    def end(self) -> str:
        """End it, if it has not ended by itself; how it ended."""
        self._process.kill()
        self._answers.close()
        with contextlib.suppress(OSError):  # it never read all
            self._requests.close()
        code = self._process.wait()
        return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
