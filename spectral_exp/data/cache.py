"""A cache folder whose entries any number of processes may build and read at the same time.

Each entry is built under a unique name beside its final place, synchronized, and renamed. An entry
whose files differ from the sizes and checksums in its `meta.json` is damaged and is built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spectral_exp.core import files
from spectral_exp.core.cache_folder import CACHE_VARIABLE
from spectral_exp.core.errors import UserError
from spectral_exp.core.regular_file import read_regular

META = "meta.json"
_MAX_JSON_BYTES = 256 << 20
_ABANDONED_AFTER_S = 2 * 24 * 3600
_ATTEMPTS = 10
_log = logging.getLogger(__name__)


@contextmanager
def cache_errors(root: Path) -> Iterator[None]:
    """Raise a UserError with the remedy for an OSError of the cache folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache folder {root} cannot be used ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to a folder that can be written and has room"
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


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file durably or nothing, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, data)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file, or None if it is missing, unreadable or not JSON."""
    try:
        return json.loads(read_regular(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def load_entry(folder: Path) -> dict[str, Any] | None:
    """Return the values stored with an entry, or None if it is missing or damaged.

    Every file must have its recorded size. Its checksum is computed again only if its modification
    time differs from the recorded one, so that a large untouched entry loads without being read.
    """
    if not folder.exists():
        return None
    meta = read_json(folder / META)
    try:
        if meta["sha256"] == digest(meta["body"]) and _files_match(folder, meta["body"]["files"]):
            values: dict[str, Any] = meta["body"]["values"]
            return values
    except (TypeError, KeyError, OSError):
        pass  # the structure is wrong or a file is missing: damaged, as reported below
    _log.warning("the cache entry %s is damaged and will be built again", folder)
    return None


def _files_match(folder: Path, recorded_files: dict[str, dict[str, Any]]) -> bool:
    for name, recorded in recorded_files.items():
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

    `fill(draft)` writes the files into the empty folder `draft` and returns JSON-able values. If
    another process has finished the same folder meanwhile, its result is returned.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    draft = files.temporary_path(folder)
    draft.mkdir()
    try:
        _seal(draft, fill(draft))
        placed = _place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after success it has moved away
    return build_entry(folder, fill) if placed is None else placed


def _seal(draft: Path, values: dict[str, Any]) -> None:
    facts = {}
    for path in sorted(path for path in draft.rglob("*") if path.is_file()):
        files.fsync_path(path)
        stat = path.stat()
        facts[path.relative_to(draft).as_posix()] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": file_sha256(path),
        }
    body = {"files": facts, "values": values}
    write_file(draft / META, json.dumps({"sha256": digest(body), "body": body}, indent=1).encode())
    for path in draft.rglob("*"):
        if path.is_dir():
            files.fsync_directory(path)


def _place(draft: Path, folder: Path) -> dict[str, Any] | None:
    """Move the draft to its place and return the values found there.

    None if another process has discarded the draft as damaged.
    """
    for _ in range(_ATTEMPTS):
        try:
            draft.rename(folder)  # fails if the folder is not empty: a finished entry stays
            files.fsync_directory(folder.parent)
        except FileNotFoundError:
            return load_entry(folder)  # moved in the round before, and discarded since
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        values = load_entry(folder)
        if values is not None:
            return values
        _discard(folder)
    raise UserError(f"the cache entry {folder} keeps being replaced by another process; try again")


def _discard(folder: Path) -> None:
    """Rename a damaged entry, so that its place is free at once, then delete it."""
    trash = files.temporary_path(folder)
    with suppress(FileNotFoundError):  # discarded by another process
        folder.rename(trash)
    if trash.is_dir():
        shutil.rmtree(trash, ignore_errors=True)
    else:
        trash.unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    """Delete drafts of processes that were killed long ago."""
    for path in parent.glob(f".*{files.TEMPORARY_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                _discard(path)
