"""Write the output file of a command (`--output` and similar options) without losing other files.

- The files of training and the record of a run are never overwritten.
- Inside a run directory, only the unchanged earlier output of a command is overwritten.
- Elsewhere, any other file is overwritten only with `--force`.

The checksums of outputs are kept in the user's state folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spectral_exp.core.errors import UserError, explain_os_error, require
from spectral_exp.core.files import atomic_writer, remove_abandoned_files
from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.core.json_text import read_object
from spectral_exp.core.regular_file import open_regular
from spectral_exp.core.user_state import state_folder
from spectral_exp.runs import layout

log = logging.getLogger(__name__)

_RECORDS = {layout.CONFIG_NAME, layout.RESULTS_NAME}
RUN_MARKERS = (
    layout.LOCK_NAME,
    f"{layout.LOGS_FOLDER}/{layout.METRICS_NAME}",
    f"{layout.CHECKPOINTS_FOLDER}/{layout.LATEST_NAME}",
)
"""Each of these files shows that a folder is a run directory."""
_OWN_FILES = {
    *_RECORDS, layout.LOCK_NAME, layout.BACKUP_NAME, layout.NOTES_NAME,
    layout.EVALUATIONS_NAME, layout.GIT_DIFF_NAME, layout.OWN_CODE_NAME,
    layout.RUN_LOG_NAME, layout.LOGS_FOLDER, layout.CHECKPOINTS_FOLDER, layout.HYDRA_FOLDER,
    layout.TOKENIZER_FOLDER, layout.VISUALIZATIONS_FOLDER, layout.PROFILE_FOLDER,
}  # fmt: skip
_MAX_OUTPUTS = 2000


def refuse_loss(
    path: Path, option: str = "--output", *, force: bool = False, is_default: bool = False
) -> None:
    """Raise a SettingError if writing `path` would lose a file (see the rules of this module).

    Args:
        path: the file to write.
        option: the option that names it.
        force: whether the user allows to overwrite any file outside of a run.
        is_default: whether the command has chosen the name, which no other file has.
    """
    # A name that is too long, or a folder that may not be entered, fails here.
    with explain_os_error(f"write {path}", _remedy(option)):
        require(not path.is_dir(), option, path, "a file, not a folder")
        real_path = Path(os.path.realpath(path.parent), path.name)
        run = run_around(real_path.parent)
    require(path.name not in _RECORDS, option, path, "another name than that of a run's record")
    if run is not None:
        is_own_file = real_path.relative_to(run).parts[0] in _OWN_FILES
        require(not is_own_file, option, path, f"a file that training in {run} does not use")
    if is_default or not os.path.lexists(path) or _is_own_output(real_path):
        return
    require(run is None, option, path, f"a new file, since the run {run} holds this one")
    allowed = "a new file, or one written by this command"
    require(force, option, path, allowed, "overwrite it with --force")


def write_output(
    path: Path,
    content: bytes,
    option: str = "--output",
    *,
    force: bool = False,
    is_default: bool = False,
) -> None:
    """Write `content` to `path` atomically.

    Raises:
        UserError: the file cannot be written, or another file would be lost (see `refuse_loss`).
    """
    with output_writer(path, option, force=force, is_default=is_default) as file:
        file.write(content)


@contextmanager
def output_writer(
    path: Path, option: str = "--output", *, force: bool = False, is_default: bool = False
) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path` when the block ends without an exception.

    Raises:
        UserError: as for `write_output`.
    """
    refuse_loss(path, option, force=force, is_default=is_default)
    with explain_os_error(f"write {path}", _remedy(option)):
        remove_abandoned_files(path)
        with atomic_writer(path) as file:
            yield file
        digest = _sha256(path)
    _remember_output(Path(os.path.realpath(path.parent), path.name), digest)


def _remedy(option: str) -> str:
    """Return what to do about a file that cannot be written; an argument needs no mention."""
    return "choose another file" + (f" with {option}" if option.startswith("-") else "")


def run_around(folder: Path) -> Path | None:
    """Return the run directory that is `folder` or contains it, or None."""
    for above in (folder, *folder.parents):
        if any((above / marker).exists() for marker in RUN_MARKERS) or all(
            (above / name).exists() for name in _RECORDS
        ):
            return above
    return None


def _is_own_output(path: Path) -> bool:
    """Return whether a command has written the file, and nobody has changed it since."""
    known = _known_outputs().get(str(path))
    if known is None or path.is_symlink():
        return False
    try:
        return bool(_sha256(path) == known)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _remember_output(path: Path, sha256: str) -> None:
    outputs = {name: value for name, value in _known_outputs().items() if name != str(path)}
    outputs[str(path)] = sha256
    try:
        file = _outputs_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned_files(file)
        write_json_atomic(file, dict(list(outputs.items())[-_MAX_OUTPUTS:]))
    except OSError as error:
        # The next command that writes this file needs --force.
        log.debug("cannot record the output %s: %s", path, error)


def _known_outputs() -> dict[str, Any]:
    """Return path -> SHA-256 of the files that commands have written."""
    try:
        return read_object(_outputs_file())
    except (OSError, UserError):
        return {}


def _outputs_file() -> Path:
    return state_folder() / "written_files.json"
