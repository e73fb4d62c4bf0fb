"""The log file of a run, `train.log`: what was printed, with times and tracebacks, without secrets."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

from spectral_exp.monitoring.redact import redact_text
from spectral_exp.run_dir import open_run_file


class RedactingFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks included, hold no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        return redact_text(super().format(record))


class RunLogHandler(logging.FileHandler):
    """Appends to a file of a run, which must not be a link: the run may come from somebody else."""

    def _open(self) -> io.TextIOWrapper:
        descriptor = open_run_file(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
