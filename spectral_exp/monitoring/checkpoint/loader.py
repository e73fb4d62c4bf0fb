"""Loading the checkpoints of a run: the latest that is intact, the best, and that of a step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spectral_exp.core.errors import UserError
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.monitoring.checkpoint.folder import CheckpointFolder
from spectral_exp.monitoring.checkpoint.reader import (
    BrokenCheckpointError,
    UnreadableCheckpointError,
)
from spectral_exp.monitoring.checkpoint.shards import shard_bytes
from spectral_exp.runs import layout

if TYPE_CHECKING:
    import torch

_LISTINGS = 3
_T = TypeVar("_T")


class CheckpointLoader:
    """Loads from `folder`, whose methods and errors are described in `CheckpointManager`.

    Args:
        paths: of the run.
        folder: finds the files.
    """

    def __init__(self, paths: layout.RunPaths, folder: CheckpointFolder) -> None:
        self._paths = paths
        self._folder = folder

    def load_latest(
        self, map_location: str | torch.device, history_as_array: bool, mapped: bool
    ) -> dict[str, Any] | None:
        """Return the most recent checkpoint that is intact, or None if there is no checkpoint."""
        for _ in range(_LISTINGS):
            paths = self._newest_first()
            broken: list[tuple[Path, BrokenCheckpointError]] = []
            for path in paths:
                try:
                    state = _read(path, map_location, history_as_array, mapped)
                except BrokenCheckpointError as error:
                    broken.append((path, error))
                    continue
                if state is not None:
                    for damaged, reason in broken:
                        self._folder.move_away(damaged, reason)
                    return state
            if len(broken) == len(paths):
                break  # otherwise the run's writer has removed some meanwhile, and made newer ones
        if broken or self._folder.has_broken():
            shown = "; ".join(f"{path.name}: {reason}" for path, reason in broken[:3])
            raise UserError(
                f"no checkpoint in {self._paths.checkpoints} is intact"
                f" ({shown or 'all were moved to .corrupt'}); put an intact one there from a "
                "backup, or move the folder away to start anew. Nothing was changed"
            )
        return None

    def load_best(self, map_location: str | torch.device) -> dict[str, Any] | None:
        """Return the checkpoint of the best step, or None."""
        path = self._look(self._folder.best_file, None)
        return self._load(path, map_location) if path else None

    def load_step(
        self, step: int, map_location: str | torch.device, mapped: bool
    ) -> dict[str, Any] | None:
        """Return the checkpoint of `step`, or None."""
        return self._load(self._paths.checkpoint_file(step), map_location, mapped)

    def describe(self) -> list[dict[str, Any]]:
        """Return the facts of all checkpoints by ascending step."""
        newest, best = self._newest_first(), self._look(self._folder.best_file, None)
        found = []
        for step in self._paths.checkpoint_steps():
            path = self._paths.checkpoint_file(step)
            try:
                facts = path.stat()
            except FileNotFoundError:  # removed by the run's writer meanwhile
                continue
            modified = datetime.fromtimestamp(facts.st_mtime).astimezone()
            found.append(
                {
                    "step": step,
                    "path": str(path),
                    "size_mb": (facts.st_size + shard_bytes(path)) / 1e6,
                    "timestamp": modified.isoformat(timespec="seconds"),
                    "is_latest": path in newest[:1],
                    "is_best": path == best,
                }
            )
        return found

    def _newest_first(self) -> list[Path]:
        """The checkpoints, the most recently made first."""

        def find() -> list[Path]:
            copy = self._folder.latest_file()
            steps = self._folder.newest_first()
            return [
                *([copy] if copy is not None else []),
                *map(self._paths.checkpoint_file, steps),
            ]

        return self._look(find, [])

    def _look(self, find: Callable[[], _T], default: _T) -> _T:
        """Return the result of `find`, or `default` if there is no folder.

        Raises:
            UserError: it cannot be read.
        """
        for _ in range(_LISTINGS):
            try:
                return checkpoint_reader.read_with_retries(self._paths.checkpoints, find)
            except (
                FileNotFoundError
            ):  # the folder, or a file that the run's writer removed meanwhile
                if not self._paths.checkpoints.exists():
                    return default
        cause = "its files go faster than they are listed"
        raise UnreadableCheckpointError(self._paths.checkpoints, cause, "try again")

    def _load(
        self, path: Path, map_location: str | torch.device, mapped: bool = False
    ) -> dict[str, Any] | None:
        try:
            return _read(path, map_location, mapped=mapped)
        except BrokenCheckpointError as error:
            self._folder.move_away(path, error)
            return None


def _read(
    path: Path,
    map_location: str | torch.device,
    history_as_array: bool = False,
    mapped: bool = False,
) -> dict[str, Any] | None:
    """A checkpoint on a device; None if it does not exist.

    Raises BrokenCheckpointError or UserError.
    """
    from spectral_exp.monitoring.checkpoint.portable import to_device

    try:
        state = checkpoint_reader.read_checkpoint(
            path, history_as_array=history_as_array, mapped=mapped
        )
    except FileNotFoundError:
        return None
    return state if str(map_location) == "cpu" else dict(to_device(state, map_location))
