"""Run directories: experiment ids, the layout and every file name in it, and durable file operations.

Whoever writes into a run directory or reads from it takes paths and file operations from here, so that names are
decided once and no reader ever meets a half-written file.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import remove_temporary_files
from spectral_exp.core.json_value import NON_FINITE as NON_FINITE
from spectral_exp.core.json_value import jsonable as jsonable

log = logging.getLogger(__name__)

# --- file names ------------------------------------------------------------------------------------------------------

CHECKPOINTS_FOLDER = "checkpoints"
LOGS_FOLDER = "logs"
VISUALIZATIONS_FOLDER = "visualizations"
TOKENIZER_FOLDER = "tokenizer"
HYDRA_FOLDER = ".hydra"
CONFIG_NAME = "config.json"
RESULTS_NAME = "results.json"
GIT_DIFF_NAME = "git_diff.patch"
LOCK_NAME = "run.lock"
BACKUP_NAME = "backup.json"
METRICS_NAME = "metrics.jsonl"
CUT_METRICS_NAME = "metrics.cut.jsonl"
TRAINING_LOG_NAME = "training.log"
LATEST_NAME = "checkpoint_latest.pt"
BEST_NAME = "checkpoint_best.pt"
CORRUPT_SUFFIX = ".corrupt"
COMPRESSED_SUFFIX = ".zst"

_CHECKPOINT_NAME = re.compile(r"checkpoint_step_(0|[1-9]\d*)\.pt(\.zst)?")


class RunPaths:
    """Where everything lies below the root of a run. Creates nothing."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.checkpoints = self.root / CHECKPOINTS_FOLDER
        self.logs = self.root / LOGS_FOLDER
        self.visualizations = self.root / VISUALIZATIONS_FOLDER
        self.tokenizer = self.root / TOKENIZER_FOLDER
        self.config_file = self.root / CONFIG_NAME
        self.results_file = self.root / RESULTS_NAME
        self.git_diff_file = self.root / GIT_DIFF_NAME
        self.lock_file = self.root / LOCK_NAME
        self.backup_file = self.root / BACKUP_NAME
        self.metrics_file = self.logs / METRICS_NAME
        self.training_log = self.logs / TRAINING_LOG_NAME
        self.latest_link = self.checkpoints / LATEST_NAME
        self.best_link = self.checkpoints / BEST_NAME

    def checkpoint_file(self, step: int) -> Path:
        """The checkpoint of `step`; the compressed one where only that exists."""
        plain = self.checkpoints / f"checkpoint_step_{step}.pt"
        compressed = plain.with_name(plain.name + COMPRESSED_SUFFIX)
        return compressed if compressed.exists() and not plain.exists() else plain

    def checkpoint_step(self, path: Path) -> int | None:
        """The step in the name of a checkpoint file, or None if `path` is not named like one."""
        match = _CHECKPOINT_NAME.fullmatch(path.name)
        return int(match[1]) if match else None

    def checkpoint_steps(self) -> list[int]:
        """Steps which have a checkpoint file, ascending; empty when there is no folder.

        Raises:
            UserError: the folder cannot be read, which does not mean that it is empty.
        """
        try:
            steps = [self.checkpoint_step(file) for file in self.checkpoints.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read the folder {self.checkpoints}: {error.strerror}; check its permissions "
                            "and its disk, then try again") from error  # fmt: skip
        return sorted({step for step in steps if step is not None})


# --- experiment ids --------------------------------------------------------------------------------------------------

# --- durable files ---------------------------------------------------------------------------------------------------


def links_inside(root: Path) -> list[Path]:
    """Links in places of a run where one would lead out of it, to what is written or backed up.

    The pointers to checkpoints are links of ours, and the folders of large files may lie elsewhere, but not in another
    run, whose files would be removed.
    """
    paths = RunPaths(root)
    small = (paths.logs, paths.tokenizer, root / HYDRA_FOLDER)
    files = (paths.lock_file, paths.config_file, paths.results_file, paths.backup_file, root / "train.log")
    places = [*small, *files, *(path for folder in small if not folder.is_symlink() for path in _entries(folder))]
    found = [path for path in places if path.is_symlink()]
    for folder in (paths.checkpoints, paths.visualizations):
        home = folder.resolve()
        if folder.is_symlink() and (home.parent / CONFIG_NAME).exists():
            found.append(folder)
        found += [path for path in _entries(folder) if path.is_symlink() and path.resolve().parent != home]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def remove_unfinished_records(paths: RunPaths) -> None:
    """Remove what killed writers left of the records in a run directory. For the owner of the directory."""
    for folder in (paths.tokenizer, paths.root / HYDRA_FOLDER):
        remove_temporary_files(folder)
    # Others may write certificates and exported weights beside these.
    for record in (paths.config_file, paths.results_file, paths.git_diff_file, paths.backup_file):
        remove_temporary_files(paths.root, record.name)


# --- JSON ------------------------------------------------------------------------------------------------------------
