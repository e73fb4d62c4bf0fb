"""Changes of a checkpoint folder by the thread that writes: new files in, old ones out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.failures import SaveFailures
from spectral_exp.monitoring.checkpoint.folder import CheckpointFolder
from spectral_exp.monitoring.checkpoint.save import Save
from spectral_exp.monitoring.checkpoint.shards import SHARDS_ENTRY
from spectral_exp.runs import layout

log = logging.getLogger(__name__)


class CheckpointStore:
    """Writes checkpoints, marks the best one and removes those beyond retention.

    Args:
        paths: of the run.
        folder: of its checkpoints.
        failures: takes failures of retention.
        compression: None or "zstd".
        keep_last_n: newest checkpoints to keep, >= 1.
        keep_every_n_steps: keep those of steps divisible by it too.
        max_threads: how many may read a checkpoint to verify it.
    """

    def __init__(
        self,
        paths: layout.RunPaths,
        folder: CheckpointFolder,
        failures: SaveFailures,
        *,
        compression: str | None,
        keep_last_n: int,
        keep_every_n_steps: int | None,
        max_threads: int,
    ) -> None:
        self._paths = paths
        self._folder = folder
        self._failures = failures
        self._compression = compression
        self._keep_last_n = keep_last_n
        self._keep_every_n_steps = keep_every_n_steps
        self._max_threads = max_threads
        # A root that was there and is gone has been moved or removed: no checkpoint makes it again.
        self._makes_root = _is_missing(paths.root)

    def path(self, step: int) -> Path:
        """Return the file of a new checkpoint of `step`."""
        suffix = layout.COMPRESSED_SUFFIX if self._compression == "zstd" else ""
        return self._paths.checkpoints / f"checkpoint_step_{step}.pt{suffix}"

    def write(
        self,
        save: Save,
        before_write: Callable[[], None] | None,
        before_commit: Callable[[], None] | None,
    ) -> checkpoint_file.Written:
        """Make a save durable and let the links name it.

        Raises:
            OSError: the storage, or one of the two functions, refuses.
            StateChangedError: the state was changed before it was copied or written.
        """
        path = self.path(save.step)
        image = None
        if save.staged is not None:
            image = save.staged.copy()
        else:
            save.state.complete()

        def check_and_commit() -> None:
            if save.watch is not None:
                save.watch.check()
            if before_commit is not None:
                before_commit()

        if before_write is not None:
            before_write()
        self._paths.checkpoints.mkdir(parents=self._makes_root, exist_ok=True)
        lineage = self._folder.next_lineage(save.step, save.is_best)
        index = save.state.entries.get(SHARDS_ENTRY)
        written = checkpoint_file.write_checkpoint(
            path,
            save.state.entries,
            image,
            compression=self._compression,
            facts={**asdict(lineage), **({} if index is None else {SHARDS_ENTRY: index["folder"]})},
            before_commit=check_and_commit,
        )
        self._folder.record(path, lineage)
        if index is None:
            return written
        shard_bytes = sum(size for size, _ in index["files"])
        return checkpoint_file.Written(
            written.size_bytes + shard_bytes, written.state_bytes + shard_bytes, written.seconds
        )

    def excess(self) -> list[Path]:
        """Return the checkpoints beyond retention."""
        steps = self._folder.excess(self._keep_last_n, self._keep_every_n_steps)
        return [self._paths.checkpoint_file(step) for step in steps]

    def prune(self) -> None:
        """Remove checkpoints beyond retention, once the newest have been found intact."""
        try:
            self._folder.prune(self._keep_last_n, self._keep_every_n_steps, self._max_threads)
        except (OSError, UserError) as error:
            self._warn(error)
        else:
            self._failures.end_row("retention")

    def make_room(self) -> bool:
        """Remove the checkpoint that is missed least, and return whether there was one."""
        try:
            step = self._folder.remove_least(self._keep_every_n_steps, self._max_threads)
        except (OSError, UserError) as error:
            self._warn(error)
            return False
        if step is not None:
            log.warning(
                "checkpoint of step %d removed: the disk is full, and the last one needs the space",
                step,
            )
        return step is not None

    def mark_best(self, step: int) -> None:
        """Let the link to the best checkpoint name that of `step`."""
        try:
            self._folder.mark_best(step)
        except OSError as error:
            self._failures.warn_once("best", f"step {step} not marked as best", error)

    def _warn(self, error: OSError | UserError) -> None:
        self._failures.warn_once("retention", "old checkpoints not removed", error)


def _is_missing(folder: Path) -> bool:
    """Whether there is certainly no such folder."""
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:  # a storage that fails; saving reports it
        return False
    return False
