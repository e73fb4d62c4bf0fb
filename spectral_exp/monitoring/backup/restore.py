"""Restore a run from its remote backup to a machine that holds nothing of it."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spectral_exp.core import files
from spectral_exp.core.checksum import crc32
from spectral_exp.core.errors import UserError
from spectral_exp.core.file_locks import fcntl
from spectral_exp.monitoring.backup.store import (
    DamagedError,
    Store,
    manifest_names,
    normalize_url,
    read_manifest,
    reason,
)
from spectral_exp.runs import layout

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_TRIES = 4
_PAUSE_S = 2.0


def restore(url: str, outputs: str | Path, setting: str = "resume") -> Path:
    """Copy the newest intact backup of a run to this machine, as a run directory to continue.

    An existing folder of the run is never changed: it is returned if it is as new as the backup.

    Args:
        url: of the run, `<backup_url>/<run name>`.
        outputs: folder of the runs; made if it does not exist.
        setting: name of the setting that holds the URL, for messages.

    Returns:
        The run directory, `<outputs>/<run name>`.

    Raises:
        UserError: no backup is intact, the storage cannot be read, or an older copy of the run
            exists here.
    """
    url = normalize_url(url, setting)
    shown = f"{setting}={url}"
    store, keys = _open(url, setting)
    if not keys:
        raise UserError(
            f"{shown} holds no backup of a run; name the run itself: <backup_url>/<run name>"
        )
    for key in keys:
        try:
            manifest = _retry(functools.partial(read_manifest, store, key), shown)
            target = Path(outputs) / str(manifest["run"])
            if os.path.lexists(target):
                return _accept_existing(target, int(manifest["step"]), shown)
            _fetch(store, manifest, target, shown)
        except DamagedError as error:
            log.warning(
                "BACKUP DAMAGED: %s of %s: %s; falling back to the backup before it",
                key,
                url,
                error,
            )
        else:
            log.info("restored step %d of %s to %s", manifest["step"], url, target)
            return target
    raise UserError(
        f"{shown} holds {len(keys)} backups, and none is intact; if the run is being backed up"
        " right now, try again, else start it anew"
    )


def _open(url: str, setting: str) -> tuple[Store, list[str]]:
    """Return the storage of a run, and the keys of its manifests, newest first."""
    try:
        store = Store(url, setting)
        return store, [name.key for name in manifest_names(store.names())]
    except UserError:
        raise
    except Exception as error:  # each library has errors of its own
        raise UserError(
            f"{setting}={url} cannot be read: {reason(error, url.partition('://')[0])}"
        ) from error


def _accept_existing(target: Path, step: int, shown: str) -> Path:
    """Return the run that exists here, if it is not older than the backup of `step`."""
    here = max(layout.RunPaths(target).checkpoint_steps(), default=None)
    if here is not None and here >= step:
        log.info(
            "%s is here already, at step %d; the backup of step %d is not needed",
            target,
            here,
            step,
        )
        return target
    state = "holds no checkpoint" if here is None else f"is only at step {here}"
    raise UserError(
        f"{shown} has step {step}, but {target} exists and {state}; move it away to restore the"
        f" backup, or continue it as it is with resume={target}"
    )


def _fetch(store: Store, manifest: Mapping[str, Any], target: Path, shown: str) -> None:
    """Download one backup beside `target`, verified, then give it its name.

    Raises:
        DamagedError: its newest checkpoint or its configuration is not whole. Other damaged files
            are left out.
    """
    temporary = files.temporary_path(target)
    stack = contextlib.ExitStack()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        temporary.mkdir()
        stack.enter_context(_marked_in_use(temporary))
        for name, entry in manifest["files"].items():
            try:
                _retry(functools.partial(_download, store, entry, temporary / name), shown)
            except DamagedError as error:
                if name in (manifest["latest"], layout.CONFIG_NAME):
                    raise
                (temporary / name).unlink(missing_ok=True)
                log.warning("BACKUP DAMAGED: %s; the run is restored without %s", error, name)
        paths = layout.RunPaths(temporary)
        for link, pointed in (
            (paths.latest_link, manifest["latest"]),
            (paths.best_link, manifest["best"]),
        ):
            if pointed is not None and (temporary / pointed).is_file():
                files.replace_symlink(link, temporary / pointed)
        for folder in (path for path in temporary.rglob("*") if path.is_dir()):
            files.fsync_directory(folder)
        files.fsync_directory(temporary)
        temporary.rename(target)
        files.fsync_directory(target.parent)
    except OSError as error:
        raise UserError(
            f"cannot restore to {target}: {error.strerror or error}; free space, or choose another "
            "folder with outputs=DIR"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        stack.close()


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of killed restores of this run; a running one is locked."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{files.TEMPORARY_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            with contextlib.suppress(OSError), _marked_in_use(leftover):
                shutil.rmtree(leftover)


@contextlib.contextmanager
def _marked_in_use(folder: Path) -> Iterator[None]:
    """Lock `folder`, until the end of the block or of this process, against removal as a leftover.

    Raises:
        OSError: another process uses it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _retry(work: Callable[[], _T], shown: str) -> _T:
    """Return the result of `work`, tried several times. Raises UserError if all tries fail."""
    for attempt in range(1, _TRIES + 1):
        try:
            return work()
        except (DamagedError, UserError):
            raise
        except Exception as error:  # each library has errors of its own
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EROFS,
            ):
                raise
            problem = reason(error, shown.partition("=")[2].partition("://")[0])
            if attempt == _TRIES:
                raise UserError(f"{shown} cannot be read: {problem}") from error
            log.warning("reading %s failed (%s); trying again", shown, problem)
            time.sleep(_PAUSE_S * attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _download(store: Store, entry: dict[str, Any], path: Path) -> None:
    """Store the object of `entry` as `path`.

    Raises:
        DamagedError: it is missing or not what was written.
    """
    checksum = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in store.pieces(entry["key"]):
                checksum = crc32(piece, checksum)
                file.write(piece)
                if file.tell() > entry["size"]:
                    raise DamagedError(
                        f"{entry['key']} is larger than the {entry['size']:,} bytes that were"
                        " written"
                    )
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    except FileNotFoundError as error:
        raise DamagedError(f"{entry['key']} is missing") from error
    if size != entry["size"] or f"{checksum:08x}" != entry["crc32"]:
        raise DamagedError(
            f"{entry['key']} has {size} bytes with checksum {checksum:08x}, not those written"
        )
    # The times of two checkpoints decide which of them belongs to an abandoned branch.
    os.utime(path, ns=(entry["mtime_ns"], entry["mtime_ns"]))
