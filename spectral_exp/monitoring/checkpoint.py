"""Checkpoints: saved whole or not at all, found again newest first, checked before use."""

from __future__ import annotations

import errno
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spectral_exp import run_dir
from spectral_exp.errors import UserError, require
from spectral_exp.monitoring.model_summary import unwrap
from spectral_exp.monitoring.redact import without_secrets

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

CHECKPOINT_KEYS = (
    "step",
    "model_state_dict",
    "optimizer_state_dict",
    "loss_history",
    "config",
    "timestamp",
    "git_hash",
)
"""What every checkpoint holds."""


class HasState(Protocol):
    """An optimizer, or whatever else tells its state as one does."""

    def state_dict(self) -> dict[str, Any]:
        """The state, in containers of tensors and numbers."""


class CheckpointManager:
    """Saves, finds and removes the checkpoints of one run. A run has one writer at a time, and any number of readers.

    Saving is synchronous: when the call returns, the file has reached the disk and `checkpoint_latest.pt` points to it.
    If the disk fails, training goes on: the checkpoint is skipped with a warning, and the older ones stay.

    Args:
        experiment_dir: root of the run.
        save_interval: steps between checkpoints, >= 1.
        keep_last_n: checkpoints to keep, >= 1.
        keep_best: keep the best checkpoint too, with `checkpoint_best.pt` pointing to it.
        enabled: when false nothing is due and nothing is written; loading works.
    """

    def __init__(
        self,
        experiment_dir: str | Path,
        save_interval: int = 1000,
        keep_last_n: int = 3,
        *,
        keep_best: bool = True,
        enabled: bool = True,
    ) -> None:
        for name, value in {"save_interval": save_interval, "keep_last_n": keep_last_n}.items():
            require(isinstance(value, int) and value >= 1, name, value, "a whole number >= 1")
        self.paths = run_dir.RunPaths(experiment_dir)
        self.save_interval = save_interval
        self.keep_last_n = keep_last_n
        self.keep_best = keep_best
        self.enabled = enabled
        self.failures = 0
        """Saves that the disk refused so far."""
        self._warned = False

    def should_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`, counted from 1."""
        return self.enabled and step > 0 and step % self.save_interval == 0

    # --- saving ------------------------------------------------------------------------------------------------------

    def save_checkpoint(
        self,
        step: int,
        model: nn.Module,
        optimizer: HasState,
        loss_history: Sequence[float] | torch.Tensor,
        config: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        is_best: bool = False,
    ) -> str:
        """Save the state after `step`, then remove checkpoints beyond retention.

        Args:
            step: step just finished.
            model: its state is saved without the wrappers of data parallelism and compilation.
            optimizer: saved by its `state_dict()`.
            loss_history: one loss per step; kept as one float64 tensor, given back as a list by the load methods.
            config: kept for readers, secrets redacted; objects other than numbers and strings are kept as text.
            extra: further entries beside the standard ones, e.g. random number states.
            is_best: mark it as the best so far.

        Returns:
            The path of the file, or "" when nothing was saved: switched off, or the disk failed.

        Raises:
            SettingError: `extra` uses a standard key.
            TypeError: the state holds objects that cannot be loaded safely.
        """
        if not self.enabled:
            return ""
        state = _checkpoint_state(step, model, optimizer, loss_history, config, extra or {})
        path = self.paths.checkpoint_file(step)
        try:
            self.paths.checkpoints.mkdir(parents=True, exist_ok=True)
            _write(path, state)
            run_dir.replace_symlink(self.paths.latest_link, path)
            if is_best and self.keep_best:
                run_dir.replace_symlink(self.paths.best_link, path)
        except OSError as error:
            self.failures += 1
            self._warn_once(f"checkpoint of step {step} not saved, training goes on", error)
            return ""
        if self._warned:
            log.warning("checkpoints are being saved again, from step %d on", step)
            self._warned = False
        self.cleanup_old_checkpoints()
        return str(path)

    def mark_best(self, step: int) -> None:
        """Let `checkpoint_best.pt` point to the checkpoint of `step`. Raises UserError if there is none."""
        if not (self.enabled and self.keep_best):
            return
        path = self.paths.checkpoint_file(step)
        if not path.is_file():
            raise UserError(f"cannot mark step {step} as best: {path} does not exist")
        try:
            run_dir.replace_symlink(self.paths.best_link, path)
        except OSError as error:
            self._warn_once(f"step {step} not marked as best", error)

    def cleanup_old_checkpoints(self) -> None:
        """Remove all but the `keep_last_n` newest, the best and the latest, and what killed writers left behind."""
        if not self.enabled:
            return
        kept = set(self._newest_first()[: self.keep_last_n])
        pointed = {run_dir.follow(link) for link in (self.paths.latest_link, self.paths.best_link)}
        try:
            run_dir.remove_temporary_files(self.paths.checkpoints)
            for step in self.paths.checkpoint_steps():
                path = self.paths.checkpoint_file(step)
                if step not in kept and path not in pointed:
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._warn_once("old checkpoints not removed", error)

    def _warn_once(self, what: str, error: OSError) -> None:
        """Tell the first failure of a row with its remedy; the next ones would only repeat it."""
        if not self._warned:
            log.warning("%s: %s (%s); %s", what, error.strerror or error, self.paths.checkpoints, _remedy(error))
        self._warned = True

    # --- loading -----------------------------------------------------------------------------------------------------

    def load_latest_checkpoint(self, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The most recent checkpoint that is intact, or None. Broken ones are set aside on the way, with a warning.

        Raises:
            UserError: a file may not be read.
        """
        for step in self._newest_first():
            if (state := self.load_checkpoint(step, map_location)) is not None:
                return state
        return None

    def load_best_checkpoint(self, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The checkpoint marked as best, or None if there is none or it is broken."""
        path = run_dir.follow(self.paths.best_link)
        return self._read(path, map_location) if path else None

    def load_checkpoint(self, step: int, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The checkpoint of `step`, or None if there is none or it is broken; then it is set aside, with a warning.

        Args:
            step: step after which it was saved.
            map_location: device for its tensors.

        Returns:
            The entries named in `CHECKPOINT_KEYS` and those given as `extra`; `loss_history` as a list of floats.

        Raises:
            UserError: the file may not be read.
        """
        return self._read(self.paths.checkpoint_file(step), map_location)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """All checkpoints by ascending step: `step`, `path`, `size_mb`, `timestamp`, `is_latest` and `is_best`."""
        latest, best = run_dir.follow(self.paths.latest_link), run_dir.follow(self.paths.best_link)
        found = []
        for step in self.paths.checkpoint_steps():
            path = self.paths.checkpoint_file(step)
            try:
                facts = path.stat()
            except FileNotFoundError:  # removed by the run's writer meanwhile
                continue
            found.append(
                {
                    "step": step,
                    "path": str(path),
                    "size_mb": facts.st_size / 1e6,
                    "timestamp": datetime.fromtimestamp(facts.st_mtime).isoformat(timespec="seconds"),
                    "is_latest": path == latest,
                    "is_best": path == best,
                }
            )
        return found

    def _newest_first(self) -> list[int]:
        """Steps with a checkpoint, the most recently made first.

        That is by step, but for a run which went back to an earlier step: checkpoints beyond the one that
        `checkpoint_latest.pt` points to, and older than it, belong to the abandoned branch and come last. (A higher
        step that is newer is a save that was killed just before the pointer moved: whole, and the most recent.)
        """
        steps = self.paths.checkpoint_steps()[::-1]
        latest = run_dir.follow(self.paths.latest_link)
        latest_step = self.paths.checkpoint_step(latest) if latest else None
        if latest is None or latest_step is None:
            return steps
        written = _modified(latest)
        abandoned = [s for s in steps if s > latest_step and _modified(self.paths.checkpoint_file(s)) < written]
        return [step for step in steps if step not in abandoned] + abandoned

    def _read(self, path: Path, map_location: str | torch.device) -> dict[str, Any] | None:
        import torch

        from spectral_exp.monitoring.portable import to_device

        try:
            _verify_checksums(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            if missing := [key for key in CHECKPOINT_KEYS if key not in state]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            state["loss_history"] = torch.as_tensor(state["loss_history"], dtype=torch.float64).tolist()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; give yourself read permission") from error
        except MemoryError:
            raise
        except Exception as error:
            # Broken bytes can fail in any way; whichever it was, an older file may be whole.
            self._set_aside(path, error)
            return None
        return state if str(map_location) == "cpu" else dict(to_device(state, map_location))

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Rename a broken checkpoint, so that it is kept but never tried again."""
        aside = path.with_name(path.name + run_dir.CORRUPT_SUFFIX)
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}{run_dir.CORRUPT_SUFFIX}{number}")
        reason = str(error).partition("\n")[0] or type(error).__name__
        try:
            path.rename(aside)
        except OSError as refusal:
            log.warning("checkpoint %s is broken (%s) and stays there: %s", path, reason, refusal.strerror)
        else:
            log.warning("checkpoint %s is broken (%s); set aside as %s", path, reason, aside.name)


def _checkpoint_state(
    step: int,
    model: nn.Module,
    optimizer: HasState,
    loss_history: Sequence[float] | torch.Tensor,
    config: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    from spectral_exp.monitoring.portable import portable_config, portable_state

    clash = sorted(set(extra) & set(CHECKPOINT_KEYS))
    require(not clash, "extra", clash, "without the names of a checkpoint's own entries")
    return {
        "step": int(step),
        "model_state_dict": portable_state(unwrap(model).state_dict(), "model_state_dict"),
        "optimizer_state_dict": portable_state(optimizer.state_dict(), "optimizer_state_dict"),
        "loss_history": _history_tensor(loss_history),
        "config": without_secrets(portable_config(config)),
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "git_hash": run_dir.git_hash(),
        **portable_state(extra, "extra"),
    }


def _history_tensor(losses: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """Losses as a float64 tensor: a million cost a few milliseconds, where pickled Python floats take hundreds."""
    import numpy as np
    import torch

    from spectral_exp.monitoring.portable import portable_state

    if isinstance(losses, torch.Tensor):
        compact: torch.Tensor = portable_state(losses.to("cpu", torch.float64), "loss_history")
        return compact
    if len(losses) and isinstance(losses[-1], torch.Tensor):
        losses = [float(torch.as_tensor(loss).detach()) for loss in losses]
    return torch.from_numpy(np.fromiter(losses, np.float64, len(losses)))


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint file durably. Raises OSError for whatever the storage refuses."""
    import torch

    try:
        with run_dir.atomic_writer(path) as file, _checksums_on():
            torch.save(dict(state), file)
    except RuntimeError as error:
        # torch reports a refused write as its own error, raised while the storage's was being handled.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        raise (cause or error) from error


@contextmanager
def _checksums_on() -> Iterator[None]:
    """Let torch write the checksums that loading compares, even where the caller has switched them off."""
    from torch import serialization

    if not hasattr(serialization, "set_crc32_options"):  # older torch always writes them
        yield
        return
    chosen = serialization.get_crc32_options()
    serialization.set_crc32_options(True)
    try:
        yield
    finally:
        serialization.set_crc32_options(chosen)


def _verify_checksums(path: Path) -> None:
    """Compare the bytes of a checkpoint with its checksums, which `torch.load` does not. Raises ValueError."""
    with zipfile.ZipFile(path) as archive:
        if (member := archive.testzip()) is not None:
            raise ValueError(f"wrong checksum of {member}")


def _modified(path: Path) -> int:
    """Time of modification in ns; 0 for a file that has gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _remedy(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "free space on the disk, or keep fewer checkpoints (keep_last_n); every further save tries again"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make the folder writable; every further save tries again"
    return "check the disk; every further save tries again"
