"""Run directories: experiment ids, the layout and every file name in it, its lock, and durable file operations.

Whoever writes into a run directory or reads from it takes paths and file operations from here, so that names are
decided once and no reader ever meets a half-written file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import math
import os
import re
import secrets
import socket
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from spectral_exp.errors import UserError, require

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# --- file names ------------------------------------------------------------------------------------------------------

CHECKPOINTS_FOLDER = "checkpoints"
LOGS_FOLDER = "logs"
VISUALIZATIONS_FOLDER = "visualizations"
TOKENIZER_FOLDER = "tokenizer"
CONFIG_NAME = "config.json"
RESULTS_NAME = "results.json"
GIT_DIFF_NAME = "git_diff.patch"
LOCK_NAME = "run.lock"
BACKUP_NAME = "backup.json"
METRICS_NAME = "metrics.jsonl"
CUT_METRICS_NAME = "metrics.cut.jsonl"
TRAINING_LOG_NAME = "training.log"
LATEST_NAME = "checkpoint_latest.pt"
BEST_NAME = "checkpoint_best.pt"
CORRUPT_SUFFIX = ".corrupt"
TEMPORARY_SUFFIX = ".tmp"

COMPRESSED_SUFFIX = ".zst"

_CHECKPOINT_NAME = re.compile(r"checkpoint_step_(0|[1-9]\d*)\.pt(\.zst)?")

NO_GIT_HASH = "nogit000"
"""Stands for the commit hash where the code is in no git repository, or in one without commits."""


class RunPaths:
    """Where everything lies below the root of a run. Creates nothing."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.checkpoints = self.root / CHECKPOINTS_FOLDER
        self.logs = self.root / LOGS_FOLDER
        self.visualizations = self.root / VISUALIZATIONS_FOLDER
        self.tokenizer = self.root / TOKENIZER_FOLDER
        self.config_file = self.root / CONFIG_NAME
        self.results_file = self.root / RESULTS_NAME
        self.git_diff_file = self.root / GIT_DIFF_NAME
        self.lock_file = self.root / LOCK_NAME
        self.backup_file = self.root / BACKUP_NAME
        self.metrics_file = self.logs / METRICS_NAME
        self.training_log = self.logs / TRAINING_LOG_NAME
        self.latest_link = self.checkpoints / LATEST_NAME
        self.best_link = self.checkpoints / BEST_NAME

    def checkpoint_file(self, step: int) -> Path:
        """The checkpoint of `step`; the compressed one where only that exists."""
        plain = self.checkpoints / f"checkpoint_step_{step}.pt"
        compressed = plain.with_name(plain.name + COMPRESSED_SUFFIX)
        return compressed if compressed.exists() and not plain.exists() else plain

    def checkpoint_step(self, path: Path) -> int | None:
        """The step in the name of a checkpoint file, or None if `path` is not named like one."""
        match = _CHECKPOINT_NAME.fullmatch(path.name)
        return int(match[1]) if match else None

    def checkpoint_steps(self) -> list[int]:
        """Steps which have a checkpoint file, ascending; empty when there is no folder."""
        try:
            steps = [self.checkpoint_step(file) for file in self.checkpoints.iterdir()]
        except FileNotFoundError:
            return []
        return sorted({step for step in steps if step is not None})


# --- experiment ids --------------------------------------------------------------------------------------------------

_MAX_NAME_BYTES = 160  # with timestamp, hash and a temporary name's additions it stays below the usual limit of 255
_STALE_CLAIM_S = 2 * 3600.0  # longer than the hour that local time repeats when daylight saving ends
_claimed_here: set[str] = set()


