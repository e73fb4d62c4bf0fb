"""Ownership of a run directory by one process at a time."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from spectral_exp.core.errors import RunError, UserError
from spectral_exp.core.files import open_run_file
from spectral_exp.core.timestamps import timestamp
from spectral_exp.runs.layout import RunPaths

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


class LostRunError(RunError):
    """The run directory does not belong to this process any more, so that nothing may be written there."""


class RunLock:
    """Ownership of a run directory by one process: `with RunLock(root): ...`.

    The operating system ties the lock to the open file (flock), so it vanishes with its owner however that ends. The
    file holds `host`, `pid` and `since` of the owner, and is removed on release. Where flock is missing (Windows) the
    file alone is the lock: one left by a dead process of this host is taken over, one of another host has to be deleted
    by hand. Where a file system refuses locks, a warning says that the directory is unprotected.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = RunPaths(root).lock_file
        self._descriptor: int | None = None
        self._root: os.stat_result | None = None
        self._checking = threading.RLock()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock. Raises UserError if another process has it, naming that, or if the folder is not writable."""
        while self._descriptor is None:
            try:
                self._try_once()
            except OSError as error:
                raise UserError(f"cannot lock the run directory {self.path.parent}: {error.strerror}") from error

    def _try_once(self) -> None:
        descriptor = open_run_file(self.path, os.O_RDWR | os.O_CREAT)
        try:
            self._lock(descriptor)
            _write_owner(descriptor)
            # The owner before us may have removed the file between our opening and locking it.
            if _is_at(descriptor, self.path):
                self._root = self.path.parent.stat()
                self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)

    def check(self) -> None:
        """Make sure that the directory still belongs to this process; does nothing when the lock is not held.

        For any number of threads.

        Raises:
            LostRunError: the directory was moved or removed, or another process has taken its place.
        """
        with self._checking:
            if self._descriptor is None or _is_at(self._descriptor, self.path) or self._write_again():
                return
        raise LostRunError(
            f"the run directory {self.path.parent} was moved or removed while this process trained in it: stopped, so "
            "that nothing is written to what is there now; continue the run with resume=<the folder where it lies now>"
        )

    def release(self) -> None:
        """Give the directory back; does nothing when it is not held."""
        if self._descriptor is None:
            return
        is_ours = _is_at(self._descriptor, self.path)
        if fcntl is None:  # Windows cannot remove an open file
            os.close(self._descriptor)
        if is_ours:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:  # the lock goes all the same, and how the run has ended is what matters
                log.warning("cannot remove %s: %s", self.path, error.strerror)
        if fcntl is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _write_again(self) -> bool:
        """Make the lock file anew if nothing but that was removed; whether this process owns the directory again."""
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
        log.warning("%s was removed while the run goes on; it is written again", self.path)
        return True

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            owner = _lock_owner(descriptor)
            if owner and (owner["host"] != socket.gethostname() or _is_alive(int(owner["pid"]))):
                raise UserError(self._refusal(owner))
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(self._refusal(_lock_owner(descriptor))) from error
        except OSError as error:
            log.warning("%s is not protected against a second process: %s", self.path.parent, error.strerror)

    def _refusal(self, owner: Mapping[str, Any] | None) -> str:
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
        return f"the run directory {self.path.parent} is in use by {who}; wait for it, stop it, or start a new run"


def is_locked_elsewhere(root: Path) -> bool:
    """Whether another process holds the lock of the run in `root`."""
    try:
        descriptor = os.open(RunPaths(root).lock_file, os.O_RDONLY)
    except OSError:
        return False
    try:
        owner = _lock_owner(descriptor)
        if owner and owner["host"] == socket.gethostname() and owner["pid"] == os.getpid():
            return False
        if fcntl is None:
            return owner is not None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def refuse_if_locked(root: Path) -> None:
    """Raise a UserError that names the other process, if one holds the lock of the run in `root`; changes nothing."""
    if is_locked_elsewhere(root):
        lock = RunLock(root)
        with lock.path.open("rb") as file:
            raise UserError(lock._refusal(_lock_owner(file.fileno())))


def _write_owner(descriptor: int) -> None:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": timestamp(), "token": secrets.token_hex(8)}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(owner).encode())


def _lock_owner(descriptor: int) -> dict[str, Any] | None:
    """What the lock file says, or None before its new owner has written it."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = json.loads(os.read(descriptor, 4096))
    except ValueError:
        return None
    if not (isinstance(owner, dict) and isinstance(owner.get("pid"), int)):
        return None
    texts = {name: str(owner.get(name)) for name in ("host", "since")}
    return {"pid": owner["pid"], **texts} if all(map(str.isprintable, texts.values())) else None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open lock file is the one at `path`."""
    try:
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return True
        # Some network file systems give a file another number with every look: ask for its content.
        _write_owner(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return not path.is_symlink() and path.read_bytes() == os.read(descriptor, 4096)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
