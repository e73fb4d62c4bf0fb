"""Run directories: experiment ids, the layout and every file name in it, and durable file operations.

Whoever writes into a run directory or reads from it takes paths and file operations from here, so that names are
decided once and no reader ever meets a half-written file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.git import git_hash
from spectral_exp.core.json_text import read_object
from spectral_exp.core.json_value import NON_FINITE as NON_FINITE
from spectral_exp.core.json_value import jsonable as jsonable
from spectral_exp.core.regular_file import open_regular

log = logging.getLogger(__name__)

# --- file names ------------------------------------------------------------------------------------------------------

CHECKPOINTS_FOLDER = "checkpoints"
LOGS_FOLDER = "logs"
VISUALIZATIONS_FOLDER = "visualizations"
TOKENIZER_FOLDER = "tokenizer"
HYDRA_FOLDER = ".hydra"
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
        """Steps which have a checkpoint file, ascending; empty when there is no folder.

        Raises:
            UserError: the folder cannot be read, which does not mean that it is empty.
        """
        try:
            steps = [self.checkpoint_step(file) for file in self.checkpoints.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read the folder {self.checkpoints}: {error.strerror}; check its permissions "
                            "and its disk, then try again") from error  # fmt: skip
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


# --- durable files ---------------------------------------------------------------------------------------------------


# A link is not followed, and a pipe would wait for its other end.
RUN_FILE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_run_file(path: Path, flags: int) -> int:
    """Open a file of a run, new files with the rights that the umask leaves; returns the descriptor.

    A run may come from somebody else: what lies in place of its file, a link or a pipe, is refused.

    Raises:
        OSError: the file cannot be opened, or is no regular file.
    """
    refuse_link(path)
    descriptor = os.open(path, flags | RUN_FILE_FLAGS, 0o666)
    try:
        refuse_irregular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def refuse_link(path: Path) -> None:
    """Raise an OSError if `path` is a link, also where the system cannot refuse to follow one."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed inside a run", str(path))


def refuse_irregular(descriptor: int, path: Path) -> None:
    """Raise an OSError if the open `path` is a pipe, a device or the like."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def links_inside(root: Path) -> list[Path]:
    """Links in places of a run where one would lead out of it, to what is written or backed up.

    The pointers to checkpoints are links of ours, and the folders of large files may lie elsewhere, but not in another
    run, whose files would be removed.
    """
    paths = RunPaths(root)
    small = (paths.logs, paths.tokenizer, root / HYDRA_FOLDER)
    files = (paths.lock_file, paths.config_file, paths.results_file, paths.backup_file, root / "train.log")
    places = [*small, *files, *(path for folder in small if not folder.is_symlink() for path in _entries(folder))]
    found = [path for path in places if path.is_symlink()]
    for folder in (paths.checkpoints, paths.visualizations):
        home = folder.resolve()
        if folder.is_symlink() and (home.parent / CONFIG_NAME).exists():
            found.append(folder)
        found += [path for path in _entries(folder) if path.is_symlink() and path.resolve().parent != home]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path`, durably, when the block ends; if the block raises, `path` stays what it was.

    Bytes go to a temporary file in the same folder, which is synchronised and renamed; then the folder is synchronised.

    Raises:
        OSError: it cannot be written, or `path` is a device, a pipe or a folder, which no file may replace.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
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


def remove_temporary_files(folder: Path, name: str = "") -> None:
    """Remove what killed writers left in `folder` of the file `name`, or of all files.

    For the only writer of these files, at a moment when it writes none.
    """
    for leftover in folder.glob(f".{name}*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def remove_unfinished_records(paths: RunPaths) -> None:
    """Remove what killed writers left of the records in a run directory. For the owner of the directory."""
    for folder in (paths.tokenizer, paths.root / HYDRA_FOLDER):
        remove_temporary_files(folder)
    # Others may write certificates and exported weights beside these.
    for record in (paths.config_file, paths.results_file, paths.git_diff_file, paths.backup_file):
        remove_temporary_files(paths.root, record.name)


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
    with open_regular(link) as file:
        return file.read(1024).partition(b"\n")[0].decode(errors="replace")


# --- JSON ------------------------------------------------------------------------------------------------------------


def write_json_atomic(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, durably: a reader finds the old file or the whole new one."""
    text = json_bytes(content)
    with atomic_writer(path) as file:
        file.write(text)


def json_bytes(content: Any) -> bytes:
    """`content` as an indented JSON file."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate stands for a byte of a file name that is not UTF-8.
    return f"{text}\n".encode(errors="backslashreplace")


def content_crc32(content: Mapping[str, Any]) -> str:
    """The checksum that a JSON file may carry as its entry `crc32`: of all other entries, however they are printed."""
    rest = {key: value for key, value in content.items() if key != "crc32"}
    text = json.dumps(jsonable(rest), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing, unreadable or no JSON object."""
    return read_object(path)


def read_intact_json(path: Path) -> dict[str, Any]:
    """As `read_json`, and the content agrees with its checksum, where it has one; else raises UserError as well."""
    content = read_json(path)
    if "crc32" in content and content["crc32"] != content_crc32(content):
        raise UserError(f"{path} was changed or damaged since it was written")
    return content
