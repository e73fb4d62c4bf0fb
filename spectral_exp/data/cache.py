"""A cache folder that any number of processes may write and read at the same time.

Each entry is built under a unique name beside its final path, synced, and renamed. An entry under
its final name is therefore complete, or the sizes and checksums in its `meta.json` show the damage
and it is built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spectral_exp.core.cache_folder import CACHE_VARIABLE
from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import read_regular

META = "meta.json"
_MAX_JSON_BYTES = 256 << 20
_DRAFT_PREFIX = ".draft-"
_ABANDONED_AFTER_S = 2 * 24 * 3600
_ATTEMPTS = 10
_log = logging.getLogger(__name__)


@contextmanager
def cache_errors(root: Path) -> Iterator[None]:
    """Convert an OSError of the cache folder to a UserError that names the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {root} cannot be used ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to a writable folder with free space"
        ) from error


def digest(value: object) -> str:
    """Return the hexadecimal SHA-256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot sync a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unique_sibling(path: Path) -> Path:
    """Return a path beside `path` that no other process or call uses."""
    return path.with_name(f"{_DRAFT_PREFIX}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:12]}")


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = unique_sibling(path)
    try:
        draft.write_bytes(data)
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file, or None if the file is missing, unreadable or not JSON."""
    try:
        return json.loads(read_regular(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def load_entry(folder: Path) -> dict[str, Any] | None:
    """Return the values stored with a folder by `build_entry`, or None if it is missing or damaged.

    Every file must have its recorded size. A checksum is recomputed only if the modification time
    differs from the recorded one, so a large unmodified entry is not read.
    """
    if not folder.exists():
        return None
    meta = read_json(folder / META)
    try:
        if meta["sha256"] == digest(meta["body"]) and _files_match(folder, meta["body"]["files"]):
            values: dict[str, Any] = meta["body"]["values"]
            return values
    except (TypeError, KeyError, OSError):
        pass  # another structure than expected, or a missing file: reported as damage below
    _log.warning("the cache entry %s is damaged and will be built again", folder)
    return None


def _files_match(folder: Path, files: dict[str, dict[str, Any]]) -> bool:
    for name, recorded in files.items():
        stat = (folder / name).stat()
        if stat.st_size != recorded["size"]:
            return False
        if (
            stat.st_mtime_ns != recorded["mtime_ns"]
            and file_sha256(folder / name) != recorded["sha256"]
        ):
            return False
    return True


def build_entry(folder: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Build a folder atomically and return the values stored with it.

    `fill(draft)` writes the files into the empty folder `draft` and returns JSON-able values. If
    another process completes the same folder first, its result is used.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    draft = unique_sibling(folder)
    draft.mkdir()
    try:
        _seal(draft, fill(draft))
        placed = _place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after success it no longer exists
    return build_entry(folder, fill) if placed is None else placed


def _seal(draft: Path, values: dict[str, Any]) -> None:
    files = {}
    for path in sorted(path for path in draft.rglob("*") if path.is_file()):
        sync(path)
        stat = path.stat()
        files[path.relative_to(draft).as_posix()] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": file_sha256(path),
        }
    body = {"files": files, "values": values}
    write_file(draft / META, json.dumps({"sha256": digest(body), "body": body}, indent=1).encode())
    for path in draft.rglob("*"):
        if path.is_dir():
            sync(path)


def _place(draft: Path, folder: Path) -> dict[str, Any] | None:
    """Rename the draft to `folder` and return its values, or None if another process removed it."""
    for _ in range(_ATTEMPTS):
        try:
            draft.rename(folder)  # fails if the folder has content, so no entry is overwritten
            sync(folder.parent)
        except FileNotFoundError:
            return load_entry(folder)  # renamed in an earlier attempt
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        values = load_entry(folder)
        if values is not None:
            return values
        _discard(folder)
    raise UserError(f"the cache entry {folder} keeps being replaced by another process; try again")


def _discard(folder: Path) -> None:
    """Rename a damaged entry, then delete it."""
    trash = unique_sibling(folder)
    with suppress(FileNotFoundError):  # another process removed it first
        folder.rename(trash)
    if trash.is_dir():
        shutil.rmtree(trash, ignore_errors=True)
    else:
        trash.unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Delete drafts older than two days, which killed processes left behind."""
    for path in parent.glob(f"{_DRAFT_PREFIX}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                _discard(path)
