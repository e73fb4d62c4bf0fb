"""The log file of a run, `train.log`: messages with times and tracebacks, without secrets."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from datetime import datetime
from pathlib import Path

from spectral_exp.core.files import open_run_file
from spectral_exp.core.redact import redact_text

log = logging.getLogger(__name__)


class RunLogFormatter(logging.Formatter):
    """Formats records with time, milliseconds and UTC offset, and without secrets."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time of a record in ISO 8601."""
        return (
            datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        return redact_text(super().format(record))


class RunLogHandler(logging.FileHandler):
    """Appends to a file of a run. Links are refused: the run may come from someone else.

    The first record that cannot be written is reported by a warning. Later records are tried again.
    """

    def __init__(self, filename: str) -> None:
        # A line may name a file whose name is not UTF-8.
        super().__init__(filename, encoding="utf-8", errors="backslashreplace")
        self._warned = False

    def close(self) -> None:
        """Close the file. Buffered lines are lost if the disk is full."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """Log a warning for the first failure."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            log.warning("cannot write %s: %s; free space on its disk", self.baseFilename, error)

    def _open(self) -> io.TextIOWrapper:
        descriptor = open_run_file(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)
