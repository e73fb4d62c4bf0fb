"""Print without ever failing: terminals close, readers exit, disks fill up."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

log = logging.getLogger(__name__)

CLEAR_LINE = "\r\x1b[K"

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

    _StreamHandler = logging.StreamHandler[TextIO]
else:
    # Python 3.10 has no generic handler at run time.
    _StreamHandler = logging.StreamHandler


class ConsoleHandler(_StreamHandler):
    """Prints log records on standard output, after clearing a progress bar on the terminal.

    If standard output cannot be written any more, what follows goes to the other handlers alone.
    """

    def __init__(self) -> None:
        open_closed_descriptors()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(sys.stdout)
        self._is_given_up = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if self._is_given_up:
            return
        if is_terminal(sys.stderr):
            write(sys.stderr, CLEAR_LINE)
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
    """Print one line to standard error if it can be written."""
    write(sys.stderr, f"{message}\n")


def give_up(stream: TextIO) -> None:
    """Let a stream that fails lead nowhere, so that what it holds does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
