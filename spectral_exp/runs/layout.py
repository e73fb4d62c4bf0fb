"""The layout of a run directory: the names of its files and folders."""

from __future__ import annotations

import re
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import TEMPORARY_SUFFIX, remove_temporary_files

CHECKPOINTS_FOLDER = "checkpoints"
LOGS_FOLDER = "logs"
VISUALIZATIONS_FOLDER = "visualizations"
TOKENIZER_FOLDER = "tokenizer"
HYDRA_FOLDER = ".hydra"
PROFILE_FOLDER = "profile"
REPORT_FOLDER = "report"
COMPANION_FOLDER = "companion"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"

CONFIG_NAME = "config.json"
RESULTS_NAME = "results.json"
GIT_DIFF_NAME = "git_diff.patch"
OWN_CODE_NAME = "code.zip"
OWN_CONFIG_NAME = "config-dir"
"""In `OWN_CODE_NAME`: the user's configuration files, beside packages; no package has this name."""
LOCK_NAME = "run.lock"
BACKUP_NAME = "backup.json"
NOTES_NAME = "notes.json"
EVALUATIONS_NAME = "evaluations.jsonl"
RUN_LOG_NAME = "train.log"
CERTIFICATE_NAME = "resume_certificate.json"

METRICS_NAME = "metrics.jsonl"
CUT_METRICS_NAME = "metrics.cut.jsonl"
TRAINING_LOG_NAME = "training.log"
RANK_LOG_PATTERN = "rank_*.log"
SPECTRA_NAME = "spectra.jsonl"
CUT_SPECTRA_NAME = "spectra.cut.jsonl"
SYSTEM_NAME = "system.jsonl"
COMPANION_LOG_NAME = "companion.log"

LATEST_NAME = "checkpoint_latest.pt"
BEST_NAME = "checkpoint_best.pt"
CORRUPT_SUFFIX = ".corrupt"
COMPRESSED_SUFFIX = ".zst"

HYDRA_CONFIG_NAME = "config.yaml"
HYDRA_OWN_NAME = "hydra.yaml"
HYDRA_OVERRIDES_NAME = "overrides.yaml"
SWEEP_NAME = "sweep.json"
SWEEP_LOCK_NAME = "sweep.lock"
SWEEP_FILES = (SWEEP_NAME, SWEEP_LOCK_NAME, "multirun.yaml")
"""In the folder of a sweep; the last one is Hydra's own, of earlier sweeps."""

REPRODUCTION_NAME = "reproduction.json"
"""In the folder of a reproduction."""

PROVENANCE_NAME = "provenance.json"
"""In the folder of a paper or report."""

CLAIMS_FOLDER = "spectral_exp-{user}"
"""In the system's temporary folder: the names and seconds that processes have reserved for ids."""

_CHECKPOINT_NAME = re.compile(r"checkpoint_step_(0|[1-9]\d*)\.pt(\.zst)?")
_SHARDS_NAME = re.compile(r"checkpoint_step_(0|[1-9]\d*)\.shards-[0-9a-f]{8}")


