"""The backup helper as the training process uses it: it may crash or hang without harm."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from spectral_exp.core.helper import HelperEndedError, HelperProcess
from spectral_exp.core.redact import redact_text


class BackupProcessError(Exception):
    """The helper crashed, hung or could not be started."""


class BackupProcess:
    """Answers requests to a remote storage; messages of progress come before an answer.

    Args:
        timeout_s: seconds without a message after which it counts as hung.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed by kill
        except OSError as error:
            raise BackupProcessError(
                f"{error.strerror}; set TMPDIR to a folder that exists"
            ) from error
        try:
            self._process = HelperProcess(
                "spectral_exp.monitoring.backup.worker", stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            cause = f"its process does not start: {error.strerror}"
            raise BackupProcessError(f"{cause}; free some memory") from error

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to `request`. Raises BackupProcessError if none comes."""
        try:
            self._process.send(request)
            answer = {"progress": 0}
            while "progress" in answer:
                answer = self._process.receive(self._timeout_s)
        except TimeoutError as error:
            raise BackupProcessError(
                f"no progress for {self._timeout_s:g} s; check the network and the storage, or "
                "allow more time (backup timeout_s)"
            ) from error
        except HelperEndedError as error:
            raise BackupProcessError(f"its process died{self._last_line()}") from error
        return dict(answer)

    def kill(self) -> None:
        """End the helper. May be called again, and by another thread."""
        self._process.end()
        self._errors.close()

    def _last_line(self) -> str:
        """The last line that the helper printed, or nothing."""
        if self._errors.closed:
            return ""
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, end - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {redact_text(lines[-1])}" if lines else ""
