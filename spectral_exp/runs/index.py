"""A cache of the facts of runs, so that a repeated call need not read their metrics.

An entry is valid for one state of a run's files: size, modification times, inode and mode of each.
It is written only if the files had not changed for a while, because a file system's clock does not
distinguish two changes within one tick. If the index is damaged, locked or not writable, calls
return the same facts but take longer.
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
from spectral_exp.runs.layout import (
    CONFIG_NAME,
    EVALUATIONS_NAME,
    LOGS_FOLDER,
    METRICS_NAME,
    METRICS_SUMMARY_NAME,
    RESULTS_NAME,
)
from spectral_exp.runs.load import Facts, read_many

log = logging.getLogger(__name__)

INDEX_NAME = "results.sqlite"

_FILES = (
    CONFIG_NAME, RESULTS_NAME, EVALUATIONS_NAME, f"{LOGS_FOLDER}/{METRICS_NAME}",
    f"{LOGS_FOLDER}/{METRICS_SUMMARY_NAME}",
)  # fmt: skip
_MIN_AGE_NS = 2_500_000_000  # FAT stores times in steps of two seconds
_MAX_ENTRY_AGE_S = 90 * 24 * 3600.0
_LOCK_TIMEOUT_S = 2.0
_MAX_SINGLE_QUERIES = 50  # for more entries, the whole index is read in one query
_FORMAT = 3
"""Version of the format of facts. Increase it if the same files give other facts."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS facts "
    "(path TEXT PRIMARY KEY, stamp TEXT, crc32 INTEGER, facts BLOB, written REAL)"
)


def index_file() -> Path | None:
    """Return the file of the index, or None if there is no cache folder."""
    try:
        return cache_folder() / INDEX_NAME
    except UserError:
        return None


def facts_of(paths: Sequence[Path], index: Path | None) -> list[Facts]:
    """Return the facts of runs, from the index if their files have not changed.

    Args:
        paths: run directories.
        index: file of the index; None reads every run.
    """
    names = [str(path.resolve()) for path in paths]
    stamps = [files_stamp(path) for path in paths]
    facts = {} if index is None else _valid_entries(index, names, stamps)
    missing = [i for i in range(len(paths)) if i not in facts]
    began_ns = time.time_ns()
    if missing:
        facts |= zip(missing, read_many([paths[i] for i in missing]), strict=True)
    if index is not None:
        _remember(index, [(paths[i], stamps[i], facts[i]) for i in missing], began_ns)
    return [facts[i] for i in range(len(paths))]


def remember_facts(path: Path, stamp: str, facts: Facts, index: Path) -> None:
    """Add the facts of a run that has this `files_stamp`, unless its files have just changed."""
    _remember(index, [(path, stamp, facts)], time.time_ns())


def _remember(index: Path, runs: Sequence[tuple[Path, str, Facts]], began_ns: int) -> None:
    """Add facts that were read since `began_ns`.

    Runs that cannot be used are read again at every call: the reason may pass, such as too little
    memory, or lie in the version of this package.
    """
    usable = [run for run in runs if "unusable" not in run[2]]
    old = [run for run in usable if _is_old(run[1], began_ns)]
    stable = [run for run in old if files_stamp(run[0]) == run[1]]
    _write(index, {str(path.resolve()): (stamp, facts) for path, stamp, facts in stable})


def indexed_facts(paths: Sequence[Path], index: Path) -> list[Facts | None]:
    """Return the facts of runs if the index has them and their files have not changed."""
    names = [str(path.resolve()) for path in paths]
    facts = _valid_entries(index, names, [files_stamp(path) for path in paths])
    return [facts.get(i) for i in range(len(paths))]


def _valid_entries(index: Path, names: Sequence[str], stamps: Sequence[str]) -> dict[int, Facts]:
    indexed = _read(index, names)
    return {
        i: indexed[name][1]
        for i, (name, stamp) in enumerate(zip(names, stamps, strict=True))
        if name in indexed and indexed[name][0] == stamp
    }


def files_stamp(path: Path) -> str:
    """Return a text that changes whenever a file of the run changes."""
    files = []
    for name in _FILES:
        try:
            # With pathlib, this would take half of the time of a repeated call.
            state = os.stat(os.path.join(path, name))  # noqa: PTH116, PTH118
            files.append(
                [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_mode]
            )
        except OSError as error:
            files.append([error.errno or 0])
    return json.dumps([_FORMAT, *files])


def _is_old(stamp: str, now_ns: int) -> bool:
    """Return whether all files are so old that a further change would change their times."""
    times = [time_ns for file in json.loads(stamp)[1:] for time_ns in file[1:3]]
    return all(time_ns < now_ns - _MIN_AGE_NS for time_ns in times)


# --- the database ---------------------------------------------------------------------------------


def _read(index: Path, names: Sequence[str]) -> dict[str, tuple[str, Facts]]:
    """Return path -> (stamp, facts) for the `names` in the index."""
    wanted = set(names)
    found: dict[str, tuple[str, Facts]] = {}
    if not index.is_file():
        return found
    query = "SELECT path, stamp, crc32, facts FROM facts"
    try:
        with contextlib.closing(sqlite3.connect(index, timeout=_LOCK_TIMEOUT_S)) as connection:
            if len(wanted) <= _MAX_SINGLE_QUERIES:
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
    """Add entries to the index; replace it if it is damaged."""
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
        except sqlite3.OperationalError:
            raise  # locked, read-only or no space: replacing the file would not help
        except sqlite3.DatabaseError as error:
            log.debug("replacing the index %s: %s", index, error)
            for name in (index.name, f"{index.name}-journal"):
                index.with_name(name).unlink(missing_ok=True)
            _insert(index, rows, now)
    except (OSError, sqlite3.Error) as error:
        _warn_once(f"the index {index} cannot be written, so every call reads all runs: {error}")


def _insert(index: Path, rows: Sequence[tuple[object, ...]], now: float) -> None:
    with (
        contextlib.closing(sqlite3.connect(index, timeout=_LOCK_TIMEOUT_S)) as connection,
        connection,
    ):
        # A power cut may damage entries, which their checksums detect.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_TABLE)
        connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("DELETE FROM facts WHERE written < ?", (now - _MAX_ENTRY_AGE_S,))


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
