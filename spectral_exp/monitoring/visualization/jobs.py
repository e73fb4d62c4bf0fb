"""Plots, the files they are written to, and their failures, each cause of which is logged once."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import write_atomic
from spectral_exp.monitoring.checkpoint.failures import refusal
from spectral_exp.plots.load import MatplotlibError, import_matplotlib
from spectral_exp.plots.run import DrawFigure, Style

_log = logging.getLogger(__name__)

_REMEDIES = {
    errno.ENOSPC: "free some disk space, raise viz_interval, or switch the plots off",
    errno.EDQUOT: "free some of your disk quota, raise viz_interval, or switch the plots off",
    errno.EACCES: "make the folder writable or choose another viz_dir",
    errno.EPERM: "make the folder writable or choose another viz_dir",
    errno.EROFS: "choose a viz_dir on a writable file system",
    errno.ENOTDIR: "a file stands where the folder should be: move it or choose another viz_dir",
    errno.EEXIST: "a file stands where the folder should be: move it or choose another viz_dir",
}


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn, its name without step and time, and its file."""

    name: str
    path: Path
    draw: DrawFigure


@dataclass(frozen=True)
class PlotSet:
    """The plots of one call.

    Attributes:
        kind: training, model or comparison.
        step: the step they show; None for a comparison.
        started_s: when the call came, of `time.perf_counter`.
        blocked_s: seconds that copying the data to draw took.
    """

    kind: str
    step: int | None
    plots: Sequence[Plot]
    started_s: float
    blocked_s: float

    def __str__(self) -> str:
        return f"the {self.kind} plots" + ("" if self.step is None else f" of step {self.step}")


@dataclass(frozen=True)
class PlotReport:
    """The cost of one set of plots.

    Attributes:
        kind: training, model or comparison.
        step: the step they show; None for a comparison.
        blocked_s: seconds that the caller waited.
        drawn_s: seconds from the call until the last file was there.
        files: how many were written.
        cpu_s: processor seconds of the drawing process. Training that keeps every core busy is
            delayed by about as much.
    """

    kind: str
    step: int | None
    blocked_s: float
    drawn_s: float
    files: int
    cpu_s: float

    @classmethod
    def of(cls, plots: PlotSet, files: int, cpu_s: float | None) -> PlotReport:
        """Return the report for `plots`, just drawn.

        Without `cpu_s` the caller has waited for them.
        """
        drawn_s = time.perf_counter() - plots.started_s
        blocked_s = drawn_s if cpu_s is None else plots.blocked_s
        return cls(plots.kind, plots.step, blocked_s, drawn_s, files, cpu_s or 0.0)


class Failures:
    """Counts plots that could not be drawn or written and logs each cause once. Thread-safe.

    Attributes:
        count: how many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._causes: set[tuple[object, ...]] = set()
        self._left_out: set[str] = set()
        self._lock = threading.RLock()

    def note(self, name: str, error: Exception, n_plots: int = 1) -> None:
        """Count `n_plots` as failed, and log a warning unless the cause has been logged before.

        A full disk, or a matplotlib that cannot be imported, is one cause for all plots.
        """
        code = error.errno if isinstance(error, OSError) else None
        cause: tuple[object, ...] = (code,) if code in _REMEDIES else (name, type(error))
        if MatplotlibError.__name__ in (
            type(error).__name__,
            *str(getattr(error, "message", "")).split(":")[:1],
        ):
            cause = (MatplotlibError,)
        with self._lock:
            self.count += n_plots
            level = logging.DEBUG if cause in self._causes else logging.WARNING
            self._causes.add(cause)
        remedy = _REMEDIES.get(code or 0, "it is left out and everything else goes on")
        message = f"{type(error).__name__}: {error}"
        is_outer = isinstance(error, UserError | ProcessEndedError) or refusal(error) is not None
        trace: Exception | None = None if is_outer else error
        if isinstance(error, DrawingError):
            message, remedy, trace = error.message, f"{remedy}\n{error.trace.rstrip()}", None
        _log.log(level, "plot %s skipped: %s; %s", name, message, remedy, exc_info=trace)

    def note_left_out(self, part: str, error: Exception) -> None:
        """Warn, once for each `part` of a plot, that the plot is drawn without it."""
        with self._lock:
            known = part in self._left_out
            self._left_out.add(part)
        if not known:
            _log.warning("%s is left out of the plots: %s", part, error)


class DrawingError(Exception):
    """The process that draws could not draw a figure.

    Args:
        message: type and message of the error there.
        trace: its traceback.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message, trace)
        self.message, self.trace = message, trace


class ProcessEndedError(Exception):
    """The process that draws has ended, or could not be started."""


def draw_here(plots: PlotSet, style: Style, failures: Failures) -> list[Path]:
    """Draw and write in this process; return the written files."""
    try:
        import_matplotlib(plots.plots[0].path.parent)
        from spectral_exp.plots.theme import SCREEN_THEMES, render
    except Exception as error:
        failures.note(str(plots), error, len(plots.plots))
        return []
    written = []
    for plot in plots.plots:
        try:
            theme = SCREEN_THEMES[style.theme]
            write_atomic(plot.path, render(plot.draw, theme, style.dpi, style.subject))
        except Exception as error:
            failures.note(plot.name, error)
        else:
            written.append(plot.path)
    return written