class RunPaths:
    """The paths of a run's files and folders, which need not exist."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.checkpoints = self.root / CHECKPOINTS_FOLDER
        self.logs = self.root / LOGS_FOLDER
        self.visualizations = self.root / VISUALIZATIONS_FOLDER
        self.tokenizer = self.root / TOKENIZER_FOLDER
        self.hydra = self.root / HYDRA_FOLDER
        self.profile = self.root / PROFILE_FOLDER
        self.report = self.root / REPORT_FOLDER
        self.companion = self.root / COMPANION_FOLDER
        self.tensorboard = self.root / TENSORBOARD_FOLDER
        self.wandb = self.root / WANDB_FOLDER
        self.config_file = self.root / CONFIG_NAME
        self.results_file = self.root / RESULTS_NAME
        self.git_diff_file = self.root / GIT_DIFF_NAME
        self.own_code_file = self.root / OWN_CODE_NAME
        self.lock_file = self.root / LOCK_NAME
        self.backup_file = self.root / BACKUP_NAME
        self.notes_file = self.root / NOTES_NAME
        self.evaluations_file = self.root / EVALUATIONS_NAME
        self.certificate_file = self.root / CERTIFICATE_NAME
        self.run_log = self.root / RUN_LOG_NAME
        self.metrics_file = self.logs / METRICS_NAME
        self.cut_metrics_file = self.logs / CUT_METRICS_NAME
        self.training_log = self.logs / TRAINING_LOG_NAME
        self.spectra_file = self.logs / SPECTRA_NAME
        self.system_file = self.logs / SYSTEM_NAME
        self.companion_log = self.logs / COMPANION_LOG_NAME
        self.latest_link = self.checkpoints / LATEST_NAME
        self.best_link = self.checkpoints / BEST_NAME

    def rank_log(self, rank: int) -> Path:
        """Return the log file of a process beyond the first."""
        return self.logs / RANK_LOG_PATTERN.replace("*", str(rank))

    def checkpoint_file(self, step: int) -> Path:
        """Return the checkpoint file of `step`: the compressed one if only that exists."""
        plain = self.checkpoints / f"checkpoint_step_{step}.pt"
        compressed = plain.with_name(plain.name + COMPRESSED_SUFFIX)
        return compressed if compressed.exists() and not plain.exists() else plain

    def checkpoint_step(self, path: Path) -> int | None:
        """Return the step in the name of a checkpoint file, or None for other files."""
        match = _CHECKPOINT_NAME.fullmatch(path.name)
        return int(match[1]) if match else None

    def shards_folder(self, step: int, token: str) -> Path:
        """Return the folder for the shards of a checkpoint of `step`; `token` is 8 hex digits.

        Every save has its own token, so that no folder is ever written twice.
        """
        return self.checkpoints / f"checkpoint_step_{step}.shards-{token}"

    def shards_step(self, path: Path) -> int | None:
        """Return the step in the name of a folder of shards, or None for other files."""
        match = _SHARDS_NAME.fullmatch(path.name)
        return int(match[1]) if match else None

    def unfinished_shards(self, step: int) -> Path:
        """Return the folder in which the shards of `step` are written, before it gets its name."""
        return self.checkpoints / f".step_{step}{TEMPORARY_SUFFIX}"

    def checkpoint_steps(self) -> list[int]:
        """Return the steps that have a checkpoint file, ascending; none if the folder is missing.

        Raises:
            UserError: the folder exists but cannot be read.
        """
        try:
            steps = [self.checkpoint_step(file) for file in self.checkpoints.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"cannot read the folder {self.checkpoints}: {error.strerror}; check its "
                "permissions and its disk, then try again"
            ) from error
        return sorted({step for step in steps if step is not None})


def links_inside(root: Path) -> list[Path]:
    """Return the links in a run through which files outside of it would be written or backed up.

    Two kinds of links are allowed: those from a checkpoint name to a file in the same folder, and
    those from `checkpoints` or `visualizations` to a folder that does not belong to another run.
    """
    paths = RunPaths(root)
    small = (paths.logs, paths.tokenizer, paths.hydra, paths.companion, paths.tensorboard)
    files = (
        paths.lock_file, paths.config_file, paths.results_file, paths.backup_file, paths.run_log,
    )  # fmt: skip
    inside = (path for folder in small if not folder.is_symlink() for path in _entries(folder))
    # The library of Weights & Biases puts links into its folder.
    found = [path for path in (*small, paths.wandb, *files, *inside) if path.is_symlink()]
    for folder in (paths.checkpoints, paths.visualizations):
        home = folder.resolve()
        if folder.is_symlink() and (home.parent / CONFIG_NAME).exists():
            found.append(folder)
        found += [
            path for path in _entries(folder) if path.is_symlink() and path.resolve().parent != home
        ]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def remove_unfinished_records(paths: RunPaths) -> None:
    """Remove the temporary files that killed processes left of the records of a run.

    Only the owner of the run directory may call this.
    """
    for folder in (paths.tokenizer, paths.root / HYDRA_FOLDER):
        remove_temporary_files(folder)
    # Other processes may be writing certificates and exported weights to the same folder.
    for record in (paths.config_file, paths.results_file, paths.git_diff_file, paths.backup_file):
        remove_temporary_files(paths.root, record.name)
