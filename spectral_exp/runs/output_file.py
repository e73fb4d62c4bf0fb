"""The rule on files that a command writes where its user says (`--output` and the like): nothing of
value is lost.

A file that belongs to a run is never overwritten: what is there and was not written by such a
command, and whatever training itself writes. Any other file that such a command has not written, or
that was edited since, is overwritten only with `--force`. What was written is noted by its checksum
in the user's state folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.files import atomic_writer
from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.core.json_text import read_object
from spectral_exp.core.regular_file import open_regular
from spectral_exp.core.user_state import state_folder
from spectral_exp.runs.layout import (
    BACKUP_NAME,
    CHECKPOINTS_FOLDER,
    CONFIG_NAME,
    GIT_DIFF_NAME,
    HYDRA_FOLDER,
    LATEST_NAME,
    LOCK_NAME,
    LOGS_FOLDER,
    METRICS_NAME,
    RESULTS_NAME,
    TOKENIZER_FOLDER,
    VISUALIZATIONS_FOLDER,
)

log = logging.getLogger(__name__)

_RECORDS = {CONFIG_NAME, RESULTS_NAME}
_SIGNS = (LOCK_NAME, f"{LOGS_FOLDER}/{METRICS_NAME}", f"{CHECKPOINTS_FOLDER}/{LATEST_NAME}")
_OF_TRAINING = {
    *_RECORDS, LOCK_NAME, BACKUP_NAME, GIT_DIFF_NAME, "train.log",
    LOGS_FOLDER, CHECKPOINTS_FOLDER, HYDRA_FOLDER, TOKENIZER_FOLDER, VISUALIZATIONS_FOLDER, "profile",
}  # fmt: skip
_MAX_NOTES = 2000


def refuse_loss(
    path: Path, option: str = "--output", *, force: bool = False, is_default: bool = False
) -> None:
    """Raise a SettingError if writing `path` would lose a file; see above.

    Args:
        path: what is about to be written.
        option: the option that names it.
        force: whether the user allows that a file of theirs is overwritten.
        is_default: whether the command has chosen the name, which nothing else has.
    """
    require(not path.is_dir(), option, path, "a file, not a folder")
    require(path.name not in _RECORDS, option, path, "another file than the record of a run")
    place = Path(os.path.realpath(path.parent), path.name)
    run = run_around(place.parent)
    if run is not None:
        is_training = place.relative_to(run).parts[0] in _OF_TRAINING
        require(not is_training, option, path, f"outside of what the run {run} holds by itself")
    if is_default or not os.path.lexists(path) or _is_noted(place):
        return
    require(run is None, option, path, f"a new file, as the run {run} holds this one")
    require(
        force,
        option,
        path,
        "a new file, or one written by this command",
        "overwrite it with --force",
    )


def write_output(
    path: Path,
    content: bytes,
    option: str = "--output",
    *,
    force: bool = False,
    is_default: bool = False,
) -> None:
    """Write `content` to `path`, whole or not at all.

    Raises UserError if it cannot be, or as `refuse_loss`.
    """
    refuse_loss(path, option, force=force, is_default=is_default)
    try:
        with atomic_writer(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another file with {option}"
        ) from error
    _note(Path(os.path.realpath(path.parent), path.name), hashlib.sha256(content).hexdigest())


def run_around(folder: Path) -> Path | None:
    """The run directory that is `folder` or holds it; None if there is none."""
    for above in (folder, *folder.parents):
        if any((above / sign).exists() for sign in _SIGNS) or all(
            (above / name).exists() for name in _RECORDS
        ):
            return above
    return None


def _is_noted(place: Path) -> bool:
    """Whether the file is as such a command has written it."""
    noted = _notes().get(str(place))
    if noted is None or place.is_symlink():
        return False
    try:
        with open_regular(place) as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return False
    return bool(digest.hexdigest() == noted)


def _note(place: Path, sha256: str) -> None:
    notes = {
        **{known: value for known, value in _notes().items() if known != str(place)},
        str(place): sha256,
    }
    try:
        file = _notes_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json_atomic(file, dict(list(notes.items())[-_MAX_NOTES:]))
    except OSError as error:
        # The next command asks for --force.
        log.debug("cannot note that %s was written: %s", place, error)


def _notes() -> dict[str, Any]:
    """Files that commands have written, with their SHA-256."""
    try:
        return read_object(_notes_file())
    except (OSError, UserError):
        return {}


def _notes_file() -> Path:
    return state_folder() / "written_files.json"