def generate_experiment_id(name: str, parent: str | Path | None = None) -> str:
    """A new id `{name}_{YYYYMMDD_HHMMSS}_{git hash}`, used by nobody else on this machine.

    Processes of one user that ask in the same second get different seconds, the later ones a second from the future.

    Args:
        name: experiment name; characters that are awkward in file names become "-".
        parent: folder of the runs; ids which already have a folder there are passed over.

    Raises:
        SettingError: the name has no usable character, or too many.
    """
    clean = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    require(bool(clean), "name", repr(name), "a name with at least one letter, digit or underscore")
    require(len(clean.encode()) <= _MAX_NAME_BYTES, "name", repr(name), f"at most {_MAX_NAME_BYTES} bytes long")
    commit = git_hash()
    second = datetime.now()
    while True:
        stamped = f"{clean}_{second:%Y%m%d_%H%M%S}"
        experiment_id = f"{stamped}_{commit}"
        taken = parent is not None and os.path.lexists(Path(parent) / experiment_id)
        if not taken and _claim(stamped):
            return experiment_id
        second += timedelta(seconds=1)


def _claim(stamped: str) -> bool:
    """Reserve a name and second for this process; False if somebody has it."""
    if stamped in _claimed_here:
        return False
    try:
        folder = _claims_folder()
        with (folder / stamped).open("x"):
            pass
    except FileExistsError:
        return False
    except OSError as error:
        # Without a usable folder for temporary files ids are unique within this process only.
        log.debug("no claim on %s beyond this process: %s", stamped, error)
    _claimed_here.add(stamped)
    return True


def _claims_folder() -> Path:
    """This user's folder of claims, cleared of old ones. Raises OSError if it cannot be used."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"spectral_exp-{user}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "owned by another user", str(folder))
    oldest = time.time() - _STALE_CLAIM_S
    for claim in folder.iterdir():
        # Another process may be cleaning too.
        with contextlib.suppress(FileNotFoundError):
            if claim.stat().st_mtime < oldest:
                claim.unlink()
    return folder


def code_directory() -> Path:
    """The folder whose git state describes the code: the package's checkout, or for an installed package the cwd."""
    return _checkout() or Path.cwd()


@functools.cache
def _checkout() -> Path | None:
    """The package's checkout, or None for an installed package. Asked once: every checkpoint names its commit."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / ".git").exists() else None


def run_git(*arguments: str, directory: Path, timeout_s: float = 10.0) -> bytes | None:
    """What a git command prints, or None where git, a repository or an answer within `timeout_s` is missing."""
    # A surrounding git hook exports its own repository, which is not the one asked about. No lock: only reading.
    inherited = {k: v for k, v in os.environ.items() if k not in {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            env={**inherited, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("git %s: %s", " ".join(arguments), error)
        return None
    return done.stdout if done.returncode == 0 else None


def git_hash() -> str:
    """The first 8 characters of the code's commit, or `NO_GIT_HASH`. Asked once per process: loaded code stays."""
    return _git_hash(code_directory())


@functools.cache
def _git_hash(directory: Path) -> str:
    printed = run_git("rev-parse", "--verify", "HEAD", directory=directory)
    return printed.decode()[:8] if printed else NO_GIT_HASH


def create_experiment_directory(base_dir: str | Path, experiment_id: str) -> dict[str, Path]:
    """Create the folders of a run, or find them there.

    Returns:
        Paths under the keys `root`, `checkpoints`, `logs` and `visualizations`.

    Raises:
        UserError: the folders cannot be created or written.
    """
    usable = experiment_id not in {"", ".", ".."} and Path(experiment_id).name == experiment_id
    require(usable, "experiment_id", repr(experiment_id), "a plain folder name")
    paths = RunPaths(Path(base_dir) / experiment_id)
    folders = {
        "root": paths.root,
        "checkpoints": paths.checkpoints,
        "logs": paths.logs,
        "visualizations": paths.visualizations,
    }
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise UserError(
            f"cannot create the run directory {paths.root}: {error.strerror} ({error.filename}); "
            "choose a folder you may write to, or free space on its disk"
        ) from error
    return folders


