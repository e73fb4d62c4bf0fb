"""Print without ever failing: terminals close, readers exit, disks fill up."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

log = logging.getLogger(__name__)

_COLORS = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

    _StreamHandler = logging.StreamHandler[TextIO]
else:
    # Python 3.10 has no generic handler at run time.
    _StreamHandler = logging.StreamHandler


class ConsoleHandler(_StreamHandler):
    """Prints log records on standard output, after clearing the status line of the terminal.

    Warnings and errors are coloured. If standard output cannot be written any more, what follows
    goes to the other handlers alone.

    Args:
        run_dir: the run directory of the job that logs. Its name precedes every line in a process
            that another one started, because parallel jobs share a terminal.
    """

    def __init__(self, run_dir: str = "") -> None:
        open_closed_descriptors()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(sys.stdout)
        is_worker = multiprocessing.parent_process() is not None
        self._prefix = f"[{Path(run_dir).name}] " if run_dir and is_worker else ""
        self._is_given_up = False

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of `record`, with the name of the job and a colour."""
        text = super().format(record)
        if self._prefix:
            text = "\n".join(self._prefix + line for line in text.split("\n"))
        if record.levelno < logging.WARNING:
            return text
        return colorize(text, "red" if record.levelno >= logging.ERROR else "yellow", self.stream)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if self._is_given_up:
            return
        StatusLine.clear_current()
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """Give up a stream that fails; a reader that is merely slow loses one record."""
        error = sys.exc_info()[1]
        if isinstance(error, BlockingIOError):
            return
        if isinstance(error, (OSError, ValueError)):
            self._is_given_up = True  # before the warning, which comes here as well
            give_up(self.stream)
            log.warning("standard output cannot be written (%s): it gets no more messages", error)
        else:
            super().handleError(record)


def protect_output() -> None:
    """Make sure that printing never raises in this process, even if its streams are closed.

    Neither do the flushes at its end, for which Python would change the exit code.
    """
    open_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # somebody captures what is printed
        write(stream, "")
        raw = _UnfailingFile(stream.fileno(), "w", closefd=False)
        lines = name == "stderr" or raw.isatty()
        text = io.TextIOWrapper(
            io.BufferedWriter(raw), stream.encoding, errors="backslashreplace", line_buffering=lines
        )
        setattr(sys, name, text)


class _UnfailingFile(io.FileIO):
    """An open file; what cannot be written to it, or not at once if it does not wait, is lost."""

    def write(self, data: Buffer, /) -> int:
        """Write `data` and return its size."""
        try:
            written: int | None = super().write(data)
        except OSError:
            written = None
        return len(memoryview(data)) if written is None else written


def open_closed_descriptors() -> None:
    """Let standard streams that were closed at the start (`2>&-`) lead nowhere.

    Otherwise the next file to be opened gets the number, and what libraries print goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; False if it is closed."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def moves_cursor(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that understands escape sequences."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def colorize(text: str, color: str, stream: TextIO | None) -> str:
    """Return `text` in a colour (or "bold") if `stream` shows colours: see https://no-color.org."""
    if os.environ.get("NO_COLOR") or not moves_cursor(stream):
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def width_of(stream: TextIO) -> int:
    """Return the columns of the terminal `stream`, which may have changed since the last call."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


class StatusLine:
    """The last line of a terminal, which is drawn again and again below everything printed.

    Args:
        stream: a terminal that understands escape sequences.
    """

    _current: StatusLine | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._shown = 0

    def draw(self, text: str, length: int) -> bool:
        """Replace the line by `text`; return False if the terminal is gone.

        Args:
            text: without line breaks; it may hold colours.
            length: its characters that are visible, fewer than the columns of the terminal.
        """
        StatusLine._current = self
        is_written = write(self.stream, self._erase() + text)
        self._shown = length
        return is_written

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            write(self.stream, self._erase())
            self._shown = 0

    @classmethod
    def clear_current(cls) -> None:
        """Remove the line that was drawn last, before something else is printed."""
        if cls._current is not None:
            cls._current.clear()

    def _erase(self) -> str:
        """Return the characters that erase the line.

        A terminal that has become narrower has wrapped it.
        """
        rows = -(-self._shown // width_of(self.stream))
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return f"{up}\r\x1b[J"


def write(stream: TextIO | None, text: str) -> bool:
    """Write `text` and flush; return False if that is not possible, now and for good."""
    if stream is None:
        return False
    try:
        stream.write(text)
        stream.flush()
    except BlockingIOError:
        return True  # a slow reader of a stream that does not wait: the text is lost
    except (OSError, ValueError):
        give_up(stream)
        return False
    return True


def print_error(message: str) -> None:
    """Print one line to standard error if it can be written, its kind (`error:`) in colour."""
    StatusLine.clear_current()
    kind, sign, rest = message.partition(": ")
    if sign and kind in ("error", "warning"):
        kind = colorize(f"{kind}:", "red" if kind == "error" else "yellow", sys.stderr)
        message = f"{kind} {rest}"
    write(sys.stderr, f"{message}\n")


def give_up(stream: TextIO) -> None:
    """Let a stream that fails lead nowhere, so that what it holds does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
