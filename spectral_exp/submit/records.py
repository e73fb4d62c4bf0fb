"""The folder `outputs/submitted/NAME`: the scripts, logs and record of what was submitted."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.errors import UserError
from spectral_exp.core.files import atomic_writer
from spectral_exp.core.timestamps import timestamp
from spectral_exp.runs.find import is_run_directory
from spectral_exp.submit.training_job import TrainingJob

SUBMITTED_FOLDER = "submitted"
RECORD_NAME = "submissions.jsonl"


@dataclass(frozen=True)
class Submission:
    """What was submitted.

    Attributes:
        file: the script.
        ids: the ids that the batch system has given.
    """

    file: Path
    ids: list[str]


def submitted_folder(job: TrainingJob) -> Path:
    """Return the absolute path of the folder for the scripts and logs of a job."""
    return job.outputs.absolute() / SUBMITTED_FOLDER / job.name


def submit_script(
    job: TrainingJob, system: str, script: bytes, submit: Callable[[Path], Iterable[str]]
) -> Submission:
    """Write the script of a job, submit it, and record that.

    If the batch system refuses the first job, nothing new is left.

    Args:
        job: the job.
        system: the name of the batch system; the script is called `<system>.sh`.
        script: the file.
        submit: submits the script at a path and yields the id of each job.

    Raises:
        UserError: the script cannot be written, or the batch system refuses the job.
    """
    folder = submitted_folder(job)
    file = folder / f"{system}.sh"
    if is_run_directory(folder.parent):
        raise UserError(f"{folder.parent} is a run; scripts cannot be kept there: rename it")
    before = file.read_bytes() if file.exists() else None
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_script(file, script)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose outputs=DIR") from error
    ids: list[str] = []
    try:
        for accepted in submit(file):
            ids.append(accepted)
    except UserError:
        if not ids:
            _restore(file, before, new_folders)
        raise
    finally:
        if ids:
            _record(folder / RECORD_NAME, job, system, ids)
    return Submission(file, ids)


def _record(file: Path, job: TrainingJob, system: str, ids: list[str]) -> None:
    """Append a line about a submission."""
    record = {
        "time": timestamp(),
        "system": system,
        "ids": ids,
        "folder": str(Path.cwd()),
        "arguments": list(job.arguments),
    }
    with contextlib.closing(AppendFile(file)) as records:
        records.write(json.dumps(record).encode() + b"\n")


def _write_script(file: Path, script: bytes) -> None:
    with atomic_writer(file) as opened:
        opened.write(script)
        mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
        # As executable as the user's umask lets it be readable.
        os.fchmod(opened.fileno(), mode | (mode & 0o444) >> 2)


def _restore(file: Path, before: bytes | None, new_folders: Sequence[Path]) -> None:
    """Undo the writing of a script, for which `new_folders` were made, the innermost first."""
    with contextlib.suppress(OSError):
        if before is None:
            file.unlink()
        else:
            _write_script(file, before)
        for folder in new_folders:
            folder.rmdir()
