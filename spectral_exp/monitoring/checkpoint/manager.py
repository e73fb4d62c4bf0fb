"""Checkpoints: saved whole or not at all, found again newest first, checked before use."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.steps import whole_step
from spectral_exp.core.worker import BackgroundThread
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.folder import CheckpointFolder
from spectral_exp.monitoring.checkpoint.loader import CheckpointLoader
from spectral_exp.monitoring.checkpoint.policy import SaveSchedule
from spectral_exp.monitoring.checkpoint.save import Save, saving
from spectral_exp.monitoring.checkpoint.state import HasState, KeptConfig, LossHistory
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.wrappers import unwrap
from spectral_exp.runs import layout

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spectral_exp.monitoring.checkpoint.staging import StagingArena, StateChangedError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveReport:
    """What one durable checkpoint cost.

    Attributes:
        step: the step it holds.
        blocked_s: seconds that training waited for it.
        durable_s: seconds from the call until it would have survived a power cut.
        size_bytes: of the file.
        compression_ratio: bytes of the state for each byte of the file.
    """

    step: int
    blocked_s: float
    durable_s: float
    size_bytes: int
    compression_ratio: float


class CheckpointManager(Component):
    """Saves, finds and removes the checkpoints of one run. A run has one writer at a time, and any number of readers.

    By default saving is synchronous: when the call returns, the file, its sidecar with size and checksum and
    `checkpoint_latest.pt` have reached the disk. With `background` the call returns at once. The state is copied while
    the next forward and backward run, a thread writes the copy, and `wait` returns when it is durable. Every optimizer
    of torch waits for the copy by itself. Before any other change of weights or optimizer state in place (averaged
    weights swapped in, `load_state_dict`, clipped weights) call `fence`. A change without it is noticed by torch's
    counts of changes and by the first bytes of every weight: then nothing is saved, an error is logged, and from then
    on the state is copied before the call returns. A change that neither shows, of single elements through `.data` or
    numpy, must be fenced.

    An exception that a signal handler raises out of any method leaves the manager usable. A save that it interrupts
    either goes on or leaves nothing behind.

    One save is under way at a time. What falls due meanwhile is logged as skipped and made up for, with the state of
    that moment, as soon as the writer is free. If the disk fails, training goes on: older checkpoints stay, the failure
    is told once, and further tries follow after growing pauses.

    Args:
        experiment_dir: root of the run.
        save_interval: steps between checkpoints, >= 1; "auto" saves as often as `max_overhead` allows.
        keep_last_n: checkpoints to keep, >= 1.
        keep_best: keep the best checkpoint too, with `checkpoint_best.pt` pointing to it.
        keep_every_n_steps: save and keep the checkpoints of steps divisible by it too; they are never skipped.
        background: write in a thread while training goes on; takes memory for one more copy of the state.
        compression: "zstd" writes `.pt.zst` files.
        max_overhead: share of the time that saves may cost with save_interval="auto", like "0.5%".
        max_steps_at_risk: steps without a durable checkpoint after which `exceeds_risk` says so; None for never.
        exit_deadline_s: seconds that `close` waits for the save under way.
        before_commit: called, by the thread that writes, when the bytes of a checkpoint are on the storage and
            before the file gets its name: what must be durable no later than the checkpoint is made durable here. An
            OSError fails the save.
        on_durable: called, by the thread that writes, with the step of each checkpoint that has become durable.
        enabled: when false nothing is due, written or renamed; loading works, past what is broken.
    """

    metric_prefixes = ("checkpoint_", "steps_at_risk")
    measures_machine = True
    files = (f"{layout.CHECKPOINTS_FOLDER}/*",)
    is_backed_up = False  # each backup has its own choice of checkpoints

    def __init__(
        self,
        experiment_dir: str | Path,
        save_interval: int | Literal["auto"] = 1000,
        keep_last_n: int = 3,
        *,
        keep_best: bool = True,
        keep_every_n_steps: int | None = None,
        background: bool = False,
        compression: Literal["zstd"] | None = None,
        max_overhead: float | str = "0.5%",
        max_steps_at_risk: int | None = None,
        exit_deadline_s: float = 600.0,
        before_commit: Callable[[], None] | None = None,
        on_durable: Callable[[int], None] | None = None,
        enabled: bool = True,
    ) -> None:
        require(_whole(keep_last_n), "keep_last_n", keep_last_n, "a whole number >= 1")
        for name, value in {
            "keep_every_n_steps": keep_every_n_steps,
            "max_steps_at_risk": max_steps_at_risk,
        }.items():
            require(value is None or _whole(value), name, value, "a whole number >= 1 or null")
        require(
            compression in checkpoint_file.COMPRESSIONS, "compression", compression, "zstd or null"
        )
        require(exit_deadline_s > 0, "exit_deadline_s", exit_deadline_s, "a number of seconds > 0")
        if compression == "zstd":
            checkpoint_file.zstd()
        self.paths = layout.RunPaths(experiment_dir)
        self.save_interval = save_interval
        self.keep_last_n = keep_last_n
        self.keep_best = keep_best
        self.keep_every_n_steps = keep_every_n_steps
        self.background = background
        self.compression = compression
        self.max_steps_at_risk = max_steps_at_risk
        self.exit_deadline_s = exit_deadline_s
        self.before_commit = before_commit
        self.before_write: Callable[[], None] | None = None
        """Called, by the thread that writes, before anything is written; an OSError that it raises refuses the save."""
        # A root that was there and is gone has been moved or removed: it does not come back for a checkpoint.
        self._makes_root = _is_absent(self.paths.root)
        self.on_durable = on_durable
        self.enabled = enabled
        self.failures = 0
        """Saves that the disk refused so far."""
        self.skipped = 0
        """Saves that fell due while one was under way."""
        self.reports: list[SaveReport] = []
        """The saves that have become durable, in order."""
        self.durable_step = 0
        """The newest step that a durable checkpoint is known of: saved or loaded by this manager."""
        self._schedule = SaveSchedule(save_interval, max_overhead)
        self._postponed_at: int | None = None
        self.problem = ""
        """Why the newest state that was to be saved has not become durable; empty if it has."""
        self._failing: set[str] = set()
        self._is_full = False
        self._lacks_memory = False
        self._copies_at_once = False
        self._history = LossHistory()
        self._config = KeptConfig()
        self._arena: StagingArena | None = None
        self._writer = BackgroundThread("checkpoint writer")
        self._folder = CheckpointFolder(self.paths, keep_best=keep_best, enabled=enabled)
        self._loader = CheckpointLoader(self.paths, self._folder)

    # --- when --------------------------------------------------------------------------------------------------------

    def should_checkpoint(self, step: int) -> bool:
        """Whether to save after `step`, counted from 1: one is due, or was due while the writer was busy."""
        step = whole_step(step)
        if not self.enabled:
            return False
        if self._is_kept_for_good(step):
            return True
        due = self._schedule.due(step)
        if not (due or self._postponed_at is not None):
            return False
        if not self.busy:
            return True
        if due and step != self._postponed_at:
            self.skipped += 1
            self._postponed_at = step
            log.info(
                "checkpoint of step %d skipped: one is still being written; the next follows at once",
                step,
            )
        return False

    def _is_kept_for_good(self, step: int) -> bool:
        """Whether `step` is divisible by `keep_every_n_steps`: its checkpoint is saved even if training has to wait."""
        return (
            self.keep_every_n_steps is not None and step > 0 and step % self.keep_every_n_steps == 0
        )

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._writer.busy

    def steps_at_risk(self, step: int) -> int:
        """Steps, of the `step` done, that no durable checkpoint holds: what a power cut would cost now."""
        return whole_step(step) - self.durable_step

    def exceeds_risk(self, step: int) -> bool:
        """Whether more steps are at risk than `max_steps_at_risk` allows."""
        allowed = self.max_steps_at_risk
        return self.enabled and allowed is not None and self.steps_at_risk(step) > allowed

    # --- saving ------------------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, optimizer: HasState) -> None:
        """Take the memory for background saves before the first one, which would otherwise wait for it.

        Call it when the optimizer has its state, after the first step. Without `background` it does nothing.
        """
        if not (self.enabled and self.background) or self.busy:
            return
        from spectral_exp.monitoring.checkpoint.portable import portable_state
        from spectral_exp.monitoring.checkpoint.staging import storages_of

        tensors: list[torch.Tensor] = []
        portable_state([unwrap(model).state_dict(), optimizer.state_dict()], "state", tensors)
        storages = storages_of(tensors)
        self._writer.start(lambda: self._reserve(storages))

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
            extra: further entries beside the standard ones, e.g. random number states; texts in them
                are kept without secrets.
            is_best: mark it as the best so far. Such a save is not skipped: it waits for the one under way, as does
                that of a step divisible by `keep_every_n_steps`.

        Returns:
            The path of the file, in background mode before it exists; "" when nothing is saved: switched off, the disk
            failed, or another save is under way.

        Raises:
            SettingError: `extra` uses a standard key.
            TypeError: the state holds objects that cannot be loaded safely.
        """
        step = whole_step(step)
        if not self.enabled:
            return ""
        started = time.perf_counter()
        if self.busy and not (is_best or self._is_kept_for_good(step)):
            self.skipped += 1
            log.info("checkpoint of step %d skipped: one is still being written", step)
            return ""
        self.wait()
        with_copy = self.background and not self._lacks_memory
        save = Save(step, is_best, started, self._write)
        if not self._capture(save, with_copy, model, optimizer, loss_history, config, extra or {}):
            return ""
        self._begin(save)
        self._postponed_at = None
        if with_copy:
            save.blocked_s += time.perf_counter() - started
        elif not self._wait_for(save):
            return ""
        return self._target(step)

    def save_last(
        self,
        step: int,
        model: nn.Module,
        optimizer: HasState,
        loss_history: Sequence[float] | torch.Tensor,
        config: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        is_best: bool = False,
    ) -> bool:
        """Save the state at the end of training, unless it is durable already; return whether it is.

        It waits for the save under way, at most `exit_deadline_s`, then saves without a copy of the state. If the disk
        is full, older checkpoints make room for it: the oldest first, the best one last, the newest intact one never.
        `problem` says why a state could not be saved. Arguments and exceptions are those of `save_checkpoint`.
        """
        step = whole_step(step)
        if not self.enabled:
            return False
        if not self._close():
            self.problem = (
                f"the disk did not take it within exit_deadline_s={self.exit_deadline_s:g}"
            )
            return False
        while self.steps_at_risk(step) > 0:
            save = Save(step, is_best, time.perf_counter(), self._write)
            if not self._capture(save, False, model, optimizer, loss_history, config, extra or {}):
                return False
            self._begin(save)
            if not self._wait_for(save) and not (self._is_full and self._make_room()):
                return False
        return True

    def fence(self) -> None:
        """Return once the state of the save under way has been copied: from then on it may be changed."""
        self._finish_copy(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return once no save is under way, or after `timeout_s`; whether it is so.

        Raises:
            Exception: what the writer met that is no failure of the storage.
        """
        started = time.perf_counter()
        self._finish_copy(timeout_s)
        left_s = (
            None if timeout_s is None else max(0.0, timeout_s - (time.perf_counter() - started))
        )
        return self._writer.wait(left_s)

    def close(self) -> bool:
        """Wait for the save under way, at most `exit_deadline_s`; whether all is durable. Saving works afterwards.

        `problem` says why the newest state that was to be saved is not.
        """
        return self._close() and not self.problem

    def _close(self) -> bool:
        if self.wait(self.exit_deadline_s):
            return True
        saving.discard(self)  # waited for here, and not once more when the process ends
        log.error(
            "the checkpoint being written was not durable within exit_deadline_s=%g; the newest that is: step %d",
            self.exit_deadline_s, self.durable_step,
        )  # fmt: skip
        return False

    def metrics(self) -> dict[str, float]:
        """What the newest durable save cost, under metric names; empty before the first."""
        if not self.reports:
            return {}
        newest = self.reports[-1]
        values = {
            "checkpoint_blocked_ms": 1e3 * newest.blocked_s,
            "checkpoint_durable_s": newest.durable_s,
            "checkpoint_size_mb": newest.size_bytes / 1e6,
        }
        return values | (
            {"checkpoint_compression": newest.compression_ratio} if self.compression else {}
        )

    def mark_best(self, step: int) -> None:
        """Let `checkpoint_best.pt` point to the checkpoint of `step`. Raises UserError if there is none."""
        step = whole_step(step)
        if not (self.enabled and self.keep_best):
            return
        self.wait()
        path = self.paths.checkpoint_file(step)
        if not path.is_file():
            raise UserError(f"cannot mark step {step} as best: {path} does not exist")
        try:
            self._writer.run(lambda: self._folder.mark_best(step))
        except OSError as error:
            self._warn_once("best", f"step {step} not marked as best", error)

    def removable_checkpoints(self) -> list[Path]:
        """The files that `cleanup_old_checkpoints` would remove, sidecars apart, unless one of the newest is broken."""
        excess = self._folder.excess(self.keep_last_n, self.keep_every_n_steps)
        return [self.paths.checkpoint_file(step) for step in excess]

    def cleanup_old_checkpoints(self) -> None:
        """Remove checkpoints beyond retention, and what killed writers left behind.

        Nothing goes before the `keep_last_n` newest have been read back and found intact.
        """
        if self.enabled:
            self._writer.run(self._clean_up)

    def _clean_up(self) -> None:
        try:
            self._folder.prune(
                self.keep_last_n, self.keep_every_n_steps, max_threads=self._threads()
            )
        except (OSError, UserError) as error:
            self._warn_once("retention", "old checkpoints not removed", error)
        else:
            self._failing.discard("retention")

    def _make_room(self) -> bool:
        """Remove the checkpoint that is missed least, for the sake of the last one; whether there was one."""
        removed: list[int] = []
        self._writer.run(lambda: removed.extend(self._remove_least()))
        return bool(removed)

    def _remove_least(self) -> list[int]:
        try:
            step = self._folder.remove_least(self.keep_every_n_steps, max_threads=self._threads())
        except (OSError, UserError) as error:
            self._warn_once("retention", "old checkpoints not removed", error)
            return []
        if step is None:
            return []
        log.warning(
            "checkpoint of step %d removed: the disk is full, and the last one needs the space",
            step,
        )
        return [step]

    def _threads(self) -> int:
        """How many may read a checkpoint to verify it; beside training one has to do."""
        return 1 if self.background else 2

    def _capture(
        self,
        save: Save,
        with_copy: bool,
        model: nn.Module,
        optimizer: HasState,
        loss_history: Sequence[float] | torch.Tensor,
        config: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> bool:
        """Give `save` the state of this moment; whether there was memory for it."""
        try:
            losses = self._history.tensor(loss_history)
            state = (model, optimizer, losses, self._config.of(config), extra)
            if with_copy:
                save.capture_copy(*state, self._staging(), self._copies_at_once)
            else:
                save.capture(*state)
        except (OSError, MemoryError, RuntimeError) as error:
            self._fail(save.step, error)
            return False
        return True

    def _begin(self, save: Save) -> None:
        saving.add(self)
        self._writer.start(save)

    def _wait_for(self, save: Save) -> bool:
        """Return once `save`, which has no copy, has ended; whether it is durable."""
        try:
            self._writer.wait()
        finally:
            # After an exception from a signal handler: the caller may change the state, which is being written.
            if self._writer.work is save:
                self._writer.wait(self.exit_deadline_s)
        return save.is_durable

    def _finish_copy(self, timeout_s: float | None) -> None:
        save = self._writer.work
        if isinstance(save, Save):
            save.finish_copy(timeout_s)

    def _staging(self) -> StagingArena:
        from spectral_exp.monitoring.checkpoint.staging import StagingArena

        self._arena = self._arena or StagingArena()
        return self._arena

    def _reserve(self, storages: list[torch.UntypedStorage]) -> None:
        try:
            self._staging().reserve(storages)
        except (OSError, MemoryError, RuntimeError) as error:
            log.debug("no memory reserved for checkpoints: %s", error)  # the first save reports it

    def _target(self, step: int) -> str:
        name = f"checkpoint_step_{step}.pt" + (
            layout.COMPRESSED_SUFFIX if self.compression == "zstd" else ""
        )
        return str(self.paths.checkpoints / name)

    def _write(self, save: Save) -> None:
        """Make a save durable, and remove what it replaces. Runs in the writer's thread."""
        from spectral_exp.monitoring.checkpoint.staging import StateChangedError

        cpu_s = time.thread_time()
        try:
            written = self._write_file(save)
        except StateChangedError as error:
            self._refuse(save, error)
            return
        except (OSError, MemoryError, RuntimeError) as error:
            self._fail(save.step, error)
            return
        finally:
            saving.discard(self)
        save.is_durable = True
        durable_s = time.perf_counter() - save.started_s
        if save.staged is None:
            save.blocked_s = durable_s
        self.durable_step = save.step
        ratio = written.state_bytes / written.size_bytes
        self.reports.append(
            SaveReport(save.step, save.blocked_s, durable_s, written.size_bytes, ratio)
        )
        self._schedule.saved(save.blocked_s + time.thread_time() - cpu_s, durable_s)
        self.problem, self._is_full = "", False
        if "save" in self._failing:
            log.warning("checkpoints are being saved again, from step %d on", save.step)
            self._failing.discard("save")
        self._clean_up()
        if self.on_durable is not None:
            self.on_durable(save.step)

    def _write_file(self, save: Save) -> checkpoint_file.Written:
        path = Path(self._target(save.step))
        image = None
        if save.staged is not None:
            image = save.staged.copy()
        else:
            save.state.complete()

        def before_commit() -> None:
            if save.watch is not None:
                save.watch.check()
            if self.before_commit is not None:
                self.before_commit()

        if self.before_write is not None:
            self.before_write()
        self.paths.checkpoints.mkdir(parents=self._makes_root, exist_ok=True)
        lineage = self._folder.next_lineage(save.step, save.is_best)
        written = checkpoint_file.write_checkpoint(
            path,
            save.state.entries,
            image,
            compression=self.compression,
            facts=asdict(lineage),
            before_commit=before_commit,
        )
        self._folder.record(path, lineage)
        return written

    def _fail(self, step: int, error: Exception) -> None:
        """Count a save that storage or memory has refused. Raises other errors."""
        refusal = checkpoint_file.refusal(error)
        if refusal is None:
            raise error
        self.failures += 1
        self._schedule.failed()
        self._is_full = refusal.errno in {errno.ENOSPC, errno.EDQUOT}
        if refusal.errno == errno.ENOMEM:
            # Written without a copy from now on, which needs no memory.
            self._lacks_memory, self._arena = True, None
        self.problem = f"{refusal.strerror or refusal} ({self.paths.checkpoints}); {checkpoint_file.remedy(refusal)}"
        self._warn_once("save", f"checkpoint of step {step} not saved, training goes on", refusal)

    def _refuse(self, save: Save, error: StateChangedError) -> None:
        """Count a save whose state was changed too early; the next one follows soon, and is copied at once."""
        self.failures += 1
        self.problem = f"{save.state.name_of(error.tensor)} was changed before it was copied"
        if save.staged is not None:
            self._copies_at_once, self._postponed_at = True, save.step
        log.error(
            "checkpoint of step %d not saved: %s; call fence() before changing weights or optimizer state. From now on "
            "they are copied before save_checkpoint returns",
            save.step, self.problem,
        )  # fmt: skip

    def _warn_once(self, activity: str, what: str, error: OSError | UserError) -> None:
        """Log the first failure of a row with its remedy; the next ones would only repeat it."""
        if activity not in self._failing:
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"{error.strerror or error} ({self.paths.checkpoints}); {checkpoint_file.remedy(error)}"
            log.warning("%s: %s; further tries follow", what, reason)
        self._failing.add(activity)

    # --- loading -----------------------------------------------------------------------------------------------------

    def load_latest_checkpoint(
        self, map_location: str | torch.device = "cpu", *, history_as_array: bool = False
    ) -> dict[str, Any] | None:
        """Return the most recent checkpoint that is intact, or None if there is no checkpoint.

        The most recent one is that of `checkpoint_latest.pt`. If it is provably damaged, the one before is taken with a
        warning, and the damaged one is renamed to `.corrupt`, unless this manager only reads or another process owns
        the run. A failure of any other kind changes nothing.

        Args:
            map_location: device for its tensors.
            history_as_array: give `loss_history` as an `array("d")`, which takes a tenth of the time of a list.

        Raises:
            UserError: a checkpoint cannot be read for another reason than damage, such as memory or permissions, or all
                of them are damaged: what to do is said, and nothing is changed.
        """
        return self._note(self._loader.load_latest(map_location, history_as_array))

    def load_best_checkpoint(
        self, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """Return the checkpoint of the best step, or None if there is none or it is broken; see `load_checkpoint`."""
        return self._loader.load_best(map_location)

    def load_checkpoint(
        self, step: int, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """Return the checkpoint of `step`, or None if there is none.

        None is also returned, with a warning, if it is provably damaged; then it is renamed to `.corrupt`, under the
        conditions of `load_latest_checkpoint`.

        Args:
            step: step after which it was saved.
            map_location: device for its tensors.

        Returns:
            The entries named in `CHECKPOINT_KEYS` and those given as `extra`; `loss_history` as a list of floats.

        Raises:
            UserError: the file cannot be read for another reason than damage; nothing is changed.
        """
        return self._note(self._loader.load_step(whole_step(step), map_location))

    @staticmethod
    def load_weights(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a checkpoint's `model_state_dict` into a model with other wrappers than the saved one.

        Checkpoints name weights as they are without the wrappers of data parallelism and `torch.compile`. A model of
        which parts are compiled, as by `net.body = torch.compile(net.body)`, has other names; this finds them.

        Args:
            model: of the same architecture, wrapped or not, as a whole or in parts.
            state: the entry of the checkpoint.
            strict: whether missing and unexpected names are errors.
        """
        from spectral_exp.monitoring.checkpoint.model_state import load_plain_state

        load_plain_state(model, state, strict=strict)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """All checkpoints by ascending step: `step`, `path`, `size_mb`, `timestamp`, `is_latest` and `is_best`."""
        return self._loader.describe()

    def _note(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        if state is not None:
            self.durable_step = state[
                "step"
            ]  # training goes on from there, perhaps back from a later step
        return state


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_absent(path: Path) -> bool:
    """Whether nothing stands at `path`; False if that cannot be read."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
