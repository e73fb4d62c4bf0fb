"""A folder of finished things that any number of processes may build and read at the same time.

Everything is built under a unique name beside its final place, synced, and renamed: what stands under a final name is
whole, or is recognised as damaged by the sizes and checksums in its `meta.json` and built again.
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
    """Tell a failure to use the cache folder as a UserError that names the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {root} cannot be used ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to a folder that can be written and has room"
        ) from error


def digest(value: object) -> str:
    """Hexadecimal SHA-256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle to sync a folder by
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unique_sibling(path: Path) -> Path:
    """A name beside `path` that no other process or call uses."""
    return path.with_name(f"{_DRAFT_PREFIX}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:12]}")


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary file, sync, rename, sync of the folder."""
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
    """The value in a JSON file, or None when the file is missing, unreadable or not JSON."""
    try:
        return json.loads(read_regular(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def load_entry(folder: Path) -> dict[str, Any] | None:
    """The values that `build_entry` stored with a folder, or None when it is missing or damaged.

    Every file must have its recorded size. Its checksum is computed again only when its modification time differs from
    the recorded one, so that loading a large untouched entry costs no reading.
    """
    if not folder.exists():
        return None
    meta = read_json(folder / META)
    try:
        if meta["sha256"] == digest(meta["body"]) and _files_match(folder, meta["body"]["files"]):
            values: dict[str, Any] = meta["body"]["values"]
            return values
    except (TypeError, KeyError, OSError):
        pass  # garbage in place of the expected structure, or a file that is gone: damaged, as reported below
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
    """Build a folder that appears complete or not at all, and return the values stored with it.

    `fill(draft)` writes the files into the empty folder `draft` and returns JSON-able values. If another process
    finished the same folder meanwhile, its result is taken and ours is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    draft = unique_sibling(folder)
    draft.mkdir()
    try:
        _seal(draft, fill(draft))
        placed = _place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after success it has moved away
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
    """Move the draft to its place; the values found there, or None if another process took it for a damaged one."""
    for _ in range(_ATTEMPTS):
        try:
            draft.rename(
                folder
            )  # refuses a folder with something in it, so nobody's finished work is overwritten
            sync(folder.parent)
        except FileNotFoundError:
            return load_entry(folder)  # moved in the round before, and away since
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        values = load_entry(folder)
        if values is not None:
            return values
        _discard(folder)
    raise UserError(f"the cache entry {folder} keeps being replaced by another process; try again")


def _discard(folder: Path) -> None:
    """Take a damaged entry out of the way in one rename, then delete it."""
    trash = unique_sibling(folder)
    with suppress(FileNotFoundError):  # another process was quicker
        folder.rename(trash)
    if trash.is_dir():
        shutil.rmtree(trash, ignore_errors=True)
    else:
        trash.unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Delete drafts of processes that were killed long ago."""
    for path in parent.glob(f"{_DRAFT_PREFIX}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                _discard(path)
