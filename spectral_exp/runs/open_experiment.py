"""Continue the run that a training loop has not finished, or begin a new one."""

from __future__ import annotations

import atexit
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_text import read_object
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.redact import redact
from spectral_exp.runs.ids import clean_name, create_experiment_directory, generate_experiment_id
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunInUseError, RunLock

log = logging.getLogger(__name__)

_CONTINUED = ("interrupted", "not_saved", "failed")
"""The statuses of results after which training is not over."""

_locks: dict[Path, tuple[int, RunLock]] = {}
"""The runs that are open here: their path -> id of the process that has opened it, and the lock."""


def open_experiment(base_dir: str | Path, name: str, config: Mapping[str, Any]) -> dict[str, Path]:
    """Return the folders of the newest unfinished run of an experiment, or of a new run.

    A run is unfinished until `ConfigTracker.save_results` has recorded its results with a status
    other than `interrupted`, `not_saved` and `failed`. It is continued only if it was recorded with
    an equal `config`, so that a changed setting or another seed begins a new run.

    The run belongs to this process until its results are recorded or the process ends: another
    process that opens the same experiment meanwhile gets another run. Of several processes that
    train one model together, only the first may call this.

    Args:
        base_dir: folder of the runs.
        name: of the experiment, as for `generate_experiment_id`.
        config: the settings, as they are given to `ConfigTracker.save_config`.

    Returns:
        Paths as from `create_experiment_directory`.

    Raises:
        SettingError: the name has no usable character, or is too long.
        UserError: the folders cannot be created or written.
    """
    base = Path(base_dir)
    recorded = _as_recorded(config)
    for root in _runs_of(base, clean_name(name)):
        if not _is_unfinished(root, recorded):
            continue
        try:
            _lock(root)
        except RunInUseError as error:
            log.info("%s", error)
            continue
        if not _is_unfinished(root, recorded):  # another process has finished it meanwhile
            close_experiment(root)
            continue
        log.info("continuing the run %s", root)
        return create_experiment_directory(base, root.name)
    folders = create_experiment_directory(base, generate_experiment_id(name, base))
    _lock(folders["root"])
    return folders


def close_experiment(root: str | Path) -> None:
    """Release a run that this process has opened; do nothing for any other."""
    owner, lock = _locks.pop(Path(root).resolve(), (0, None))
    if lock is not None:
        _release(owner, lock)


def _runs_of(base: Path, name: str) -> Iterator[Path]:
    """Yield the run directories of an experiment, the newest first."""
    pattern = re.compile(rf"{re.escape(name)}_(\d{{8}}_\d{{6}})_\w{{8}}")
    found = [
        (match[1], path)
        for path in (base.iterdir() if base.is_dir() else ())
        if (match := pattern.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    yield from (path for _, path in sorted(found, reverse=True))


def _is_unfinished(root: Path, config: Any) -> bool:
    """Return whether a run with these settings can be continued."""
    paths = RunPaths(root)
    if not paths.config_file.exists():
        return False
    try:
        recorded = read_object(paths.config_file)
        results = read_object(paths.results_file) if paths.results_file.exists() else None
    except UserError as error:
        log.warning("%s is not continued: %s", root, error)
        return False
    has_not_ended = results is None or results.get("status") in _CONTINUED
    return has_not_ended and recorded.get("config") == config


def _as_recorded(config: Mapping[str, Any]) -> Any:
    """Return settings as `config.json` holds them."""
    return jsonable(redact({"config": config})["config"])


def _lock(root: Path) -> None:
    """Lock a run until this process ends; do nothing if this process has locked it.

    Raises:
        RunInUseError: another process holds it.
    """
    key = root.resolve()
    if _locks.get(key, (0,))[0] == os.getpid():
        return
    lock = RunLock(root)
    lock.acquire()
    _locks[key] = (os.getpid(), lock)
    atexit.register(_release, os.getpid(), lock)


def _release(owner: int, lock: RunLock) -> None:
    if owner == os.getpid():  # a forked process must leave the lock to its parent
        lock.release()
