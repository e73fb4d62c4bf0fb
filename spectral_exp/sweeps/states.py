"""The state of a job of a sweep, read from its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import is_running
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.record import read_config, read_results
from spectral_exp.runs.renamed import left_out_defaults
from spectral_exp.runs.status import BROKEN, DONE
from spectral_exp.sweeps.names import identity, job_key, key_of_folder

State = Literal["waiting", "running", "interrupted", "failed", "done"]
STATES: tuple[State, ...] = ("done", "running", "interrupted", "failed", "waiting")

_FAILED = (*BROKEN, "not_saved")


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Attributes:
        state: waiting (not begun), running (a live process holds its lock), interrupted (begun and
            to be continued), failed or done.
        status: of its results; "" without results.
        reason: why it failed, or "".
        attempt: identifies the attempt that failed; 0 otherwise.
    """

    state: State
    status: str = ""
    reason: str = ""
    attempt: int = 0


def read_state(run: Path, defaults: Mapping[str, Any] | None = None) -> JobState:
    """Return the state of the job whose run is in the folder `run`, which need not exist.

    Args:
        run: the folder, whose name ends with the hash of the job.
        defaults: the default settings, as returned by `identity`; None trusts the name of the
            folder. A finished run of another configuration counts as interrupted, so that it is
            refused with its difference when it is to be continued.
    """
    if is_running(run):
        return JobState("running")
    paths = RunPaths(run)
    has_begun = paths.config_file.exists() or paths.checkpoints.exists()
    try:
        attempt = paths.results_file.stat().st_mtime_ns
        results, _ = read_results(paths.results_file)
    except (OSError, UserError):
        return JobState("interrupted" if has_begun else "waiting")
    status = results.get("status", "")
    if status in _FAILED:
        reason = printable(results.get("error", status), 300)
        return JobState("failed", status, reason, attempt)
    if status in DONE and (defaults is None or _is_itself(paths, defaults)):
        return JobState("done", status)
    return JobState("interrupted", status)


def _is_itself(paths: RunPaths, defaults: Mapping[str, Any]) -> bool:
    """Return whether the recorded settings have the hash in the name of the folder."""
    try:
        record, _ = read_config(paths.config_file)
    except UserError:
        return False
    removed = [o for o in record.get("overrides", ()) if o.startswith("~")]
    settings = dict(flatten(record.get("config", {})))
    # Reading has left out settings with their defaults, which older records lack.
    whole = left_out_defaults(settings) | settings
    keys = {job_key(identity(one), defaults, removed) for one in (settings, whole)}
    return key_of_folder(paths.root.name) in keys
