"""The log file of a run, `train.log`: what was printed, with times and tracebacks, without secrets."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from datetime import datetime
from pathlib import Path

from spectral_exp.core.redact import redact_text
from spectral_exp.core.regular_file import open_run_file

log = logging.getLogger(__name__)


class RunLogFormatter(logging.Formatter):
    """Lines whose time has milliseconds and its offset from UTC, and which hold no secrets, tracebacks included."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time of a record in ISO 8601."""
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        return redact_text(super().format(record))


class RunLogHandler(logging.FileHandler):
    """Appends to a file of a run, which must not be a link: the run may come from somebody else.

    A record that cannot be written costs a warning; every further one is tried again.
    """

    def __init__(self, filename: str) -> None:
        # A file name that is not UTF-8 must not cost the line that names it.
        super().__init__(filename, encoding="utf-8", errors="backslashreplace")
        self._warned = False

    def close(self) -> None:
        """Close the file; what it still holds is lost if its disk is full."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """Warn of the first failure; the warning itself may fail for the same reason."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            log.warning("cannot write %s: %s; free space on its disk", self.baseFilename, error)

    def _open(self) -> io.TextIOWrapper:
        descriptor = open_run_file(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)