# --- lock ------------------------------------------------------------------------------------------------------------


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
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise UserError(f"cannot lock the run directory {self.path.parent}: {error.strerror}") from error
            try:
                self._lock(descriptor)
                # The owner before us may have removed the file between our opening and locking it.
                if _same_file(descriptor, self.path):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        since = datetime.now().isoformat(timespec="seconds")
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        try:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, json.dumps(owner).encode())
        except OSError as error:
            self.release()
            raise UserError(f"cannot lock the run directory {self.path.parent}: {error.strerror}") from error

    def release(self) -> None:
        """Give the directory back; does nothing when it is not held."""
        if self._descriptor is None:
            return
        if fcntl is None:  # Windows cannot remove an open file
            os.close(self._descriptor)
            self.path.unlink(missing_ok=True)
        else:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = None

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


def _lock_owner(descriptor: int) -> dict[str, Any] | None:
    """What the lock file says, or None before its new owner has written it."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = json.loads(os.read(descriptor, 4096))
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "since"} <= owner.keys() else None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


# --- durable files ---------------------------------------------------------------------------------------------------


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path`, durably, when the block ends; if the block raises, `path` stays what it was.

    Bytes go to a temporary file in the same folder, which is synchronised and renamed; then the folder is synchronised.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        discard(temporary)
        raise
    fsync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """A name in the folder of `path` that nobody else uses, for what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def discard(temporary: Path) -> None:
    """Remove a temporary file after a failure."""
    # The disk may be too broken even for this; what brought us here says so.
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left in `folder`. For its only writer, at a moment when it writes nothing."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def fsync_directory(folder: Path) -> None:
    """Make renames, new names and removals in `folder` survive a power cut, as far as its file system can."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # file systems that do not know the operation
            raise
    finally:
        os.close(descriptor)


def replace_symlink(link: Path, target: Path) -> None:
    """Let `link` point to `target`, a file in the same folder, durably and without a moment in which it points nowhere.

    Where symbolic links are refused a small text file holding the target's name takes its place; `follow` reads both.
    """
    temporary = temporary_path(link)
    try:
        temporary.symlink_to(target.name)
    except (OSError, NotImplementedError) as error:
        log.debug("no symbolic link %s (%s): writing a pointer file", link, error)
        with atomic_writer(link) as file:
            file.write(f"{target.name}\n".encode())
        return
    temporary.replace(link)
    fsync_directory(link.parent)


def follow(link: Path) -> Path | None:
    """The existing file that a link made by `replace_symlink` points to, or None."""
    try:
        name = str(link.readlink()) if link.is_symlink() else _read_pointer(link)
    except OSError:
        return None
    target = link.with_name(Path(name).name) if name.strip() else link
    return target if target != link and target.is_file() else None


def _read_pointer(link: Path) -> str:
    with link.open("rb") as file:
        return file.read(1024).partition(b"\n")[0].decode(errors="replace")


# --- JSON ------------------------------------------------------------------------------------------------------------

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How numbers which JSON does not know are written, and what they stand for."""


def non_finite_name(value: float) -> str:
    """The string that stands for a NaN or an infinity in JSON files."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def jsonable(value: Any) -> Any:
    """`value` in the types of standard JSON: non-finite numbers as strings, numpy and torch as numbers and lists."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else non_finite_name(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [jsonable(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)


def write_json_atomic(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, durably: a reader finds the old file or the whole new one."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_writer(path) as file:
        # A lone surrogate stands for a byte of a file name that is not UTF-8.
        file.write(f"{text}\n".encode(errors="backslashreplace"))


def content_crc32(content: Mapping[str, Any]) -> str:
    """The checksum that a JSON file may carry as its entry `crc32`: of all other entries, however they are printed."""
    rest = {key: value for key, value in content.items() if key != "crc32"}
    text = json.dumps(jsonable(rest), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing, unreadable or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__} where an object was expected")
    return content


def read_intact_json(path: Path) -> dict[str, Any]:
    """As `read_json`, and the content agrees with its checksum, where it has one; else raises UserError as well."""
    content = read_json(path)
    if "crc32" in content and content["crc32"] != content_crc32(content):
        raise UserError(f"{path} was changed or damaged since it was written")
    return content
