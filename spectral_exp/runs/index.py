"""An index of the facts of runs, with which a repeated call reads no metrics.

An entry belongs to one state of a run's files: size, times of change and inode of each. It is used
only while these are the same. It is written only if the files had not changed for a while, because
two changes within one tick of a file system's clock look like one. The index is a cache: if it is
damaged, locked or not writable, calls take longer and give the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from spectral_exp.core.cache_folder import cache_folder
from spectral_exp.core.errors import UserError
from spectral_exp.runs.layout import CONFIG_NAME, LOGS_FOLDER, METRICS_NAME, RESULTS_NAME
from spectral_exp.runs.load import Facts, read_many

log = logging.getLogger(__name__)

INDEX_NAME = "results.sqlite"

_FILES = (CONFIG_NAME, RESULTS_NAME, f"{LOGS_FOLDER}/{METRICS_NAME}")
_RESTED_NS = 2_500_000_000  # FAT keeps times in steps of two seconds
_KEPT_S = 90 * 24 * 3600.0
_WAIT_S = 2.0
_LOOKED_UP = 50  # entries; for more the whole index is read in one query
_FORMAT = 1
"""Format of the facts of a run. Raise it if the same files give other facts."""
_TABLE = "CREATE TABLE IF NOT EXISTS facts (path TEXT PRIMARY KEY, stamp TEXT, crc32 INTEGER, facts BLOB, written REAL)"


def index_file() -> Path | None:
    """Return the file of the index; None if there is no folder for it."""
    try:
        return cache_folder() / INDEX_NAME
    except UserError:
        return None


def facts_of(paths: Sequence[Path], index: Path | None) -> list[Facts]:
    """Return the facts of runs, from the index if their files have not changed.

    Args:
        paths: run directories.
        index: file of the index; None to read every run.
    """
    names = [str(path.resolve()) for path in paths]
    before = [_stamp(path) for path in paths]
    known = _read(index, names) if index is not None else {}
    found: dict[int, Facts] = {}
    for i, name in enumerate(names):
        if name in known and known[name][0] == before[i]:
            found[i] = known[name][1]
    missing = [i for i in range(len(paths)) if i not in found]
    began_ns = time.time_ns()
    fresh = (
        dict(zip(missing, read_many([paths[i] for i in missing]), strict=True)) if missing else {}
    )
    if index is not None:
        lasting = [
            i for i in missing if _rested(before[i], began_ns) and _stamp(paths[i]) == before[i]
        ]
        _write(index, {names[i]: (before[i], fresh[i]) for i in lasting})
    return [found[i] if i in found else fresh[i] for i in range(len(paths))]


def _stamp(path: Path) -> str:
    """Return a text that changes with every change of the run's files."""
    files = []
    for name in _FILES:
        try:
            # Path would take half of the time of a repeated call.
            state = os.stat(os.path.join(path, name))  # noqa: PTH116, PTH118
            files.append(
                [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_mode]
            )
        except OSError as error:
            files.append([error.errno or 0])
    return json.dumps([_FORMAT, *files])


def _rested(stamp: str, now_ns: int) -> bool:
    """Return whether a further change of the files would change their times."""
    times = [time_ns for file in json.loads(stamp)[1:] for time_ns in file[1:3]]
    return all(time_ns < now_ns - _RESTED_NS for time_ns in times)


# --- the file -------------------------------------------------------------------------------------


def _read(index: Path, names: Sequence[str]) -> dict[str, tuple[str, Facts]]:
    """Return the stamps and facts in the index, by path."""
    wanted = set(names)
    found: dict[str, tuple[str, Facts]] = {}
    if not index.is_file():
        return found
    query = "SELECT path, stamp, crc32, facts FROM facts"
    try:
        with contextlib.closing(sqlite3.connect(index, timeout=_WAIT_S)) as connection:
            if len(wanted) <= _LOOKED_UP:
                rows = [
                    row
                    for name in wanted
                    for row in connection.execute(f"{query} WHERE path = ?", (name,))
                ]
            else:
                rows = connection.execute(query).fetchall()
        for path, stamp, crc32, text in rows:
            if path in wanted and zlib.crc32(text) == crc32:
                found[path] = (stamp, json.loads(text))
    except (sqlite3.Error, TypeError) as error:  # TypeError: a damaged row
        log.debug("the index %s cannot be read: %s", index, error)
    return found


def _write(index: Path, entries: Mapping[str, tuple[str, Facts]]) -> None:
    """Add entries. A damaged index is replaced by a new one."""
    if not entries:
        return
    now = time.time()
    rows = []
    for path, (stamp, facts) in entries.items():
        text = json.dumps(facts).encode()
        rows.append((path, stamp, zlib.crc32(text), text, now))
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        try:
            _insert(index, rows, now)
        except sqlite3.OperationalError:  # locked, read-only or no space: a new file would not help
            raise
        except sqlite3.DatabaseError as error:
            log.debug("replacing the index %s: %s", index, error)
            for name in (index.name, f"{index.name}-journal"):
                index.with_name(name).unlink(missing_ok=True)
            _insert(index, rows, now)
    except (OSError, sqlite3.Error) as error:
        _warn(f"every call reads all runs: the index {index} cannot be written: {error}")


def _insert(index: Path, rows: Sequence[tuple[object, ...]], now: float) -> None:
    with contextlib.closing(sqlite3.connect(index, timeout=_WAIT_S)) as connection, connection:
        # Entries have checksums, so a power cut costs entries only.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_TABLE)
        connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("DELETE FROM facts WHERE written < ?", (now - _KEPT_S,))


@functools.cache
def _warn(message: str) -> None:
    """Log a warning once."""
    log.warning("%s", message)
