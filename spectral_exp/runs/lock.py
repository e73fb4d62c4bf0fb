"""Ownership of a run directory by one process at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from spectral_exp.core.errors import RunError, UserError, explain_os_error
from spectral_exp.core.file_locks import fcntl
from spectral_exp.core.regular_file import open_run_file, read_regular
from spectral_exp.core.timestamps import seconds_since_epoch, timestamp
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.record import LockOwner, parse_lock_owner

log = logging.getLogger(__name__)

_MAX_BYTES = 4096
_MAX_SILENCE_S = 3600.0  # a process on another host that logs nothing for longer counts as dead
_CLOCK_TOLERANCE_S = 2.0  # the lock file has whole seconds, the process table has its own clock


class LostRunError(RunError):
    """The run directory no longer belongs to this process, which must not write to it."""


class RunInUseError(UserError):
    """Another live process owns the run directory."""


class RunLock:
    """Ownership of a run directory by one process: `with RunLock(root): ...`.

    The operating system ties the lock to the open file (flock), so the lock ends with its owner.
    The file holds `host`, `pid` and `since` of the owner and is removed on release. Without flock
    (Windows) the existence of the file is the lock: the file of a dead process on this host is
    replaced; that of a process on another host has to be deleted by hand. If the file system does
    not support locks, a warning is logged and the directory is unprotected.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = RunPaths(root).lock_file
        self._descriptor: int | None = None
        self._root: os.stat_result | None = None
        self._checking = threading.RLock()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            RunInUseError: another process holds it.
            UserError: the folder is not writable.
        """
        while self._descriptor is None:
            with explain_os_error(f"lock the run directory {self.path.parent}"):
                self._try_once()

    def _try_once(self) -> None:
        descriptor = open_run_file(self.path, os.O_RDWR | os.O_CREAT)
        try:
            self._lock(descriptor)
            _write_owner(descriptor)
            # The previous owner may have removed the file after it was opened here.
            if _is_at(descriptor, self.path):
                self._root = self.path.parent.stat()
                self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)

    def check(self) -> None:
        """Check that the directory still belongs to this process; do nothing without the lock.

        Thread-safe.

        Raises:
            LostRunError: the directory was moved or removed, or another process owns the path.
        """
        with self._checking:
            descriptor = self._descriptor
            if descriptor is None or _is_at(descriptor, self.path) or self._write_again():
                return
        raise LostRunError(
            f"the run directory {self.path.parent} was moved or removed while this process trained "
            "in it: training has stopped, so that it writes to no other run; continue the run with "
            "resume=<the folder of the run now>"
        )

    def release(self) -> None:
        """Release the lock; do nothing without it."""
        if self._descriptor is None:
            return
        is_ours = _is_at(self._descriptor, self.path)
        if fcntl is None:  # Windows cannot remove an open file
            os.close(self._descriptor)
        if is_ours:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                # Closing the file releases the lock, and must not hide an error of the run.
                log.warning("cannot remove %s: %s", self.path, error.strerror)
        if fcntl is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _write_again(self) -> bool:
        """Write the lock file again if only the file was removed; return whether it is locked."""
        try:
            if self._root is None or not os.path.samestat(self._root, self.path.parent.stat()):
                return False
            descriptor = open_run_file(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError:
            return False
        try:
            self._lock(descriptor)
        except UserError:
            os.close(descriptor)
            return False
        _write_owner(descriptor)
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = descriptor
        log.warning("%s was removed during the run; it is written again", self.path)
        return True

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            owner = _read_owner_from(descriptor)
            if owner and (owner["host"] != socket.gethostname() or _is_alive_here(owner)):
                raise RunInUseError(self._refusal(owner))
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunInUseError(self._refusal(_read_owner_from(descriptor))) from error
        except OSError as error:
            log.warning(
                "%s is not protected against a second process: %s", self.path.parent, error.strerror
            )

    def _refusal(self, owner: LockOwner | None) -> str:
        process = "another process"
        if owner:
            process = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        return (
            f"the run directory {self.path.parent} is in use by {process}; wait for it, stop it, "
            "or start a new run"
        )


def read_owner(root: Path) -> LockOwner | None:
    """Return the process that the lock file of a run names, alive or dead, or None.

    This does not try the lock, because that could make the next owner fail.
    """
    try:
        return parse_lock_owner(read_regular(RunPaths(root).lock_file, _MAX_BYTES))
    except OSError:
        return None


def is_alive(owner: LockOwner, root: Path) -> bool:
    """Return whether the owner of a run is alive.

    On this host its process must exist and be older than the lock. On another host, a process
    counts as alive if it has logged something within the last hour.
    """
    if owner["host"] == socket.gethostname():
        return _is_alive_here(owner)
    paths = RunPaths(root)
    for file in (paths.lock_file, paths.metrics_file):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime < _MAX_SILENCE_S:
                return True
    return False


def is_running(root: Path) -> bool:
    """Return whether a live process owns the run in `root`."""
    owner = read_owner(root)
    return owner is not None and is_alive(owner, root)


def is_running_elsewhere(root: Path) -> bool:
    """Return whether a live process other than this one owns the run in `root`."""
    owner = read_owner(root)
    if owner is None or (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid()):
        return False
    return is_alive(owner, root)


def names_other_host(root: Path) -> bool:
    """Return whether the lock file of a run names a process on another host, alive or dead."""
    owner = read_owner(root)
    return owner is not None and owner["host"] != socket.gethostname()


def _is_alive_here(owner: LockOwner) -> bool:
    import psutil

    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # The system may give the id of a dead process to a new one.
        since = seconds_since_epoch(owner["since"])
        return math.isnan(since) or process.create_time() <= since + _CLOCK_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it belongs to another user
        return True


def refuse_if_running(root: Path, *, here: bool = False) -> None:
    """Raise a UserError if another live process, or this one if `here`, owns the run in `root`."""
    if is_running_elsewhere(root) or (here and is_running(root)):
        raise UserError(RunLock(root)._refusal(read_owner(root)))


def _write_owner(descriptor: int) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": timestamp(),
        "token": secrets.token_hex(8),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(owner).encode())


def _read_owner_from(descriptor: int) -> LockOwner | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return parse_lock_owner(os.read(descriptor, _MAX_BYTES))


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open lock file is the one at `path`."""
    try:
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return True
        # Some network file systems change the inode of a file, so compare its content.
        _write_owner(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return not path.is_symlink() and path.read_bytes() == os.read(descriptor, _MAX_BYTES)
    except OSError:
        return False
