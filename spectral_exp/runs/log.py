"""The log file of a run, `train.log`: messages with times and tracebacks, without secrets."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from spectral_exp.core.redact import redact_text
from spectral_exp.core.regular_file import open_run_file

log = logging.getLogger(__name__)


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write all log records of the level INFO and above to `path` and nowhere else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RunLogHandler(str(path))
    handler.setFormatter(RunLogFormatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        handler.close()


class RunLogFormatter(logging.Formatter):
    """Formats records with ISO 8601 times and without secrets."""

    def formatTime(  # noqa: N802
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """Return the local time of a record with milliseconds and UTC offset."""
        local = datetime.fromtimestamp(record.created).astimezone()
        return local.isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of `record`."""
        return redact_text(super().format(record))


class RunLogHandler(logging.FileHandler):
    """Appends to a file of a run. Links are refused, because the run may come from someone else.

    If a record cannot be written, the first failure is logged, and later records are tried.
    """

    def __init__(self, filename: str) -> None:
        # A record may contain the name of a file that is not UTF-8.
        super().__init__(filename, encoding="utf-8", errors="backslashreplace")
        self._has_warned = False

    def close(self) -> None:
        """Close the file. Buffered lines are lost if the disk is full."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """Log a warning for the first failure."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            super().handleError(record)
        elif not self._has_warned:
            self._has_warned = True
            log.warning("cannot write %s: %s; free space on its disk", self.baseFilename, error)

    def _open(self) -> io.TextIOWrapper:
        descriptor = open_run_file(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)
