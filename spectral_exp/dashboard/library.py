"""The runs below some folders, read and kept up to date by a thread in the background."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.identity import run_key
from spectral_exp.dashboard.rows import Row, marks_values, run_row, unread_row
from spectral_exp.dashboard.series_store import LiveSummaries, SeriesStore
from spectral_exp.dashboard.system_store import SystemStore
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs.find import Found, LeftOut, find_runs
from spectral_exp.runs.index import facts_of, files_stamp, indexed_facts, remember_facts
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import Facts, read_facts, run_of
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.marks import read_marks
from spectral_exp.runs.run import Run

log = logging.getLogger(__name__)

CYCLE_S = 0.5
"""Time between two looks at the runs that train."""

_SCAN_S = 3.0  # between two searches of the folders
_MAX_SCAN_SHARE = 0.05  # of the time, if the folders are many
_BATCH_BYTES = 16 << 20  # of metrics files that are read before their rows appear
_BATCH_RUNS = 32
_READ_S = 0.5  # spent on one live or large run before the others get their turn
_OPEN_S = 0.1  # spent on a run that a request opens before its turn has come
_MAX_REMOVED = 10_000


@dataclass(frozen=True)
class Entry:
    """One run of the library.

    Attributes:
        key: see `run_key`.
        path: the run directory.
        stamp: changes if a file of the run does.
        updated_s: when the run last logged something, in seconds since the epoch.
        seq: number of the change that led to this entry.
        run: None until it is read, and for a run that cannot be used.
        reason: why it cannot be used, or "".
        row: of the table of runs.
    """

    key: str
    path: Path
    stamp: str
    updated_s: float
    seq: int
    run: Run | None
    reason: str
    row: Row


@dataclass(frozen=True)
class Changes:
    """What changed since a sequence number.

    Attributes:
        seq: the present number.
        rows: of runs that are new or changed.
        removed: keys of runs that are gone.
        is_reset: whether `rows` are all runs, because the number was not known.
    """

    seq: int
    rows: list[Row]
    removed: list[str]
    is_reset: bool


class UnknownRunError(UserError):
    """No run has this key."""


class Library:
    """The runs below `folders`; `start` begins to read them, newest first.

    Args:
        folders: run directories, sweeps, or folders that hold such at any depth.
        store: series of the runs.
        index: file of the index, or None.

    Attributes:
        system: measurements of the machines of the runs.
    """

    def __init__(self, folders: Sequence[Path], store: SeriesStore, index: Path | None) -> None:
        self.folders = list(folders)
        self.store = store
        self.system = SystemStore()
        self._index = index
        self._lock = threading.Lock()
        # A number from the clock is larger than all numbers of an earlier server, which a page may
        # still hold.
        self._seq = int(time.time() * 1000)
        self._first_seq = self._seq
        self._entries: dict[str, Entry] = {}
        self._removed: list[tuple[int, str]] = []
        self._left_out: list[LeftOut] = []
        self._aggregator: tuple[int, ResultsAggregator] | None = None
        self._named_seq = -1
        self._has_scanned = False
        self._has_read_index = threading.Event()
        self._next_scan_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name="library", daemon=True)

    def start(self) -> None:
        """Begin to read the runs."""
        self._thread.start()

    def read_all(self) -> None:
        """Read all runs in this thread, instead of `start`."""
        self.refresh()
        while not self.counts()[2]:
            self.refresh()

    def stop(self) -> None:
        """Let the thread end after its current step."""
        self._stop.set()

    # --- what requests ask for --------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """The number of the last change."""
        with self._lock:
            return self._seq

    @property
    def left_out(self) -> list[LeftOut]:
        """Folders that look like runs and cannot be used, with the reasons."""
        with self._lock:
            unusable = [(e.path, e.reason) for e in self._entries.values() if e.reason]
            return sorted([*self._left_out, *unusable])

    def counts(self) -> tuple[int, int, bool]:
        """Return how many runs were found and read, and whether all were."""
        with self._lock:
            found = len(self._entries)
            read = sum(bool(entry.run or entry.reason) for entry in self._entries.values())
            return found, read, self._has_scanned and read == found

    def changes(self, since: int) -> Changes:
        """Return what changed after the number `since`."""
        with self._lock:
            is_reset = not self._first_seq <= since <= self._seq
            entries = [e for e in self._entries.values() if is_reset or e.seq > since]
            entries.sort(key=lambda entry: -entry.updated_s)
            rows = [entry.row for entry in entries if not entry.reason]
            removed = [key for seq, key in self._removed if seq > since]
            removed += [entry.key for entry in entries if entry.reason]
            return Changes(self._seq, rows, [] if is_reset else removed, is_reset)

    def wait_for_index(self, timeout_s: float) -> None:
        """Wait at start until the runs of the index are read, which takes a part of a second."""
        self._has_read_index.wait(timeout_s)

    def run(self, key: str) -> Run:
        """Return a run, also before its row is read.

        Raises:
            UnknownRunError: there is no run with this key.
        """
        entry = self._entry(key)
        if entry.run is not None:
            return entry.run
        run, _ = self._open(entry.path, _OPEN_S)
        if isinstance(run, str):
            raise UnknownRunError(f"the run cannot be used: {run}")
        return run

    def path(self, key: str) -> Path:
        """Return a run directory. Raises UnknownRunError if there is none with this key."""
        return self._entry(key).path

    def row(self, key: str) -> Row:
        """Return the row of a run. Raises UnknownRunError if there is none with this key."""
        return self._entry(key).row

    def _entry(self, key: str) -> Entry:
        with self._lock:
            entry = self._entries.get(key)
        if entry is None or entry.reason:
            raise UnknownRunError(f"there is no run with the key {key}")
        return entry

    def aggregator(self) -> tuple[int, ResultsAggregator]:
        """Return the runs that were read, as `compare` sees them, and the number of the change."""
        with self._lock:
            known, seq = self._aggregator, self._seq
            runs = [entry.run for entry in self._entries.values() if entry.run is not None]
        if known is not None and known[0] == seq:
            return known
        found = (seq, ResultsAggregator.of(runs, self.left_out))
        self._aggregator = found
        return found

    def reload(self, key: str) -> Row:
        """Read the marks of a run again and return its row. Raises UnknownRunError."""
        marks, _ = read_marks(self.path(key))
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                raise UnknownRunError(f"the run with the key {key} is gone")
            run = entry.run and replace(entry.run, marks=marks)
            row = {**entry.row, **marks_values(marks)}
            self._seq += 1
            self._entries[key] = replace(entry, seq=self._seq, run=run, row=row)
        return row

    # --- the thread -------------------------------------------------------------------------------

    def _keep_reading(self) -> None:
        failure = ""
        while not self._stop.is_set():
            try:
                self.refresh()
            except Exception as error:  # the next look may succeed; the page shows what is known
                if repr(error) != failure:
                    log.exception("reading the runs failed")
                failure = repr(error)
            self._stop.wait(CYCLE_S)

    def refresh(self) -> None:
        """Look for new, changed and removed runs once, and read them."""
        if time.monotonic() >= self._next_scan_s:
            began_s = time.monotonic()
            self._scan()
            now_s = time.monotonic()
            self._next_scan_s = now_s + max(_SCAN_S, (now_s - began_s) / _MAX_SCAN_SHARE)
            candidates = list(self._entries.values())
        else:
            candidates = [entry for entry in self._entries.values() if _may_change(entry)]
        changed = []
        for entry in candidates:
            stamp = _stamp(entry.path)
            if stamp != entry.stamp or (entry.run is None and not entry.reason):
                changed.append(replace(entry, stamp=stamp, updated_s=_updated_s(entry.path)))
            elif _has_died(entry):
                changed.append(entry)
        if changed:
            self._read(sorted(changed, key=lambda entry: -entry.updated_s))
        self._has_read_index.set()
        self._name_uniquely()

    def _scan(self) -> None:
        found = _find(self.folders)
        paths = {run_key(path): path for path in found.runs}
        with self._lock:
            before = set(self._entries)
            self._left_out = found.left_out
        new = [key for key in paths if key not in before]
        for key in new:
            path = paths[key]
            updated_s = _updated_s(path)
            row = unread_row(key, path, path.name, updated_s)
            self._put(Entry(key, path, "", updated_s, 0, None, "", row))
        for key in before - set(paths):
            self._remove(key)
        self._has_scanned = True

    def _read(self, entries: Sequence[Entry]) -> None:
        """Read runs in batches, those in the index first."""
        live: list[Entry] = []
        others: list[Entry] = []
        for entry in entries:
            (live if is_running(entry.path) else others).append(entry)
        if self._index is not None and others:
            facts = indexed_facts([entry.path for entry in others], self._index)
            for entry, known in zip(others, facts, strict=True):
                if known is not None:
                    self._use(entry, known)
            others = [e for e, known in zip(others, facts, strict=True) if known is None]
        self._has_read_index.set()
        for entry in live:
            self._read_live(entry)
        sizes = {entry.key: _metrics_bytes(entry.path) for entry in others}
        large = [entry for entry in others if sizes[entry.key] > _BATCH_BYTES]
        small = [entry for entry in others if sizes[entry.key] <= _BATCH_BYTES]
        for batch in _batches(small, sizes):
            if self._stop.is_set():
                return
            facts_read = facts_of([entry.path for entry in batch], self._index)
            for entry, read in zip(batch, facts_read, strict=True):
                self._use(entry, read)
        for entry in large:
            self._read_large(entry)

    def _read_live(self, entry: Entry) -> None:
        """Read what a running run has logged since the last time."""
        run, is_behind = self._open(entry.path, _READ_S)
        if is_behind:  # then it is read on in the next cycle
            entry = replace(entry, stamp="")
        if isinstance(run, str):
            self._put(replace(entry, run=None, reason=run))
        else:
            self._use_run(entry, run)

    def _read_large(self, entry: Entry) -> None:
        """Read on in a large file, whose series the page is likely to ask for."""
        stamp = files_stamp(entry.path)
        try:
            with self.store.follower(entry.path, _READ_S) as follower:
                if follower.is_behind:
                    row = {**entry.row, "loading": follower.read_share}
                    self._put(replace(entry, stamp="", row=row))
                    return
                facts = read_facts(entry.path, follower.content())
                if "unusable" not in facts:
                    summaries = {name: follower.summary(name) for name in facts["metrics"]}
                    known = {name: one.as_list() for name, one in summaries.items() if one}
                    facts["metrics"] = known
        except UserError:
            facts = read_facts(entry.path)  # says what cannot be read
        if self._index is not None:
            remember_facts(entry.path, stamp, facts, self._index)
        self._use(entry, facts)

    def _open(self, path: Path, budget_s: float) -> tuple[Run | str, bool]:
        """Return a run whose series grow, or why it cannot be used; and whether more is to read."""
        is_behind, content = False, None
        try:
            with self.store.follower(path, budget_s) as follower:
                is_behind, content = follower.is_behind, follower.content()
        except UserError:
            log.debug("the metrics of %s cannot be read", path, exc_info=True)
        facts = read_facts(path, content)  # without content it says what cannot be read
        if "unusable" in facts:
            return str(facts["unusable"]), is_behind
        names = list(facts["metrics"])
        return replace(
            run_of(path, {**facts, "metrics": {}}),
            known_metrics=LiveSummaries(self.store, path, names),
            read_series=lambda metric: self.store.series(path, metric),
        ), is_behind

    def _use(self, entry: Entry, facts: Facts) -> None:
        if "unusable" in facts:
            self._put(replace(entry, run=None, reason=str(facts["unusable"])))
        else:
            self._use_run(entry, run_of(entry.path, facts))

    def _use_run(self, entry: Entry, run: Run) -> None:
        path = entry.path
        run = replace(run, read_series=lambda metric: self.store.series(path, metric))
        row = run_row(entry.key, run, entry.updated_s)
        if entry.run is not None and entry.run.run_id == run.run_id:
            row["id"] = entry.row["id"]  # with the folders that make it unique
        self._put(replace(entry, run=run, reason="", row=row))

    def _name_uniquely(self) -> None:
        """Give runs of equal ids the names that a comparison gives them."""
        seq, aggregator = self.aggregator()
        if seq == self._named_seq:
            return
        ids = {run.path: run.run_id for run in aggregator.runs}
        for entry in list(self._entries.values()):
            run_id = ids.get(entry.path, entry.row["id"])
            if entry.row["id"] != run_id:
                self._put(replace(entry, row={**entry.row, "id": run_id}))
        self._named_seq = self.seq

    def _put(self, entry: Entry) -> None:
        with self._lock:
            self._seq += 1
            self._entries[entry.key] = replace(entry, seq=self._seq)

    def _remove(self, key: str) -> None:
        with self._lock:
            self._seq += 1
            entry = self._entries.pop(key)
            self._removed.append((self._seq, key))
            if len(self._removed) > _MAX_REMOVED:
                # A page that asks for older changes gets all runs.
                self._first_seq = self._removed[-_MAX_REMOVED][0]
                del self._removed[:-_MAX_REMOVED]
        self.store.forget(entry.path)
        self.system.forget(entry.path)


def _find(folders: Sequence[Path]) -> Found:
    """Find runs; a folder that is gone now is left out."""
    there = [folder for folder in folders if folder.is_dir()]
    gone = [(folder, "the folder is gone") for folder in folders if folder not in there]
    try:
        found = find_runs(there)
    except UserError as error:  # a folder went between the two looks
        return Found([], [*gone, *((folder, str(error)) for folder in there)])
    found.left_out += gone
    return found


def _stamp(path: Path) -> str:
    """Return a text that changes if a file of the run, its lock or its marks do."""
    paths = RunPaths(path)
    return files_stamp(path) + _file_state(paths.lock_file) + _file_state(paths.notes_file)


def _file_state(file: Path) -> str:
    try:
        state = os.stat(file)  # noqa: PTH116 - twice as fast as pathlib
    except OSError:
        return ""
    return json.dumps([state.st_ino, state.st_size, state.st_mtime_ns])


def _updated_s(path: Path) -> float:
    """Return when the newest file of a run was changed, or 0."""
    paths = RunPaths(path)
    times = [0.0]
    for file in (paths.metrics_file, paths.results_file, paths.config_file):
        try:
            times.append(os.stat(file).st_mtime)  # noqa: PTH116 - twice as fast as pathlib
        except OSError:
            continue
    return max(times)


def _may_change(entry: Entry) -> bool:
    """Return whether a run is looked at in every cycle: it trains, or was not read yet."""
    return entry.run is None or entry.run.status == "running" or not entry.stamp


def _has_died(entry: Entry) -> bool:
    """Return whether the process of a running run is gone, which changes no file."""
    return entry.run is not None and entry.run.status == "running" and not is_running(entry.path)


def _metrics_bytes(path: Path) -> int:
    try:
        return RunPaths(path).metrics_file.stat().st_size
    except OSError:
        return 0


def _batches(entries: Iterable[Entry], sizes: Mapping[str, int]) -> Iterable[list[Entry]]:
    """Yield the entries in portions of few bytes."""
    batch: list[Entry] = []
    n_bytes = 0
    for entry in entries:
        batch.append(entry)
        n_bytes += sizes[entry.key]
        if n_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_RUNS:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch
