"""The process of `backup_worker` as the training process sees it: it may crash or hang without harm."""

from __future__ import annotations

import json
import logging
import os
import queue
import tempfile
import threading
from typing import Any

from spectral_exp.core.child_process import start_helper
from spectral_exp.core.redact import redact_text

log = logging.getLogger(__name__)


class BackupProcessError(Exception):
    """The child process crashed, hung or could not be started."""


class BackupProcess:
    """A child process: one JSON line asks, JSON lines of progress follow, then one with the answer.

    Args:
        timeout_s: seconds without a line after which it counts as hung.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed by kill
        except OSError as error:
            raise BackupProcessError(f"{error.strerror}; set TMPDIR to a folder that exists") from error
        try:
            self._process = start_helper("spectral_exp.monitoring.backup.worker", stderr=self._errors)
        except OSError as error:
            self._errors.close()
            raise BackupProcessError(f"its process does not start: {error.strerror}; free some memory") from error
        # Also the keeper of the process: it reaps it.
        self._reader = threading.Thread(target=self._read, name="backup reader", daemon=True)
        self._reader.start()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `request`. Raises BackupProcessError if none comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            while True:
                line = self._lines.get(timeout=self._timeout_s)
                if not line:
                    raise BackupProcessError(f"its process died{self._last_words()}")
                answer = json.loads(line)
                if "progress" not in answer:
                    return dict(answer)
        except queue.Empty as error:
            raise BackupProcessError(
                f"no progress for {self._timeout_s:g} s; check the network and the storage, or allow more time "
                "(backup timeout_s)"
            ) from error
        except (OSError, ValueError) as error:
            raise BackupProcessError(f"its process died{self._last_words()}") from error

    def kill(self) -> None:
        """End the process, whatever it does. May be called again, and by another thread."""
        self._process.kill()
        # A process that hangs in the kernel dies when that lets go; its reader, a daemon, waits for it, not we.
        self._reader.join(5.0)
        if self._process.stdin is not None and not self._reader.is_alive():
            try:
                self._process.stdin.close()
            except OSError:
                log.debug("the backup process was gone before its last request reached it")
            self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._process.wait()
        self._lines.put(b"")

    def _last_words(self) -> str:
        """What the process printed last before it died, or nothing."""
        if self._errors.closed:
            return ""
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, end - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {redact_text(lines[-1])}" if lines else ""
