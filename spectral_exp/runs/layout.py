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
METRICS_SUMMARY_NAME = "metrics_summary.json"
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


class _Inside:
    """A path in a run directory, made at its first use: a scan of many runs needs few of them."""

    def __init__(self, file_name: str, folder: str = "root") -> None:
        self._file_name, self._folder = file_name, folder

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, paths: RunPaths, owner: type) -> Path:
        folder: Path = getattr(paths, self._folder)
        path = folder / self._file_name
        paths.__dict__[self._name] = path  # found there from now on
        return path


class RunPaths:
    """The paths of a run's files and folders, which need not exist."""

    checkpoints = _Inside(CHECKPOINTS_FOLDER)
    logs = _Inside(LOGS_FOLDER)
    visualizations = _Inside(VISUALIZATIONS_FOLDER)
    tokenizer = _Inside(TOKENIZER_FOLDER)
    hydra = _Inside(HYDRA_FOLDER)
    profile = _Inside(PROFILE_FOLDER)
    report = _Inside(REPORT_FOLDER)
    companion = _Inside(COMPANION_FOLDER)
    tensorboard = _Inside(TENSORBOARD_FOLDER)
    wandb = _Inside(WANDB_FOLDER)
    config_file = _Inside(CONFIG_NAME)
    results_file = _Inside(RESULTS_NAME)
    git_diff_file = _Inside(GIT_DIFF_NAME)
    own_code_file = _Inside(OWN_CODE_NAME)
    lock_file = _Inside(LOCK_NAME)
    backup_file = _Inside(BACKUP_NAME)
    notes_file = _Inside(NOTES_NAME)
    evaluations_file = _Inside(EVALUATIONS_NAME)
    certificate_file = _Inside(CERTIFICATE_NAME)
    run_log = _Inside(RUN_LOG_NAME)
    metrics_file = _Inside(METRICS_NAME, "logs")
    metrics_summary_file = _Inside(METRICS_SUMMARY_NAME, "logs")
    cut_metrics_file = _Inside(CUT_METRICS_NAME, "logs")
    training_log = _Inside(TRAINING_LOG_NAME, "logs")
    spectra_file = _Inside(SPECTRA_NAME, "logs")
    system_file = _Inside(SYSTEM_NAME, "logs")
    companion_log = _Inside(COMPANION_LOG_NAME, "logs")
    latest_link = _Inside(LATEST_NAME, "checkpoints")
    best_link = _Inside(BEST_NAME, "checkpoints")

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

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
