"""Remote backup of a run while it trains: a helper process copies committed files.

`store.py` describes the format of a backup; `restore.py` restores one.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.files import follow
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.core.worker import ServiceThread
from spectral_exp.monitoring.backup.process import BackupProcess, BackupProcessError
from spectral_exp.monitoring.backup.store import SETTING, leads_out, normalize_url
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.metrics import MetricsLogger
from spectral_exp.monitoring.tracking.tracker import ConfigTracker
from spectral_exp.runs.layout import BACKUP_NAME, RunPaths

log = logging.getLogger(__name__)

_CHECK_S = 120.0
_LONGEST_PAUSE_S = 300.0
_RECHECK_S = 1.0
"""Interval at which the thread looks for work: a call may be interrupted before it notifies it."""

_LAST_WAIT_S = 10.0
"""For a thread whose process was killed."""


@functools.cache
def check_url(url: str, timeout_s: float = _CHECK_S) -> None:
    """Write, read and delete a small object below `url`, to check it before training starts.

    Args:
        url: the place that holds the backups of all runs.
        timeout_s: seconds to wait for it.

    Raises:
        UserError: a library is missing, or the place does not exist, does not answer or may not be
            written.
    """
    process = None
    try:
        process = BackupProcess(timeout_s)
        _refuse(url, process.ask({"do": "check", "url": normalize_url(url)}))
    except BackupProcessError as error:
        raise UserError(f"{SETTING}={url} cannot be used: {error}") from error
    finally:
        if process is not None:
            process.kill()


def _refuse(url: str, answer: dict[str, Any]) -> None:
    """Raise a UserError if the helper has not done what was requested."""
    if "refused" in answer:
        raise UserError(answer["refused"])
    if "failed" in answer:
        raise UserError(f"{SETTING}={url} cannot be used: {answer['failed']}")


class Backup(Component):
    """Copies the committed files of one run to other storage, in the background.

    A thread sends requests to a helper process of low priority; a helper that crashes or makes no
    progress is killed and replaced. One backup is in progress at a time, and only the newest waits.
    After a failure a warning is logged and retries follow after growing pauses; training goes on.

    Args:
        experiment_dir: root of the run.
        url: place of the backups of all runs: s3://, gs://, file:// or ssh://; None for no backups.
        outputs: folder of the runs; a run below it has the same place below `url`, any other run
            the name of its folder.
        keep_last_n: backups to keep there, >= 1; each holds the best checkpoint too.
        keep_every_n_steps: each backup holds the checkpoints of steps divisible by it too.
        timeout_s: seconds without progress after which an attempt fails, > 0.
        retries: further attempts for one checkpoint, >= 0; a later checkpoint has its own.
        pause_s: seconds before the first retry; each pause is twice the last, up to five minutes.
        exit_deadline_s: seconds that `close` waits for the last backup, > 0.
        component_files: patterns, relative to the run, of the files that each backup holds besides
            checkpoints.
    """

    metric_prefixes = ("backup_",)
    measures_machine = True
    files = (BACKUP_NAME,)

    def __init__(
        self,
        experiment_dir: str | Path,
        url: str | None,
        *,
        outputs: str | Path | None = None,
        keep_last_n: int = 3,
        keep_every_n_steps: int | None = None,
        timeout_s: float = 600.0,
        retries: int = 5,
        pause_s: float = 2.0,
        exit_deadline_s: float = 600.0,
        component_files: Sequence[str] = (*ConfigTracker.files, *MetricsLogger.files, BACKUP_NAME),
    ) -> None:
        require(keep_last_n >= 1, "keep_last_n", keep_last_n, "a whole number >= 1")
        every = keep_every_n_steps
        require(
            every is None or every >= 1, "keep_every_n_steps", every, "a whole number >= 1 or null"
        )
        for name, seconds in {"timeout_s": timeout_s, "exit_deadline_s": exit_deadline_s}.items():
            require(seconds > 0, name, seconds, "a number of seconds > 0")
        require(retries >= 0, "retries", retries, "a whole number >= 0")
        require(pause_s >= 0, "pause_s", pause_s, "a number of seconds >= 0")
        self.paths = RunPaths(Path(experiment_dir).absolute())
        self.url = None if url is None else normalize_url(url, "url")
        self.timeout_s = timeout_s
        self.retries = retries
        self.pause_s = pause_s
        self.exit_deadline_s = exit_deadline_s
        self.stored_step: int | None = None
        """The checkpoint of the newest backup that is known to be complete."""
        self.failures = 0
        """Failed attempts so far."""
        self._outputs = None if outputs is None else Path(outputs).absolute()
        self._what = {
            "keep_last_n": keep_last_n,
            "keep_every_n_steps": keep_every_n_steps,
            "component_files": list(component_files),
        }
        # Entered directly, not through the condition, whose Python code a signal may interrupt.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pending: int | None = None
        self._failed_in_row = 0
        self._closing = False
        self._skip_pause = False
        self._abandoned = False
        self._gone = False
        self._thread: _BackupThread | None = None
        self._process: BackupProcess | None = None
        self._run: dict[str, str] | None = None

    @property
    def enabled(self) -> bool:
        """Whether a URL is set."""
        return self.url is not None

    def check(self) -> None:
        """Make sure, before the run starts, that its backups can work.

        Raises:
            UserError: the storage cannot be used, or holds the backups of another run of this name.
        """
        if self.url is None:
            return
        try:
            answer = self._ask({"do": "claim"})
            _refuse(self.url, answer)
        except UserError:
            self._stop_process()
            raise
        except (BackupProcessError, OSError) as error:
            self._stop_process()
            raise UserError(f"{SETTING}={self.url} cannot be used: {error}") from error
        self.stored_step = answer["stored_step"]

    def submit(self, step: int) -> None:
        """Queue a backup of the durable checkpoint of `step` and the run's other files."""
        if self.url is None or self._gone:
            return
        with self._lock:
            # An interrupted `close` may have left these.
            self._closing = self._skip_pause = self._abandoned = False
            replaced, self._pending = self._pending, step
            self._ensure_thread()
            self._changed.notify_all()
        if replaced not in (None, step):
            log.info("backup of step %d skipped: step %d is newer", replaced, step)

    def close(self) -> bool:
        """Back up the newest checkpoint and the results, within `exit_deadline_s`.

        Returns whether everything is stored. `submit` works afterwards, and so does another `close`
        after an exception of a signal handler.
        """
        if self.url is None:
            return True
        latest = None if self._gone else follow(self.paths.latest_link)
        step = self.paths.checkpoint_step(latest) if latest else None
        with self._lock:
            if step is None and self._thread is None:
                self._stop_process()
                return not self._gone
            self._pending = self._pending if step is None else step
            self._abandoned = self._gone
            self._failed_in_row = 0
            self._closing = self._skip_pause = True
            thread = self._ensure_thread()
            self._changed.notify_all()
        late = not thread.ended.wait(self.exit_deadline_s)
        if late:
            self._give_up(thread)
        whole = not late and self._pending is None and not self._gone
        if not whole:
            log.warning(
                "the backup is not complete: %s lacks the last state of the run (step %s)%s; the "
                "newest step there: %s. Run the same command again, or copy %s by hand",
                self.url, step, f" after exit_deadline_s={self.exit_deadline_s:g}" if late else "",
                "none" if self.stored_step is None else self.stored_step, self.paths.root,
            )  # fmt: skip
        self._pending = None
        self._closing = self._skip_pause = self._abandoned = False
        return whole

    def abandon(self) -> None:
        """Stop at once and for good: the directory is gone or holds another run now."""
        self._gone = True
        with self._lock:
            self._pending = None
            self._closing = self._abandoned = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.kill()

    def _give_up(self, thread: _BackupThread) -> None:
        """End `thread`, which has passed the deadline, or abandon it if it hangs."""
        with self._lock:
            self._abandoned = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.kill()
        thread.ended.wait(_LAST_WAIT_S)
        if self._thread is thread:
            self._thread = None

    # --- the thread -------------------------------------------------------------------------------

    def _ensure_thread(self) -> _BackupThread:
        """Return the thread, started if there is none. The caller holds the lock.

        An exception of a signal handler may leave a thread that does not count as started. When it
        begins, it finds that another thread has replaced it.
        """
        thread = self._thread
        if thread is None or not thread.is_started:
            thread = self._thread = _BackupThread(self._serve, "backup")
            thread.start()
        return thread

    def _serve(self, thread: _BackupThread) -> None:
        """Serve submitted steps until `close`. Runs in the thread."""
        try:
            while (step := self._next(thread)) is not None:
                problem = self._try(step)
                with self._lock:
                    if problem is None:
                        self._failed_in_row = 0
                    elif (
                        self._thread is not thread
                        or self._abandoned
                        or not self._waits_to_retry(step, problem)
                    ):
                        self._leave(thread)
                        break
        finally:
            self._leave(thread)
            if thread.process is not None:
                thread.process.kill()

    def _leave(self, thread: _BackupThread) -> None:
        """Release the place of `thread`, so that later steps get another thread and helper."""
        with self._lock:
            if self._thread is thread:
                self._thread = None
                thread.process, self._process = self._process, None

    def _next(self, thread: _BackupThread) -> int | None:
        """Return the newest submitted step; None when `thread` has to end."""
        with self._lock:
            while self._thread is thread and self._pending is None and not self._closing:
                self._changed.wait(_RECHECK_S)
            if self._thread is not thread or self._pending is None or self._abandoned:
                self._leave(thread)
                return None
            step, self._pending = self._pending, None
            return step

    def _waits_to_retry(self, step: int, problem: str) -> bool:
        """Log a failure, pause and queue the step again; return False if `close` has to give up."""
        self.failures += 1
        self._failed_in_row += 1
        if self._failed_in_row == 1:
            message = (
                "backup of step %d to %s failed: %s; training continues, and it is tried again"
            )
            log.warning(message, step, self.url, problem)
        else:
            log.info("backup of step %d to %s failed again: %s", step, self.url, problem)
        if self._failed_in_row > self.retries:
            # Nothing newer while training: the next checkpoint is tried anew. At the end there is
            # no next one.
            if self._closing:
                self._pending = self._pending or step
            return not self._closing
        pause_s = min(self.pause_s * 2.0 ** (self._failed_in_row - 1), _LONGEST_PAUSE_S)
        end_s = time.monotonic() + pause_s
        while (
            not (self._skip_pause or self._abandoned) and (left_s := end_s - time.monotonic()) > 0
        ):
            self._changed.wait(min(left_s, _RECHECK_S))
        self._skip_pause = False
        self._pending = step if self._pending is None else self._pending
        return True

    def _try(self, step: int) -> str | None:
        """Back up `step` once; return None or the problem."""
        try:
            answer = self._ask(
                {
                    "do": "back up",
                    "root": str(self.paths.root),
                    "what": {"step": step, **self._what},
                }
            )
        except (BackupProcessError, OSError) as error:
            self._stop_process()
            return str(error)
        problem: str | None = answer.get("refused") or answer.get("failed")
        if problem is not None:
            self._stop_process()  # its connections may be broken
        elif answer.get("gone"):
            log.info(
                "backup of step %d skipped: its checkpoint was removed before the storage was free",
                step,
            )
        else:
            if self._failed_in_row:
                log.warning("backups to %s work again, from step %d on", self.url, step)
            self.stored_step = step
            log.info(
                "backup of step %d complete: %.1f MB new in %.1f s",
                step,
                answer["new_mb"],
                answer["time_s"],
            )
        return problem

    def _stop_process(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of the helper, started if there is none.

        Raises:
            BackupProcessError: it gives no answer.
            OSError: the run directory cannot be written.
        """
        self._process = self._process or BackupProcess(self.timeout_s)
        self._run = self._run or self._identity()
        answer = self._process.ask({**request, "url": self.url, "run": self._run})
        if not self._run["run_id"] and "run_id" in answer:
            self._run["run_id"] = answer["run_id"]
            write_json_atomic(self.paths.backup_file, self._run)
        return answer

    def _identity(self) -> dict[str, str]:
        """Return name and id of the run, from its directory, so that a moved run finds its backups.

        With an empty id, after the file was lost, the run continues the backups at its place.
        """
        name = self.paths.root.name
        if self._outputs is not None and self.paths.root.is_relative_to(self._outputs):
            name = self.paths.root.relative_to(self._outputs).as_posix()
        file = self.paths.backup_file
        if file.is_file():
            try:
                known = read_json(file)
                name_then, run_id = str(known["name"]), str(known["run_id"])
                if leads_out(name_then):  # the place of another user
                    raise UserError(f"{file} names the run {name_then}")
            except (UserError, KeyError):
                log.warning("%s is damaged; it is written anew, from the backups of %s", file, name)
                return {"name": name, "run_id": ""}
            # A copy of a run's folder, under another name, is a run of its own.
            if Path(name_then).name == self.paths.root.name:
                return {"name": name_then, "run_id": run_id}
        run = {"name": name, "run_id": secrets.token_hex(8)}
        write_json_atomic(file, run)
        return run


class _BackupThread(ServiceThread):
    process: BackupProcess | None = None
    """The helper that it has to end."""
