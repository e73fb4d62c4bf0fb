"""Save checkpoints whole or not at all, find the newest, and check each before use."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.steps import is_count, whole_step
from spectral_exp.core.worker import BackgroundThread
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.failures import SaveFailures
from spectral_exp.monitoring.checkpoint.folder import CheckpointFolder
from spectral_exp.monitoring.checkpoint.loader import CheckpointLoader
from spectral_exp.monitoring.checkpoint.loading import CheckpointLoading
from spectral_exp.monitoring.checkpoint.policy import SaveSchedule
from spectral_exp.monitoring.checkpoint.save import Save, SaveReport, StateCapture, saving
from spectral_exp.monitoring.checkpoint.state import HasState, LiveState, Models, Optimizers
from spectral_exp.monitoring.checkpoint.store import CheckpointStore
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.wrappers import unwrap
from spectral_exp.runs import layout

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class CheckpointManager(CheckpointLoading, Component):
    """Saves, finds and removes the checkpoints of one run, which has one writer at a time.

    By default saving is synchronous: when the call returns, the file, its sidecar with size and
    checksum and `checkpoint_latest.pt` have reached the disk. With `background` the call returns at
    once. The state is copied during the next forward and backward, a thread writes the copy, and
    `wait` returns when it is durable.

    Every optimizer of torch waits for the copy. Call `fence` before any other change of
    weights or optimizer state in place (averaged weights swapped in, `load_state_dict`, clipped
    weights). A change without it is detected by torch's counts of changes and by the first bytes of
    every weight. Then nothing is saved, an error is logged, and from then on the state is copied
    before the call returns. Changes of single elements through `.data` or numpy are not detected.

    An exception that a signal handler raises out of any method leaves the manager usable. A save
    that it interrupts either completes or leaves nothing behind.

    One save is in progress at a time. A save that falls due meanwhile is logged as skipped, and the
    state at the moment when the writer is free is saved instead. If the disk fails, training goes
    on: older checkpoints stay, the failure is logged once, and retries follow after growing pauses.

    Args:
        experiment_dir: root of the run.
        save_interval: steps between checkpoints, >= 1; "auto" saves as often as `max_overhead`
            allows.
        keep_last_n: checkpoints to keep, >= 1.
        keep_best: keep the best checkpoint too, with `checkpoint_best.pt` pointing to it.
        keep_every_n_steps: save and keep the checkpoints of steps divisible by it too; they are
            never skipped.
        background: write in a thread while training goes on; takes memory for one more copy of the
            state.
        format: "full", one file, or "sharded", one for each process of a divided model.
        compression: "zstd" writes `.pt.zst` files.
        max_overhead: share of the time that saves may cost with save_interval="auto", like "0.5%".
        max_steps_at_risk: steps without a durable checkpoint that `exceeds_risk` allows; None for
            no limit.
        exit_deadline_s: seconds that `close` waits for the save in progress.
        before_commit: called by the writer's thread when the bytes of a checkpoint are on the
            storage, before the file gets its name. Data that must be durable no later than the
            checkpoint is made durable here. An OSError fails the save.
        on_durable: called by the writer's thread with the step of each durable checkpoint.
        enabled: if false nothing is due, written or renamed; loading works and skips broken files.
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
        format: Literal["full", "sharded"] = "full",  # noqa: A002 - as in the configuration
        compression: Literal["zstd"] | None = None,
        max_overhead: float | str = "0.5%",
        max_steps_at_risk: int | None = None,
        exit_deadline_s: float = 600.0,
        before_commit: Callable[[], None] | None = None,
        on_durable: Callable[[int], None] | None = None,
        enabled: bool = True,
    ) -> None:
        require(is_count(keep_last_n), "keep_last_n", keep_last_n, "a whole number >= 1")
        counts = {"keep_every_n_steps": keep_every_n_steps, "max_steps_at_risk": max_steps_at_risk}
        for name, value in counts.items():
            require(value is None or is_count(value), name, value, "a whole number >= 1 or null")
        require(
            compression in checkpoint_file.COMPRESSIONS, "compression", compression, "zstd or null"
        )
        require(format in ("full", "sharded"), "format", format, "full or sharded")
        if format == "sharded":
            require(compression is None, "compression", compression, "null with format=sharded")
        require(exit_deadline_s > 0, "exit_deadline_s", exit_deadline_s, "a number of seconds > 0")
        if compression == "zstd":
            checkpoint_file.zstd()
        self.paths = layout.RunPaths(experiment_dir)
        self.save_interval, self.max_steps_at_risk = save_interval, max_steps_at_risk
        self.keep_last_n, self.keep_best = keep_last_n, keep_best
        self.keep_every_n_steps = keep_every_n_steps
        self.background, self.exit_deadline_s = background, exit_deadline_s
        self.format, self.compression = format, compression
        self.before_commit = before_commit
        self.before_write: Callable[[], None] | None = None
        """Called by the writer's thread before anything is written; an OSError refuses the save."""
        self.on_durable, self.enabled = on_durable, enabled
        self.reports: list[SaveReport] = []
        """The durable saves, in order."""
        self.durable_step = 0
        self._schedule = SaveSchedule(save_interval, max_overhead, keep_every_n_steps)
        self._capture = StateCapture()
        self._writer = BackgroundThread("checkpoint writer")
        self._failures = SaveFailures(self.paths.checkpoints)
        self._folder = CheckpointFolder(self.paths, keep_best=keep_best, enabled=enabled)
        self._loader = CheckpointLoader(self.paths, self._folder)
        self._store = CheckpointStore(
            self.paths,
            self._folder,
            self._failures,
            compression=compression,
            keep_last_n=keep_last_n,
            keep_every_n_steps=keep_every_n_steps,
            max_threads=1 if background else 2,  # beside training one reader has to do
        )

    @property
    def failures(self) -> int:
        """Saves that storage or memory refused so far."""
        return self._failures.count

    @property
    def problem(self) -> str:
        """Why the newest state is not durable, and the remedy; empty if it is durable."""
        return self._failures.problem

    @property
    def skipped(self) -> int:
        """Saves that fell due while another one was in progress."""
        return self._schedule.skipped

    @property
    def busy(self) -> bool:
        """Whether a save is in progress."""
        return self._writer.busy

    # --- when ------------------------------------------------------------------------------------

    def should_checkpoint(self, step: int) -> bool:
        """Whether to save after `step`, counted from 1.

        A save is due, or was due while the writer was busy.
        """
        step = whole_step(step)
        return self.enabled and self._schedule.should_save(step, is_busy=self.busy)

    def postpone(self, step: int) -> None:
        """Leave out the checkpoint of `step`, which is due, and save after the next step."""
        if self.enabled:
            self._schedule.postpone(step)

    def steps_at_risk(self, step: int) -> int:
        """Return how many of the `step` steps done no durable checkpoint holds."""
        return whole_step(step) - self.durable_step

    def exceeds_risk(self, step: int) -> bool:
        """Whether more steps are at risk than `max_steps_at_risk` allows."""
        allowed = self.max_steps_at_risk
        return self.enabled and allowed is not None and self.steps_at_risk(step) > allowed

    # --- saving ----------------------------------------------------------------------------------

    def prepare(self, model: Models, optimizer: Optimizers) -> None:
        """Allocate the memory for background saves, so that the first one need not wait for it.

        Call it when the optimizer has its state, after the first step. Without `background` it does
        nothing.
        """
        if not (self.enabled and self.background) or self.busy:
            return
        from spectral_exp.monitoring.checkpoint.staging import storages_of_state

        live = LiveState(0, model, optimizer, (), {})
        sources = [*map(unwrap, live.models.values()), *live.optimizers.values()]
        storages = storages_of_state([source.state_dict() for source in sources])
        self._writer.start(lambda: self._capture.reserve(storages))

    def save_checkpoint(
        self,
        step: int,
        model: Models,
        optimizer: Optimizers,
        loss_history: Sequence[float] | torch.Tensor,
        config: Mapping[str, Any],
        *,
        states: Mapping[str, HasState] | None = None,
        extra: Mapping[str, Any] | None = None,
        is_best: bool = False,
    ) -> str:
        """Save the state after `step`, then remove checkpoints beyond retention.

        Args:
            step: step just finished.
            model: its state is saved without the wrappers of data parallelism and compilation.
                Several are given by name: `{"generator": g, "critic": c}`.
            optimizer: saved by its `state_dict()`. Several are given by name.
            loss_history: one loss per step; the load methods return it as a list.
            config: for readers, with secrets redacted; objects other than numbers and strings are
                kept as text.
            states: everything else with a `state_dict()` by name: schedulers, a `GradScaler`,
                averaged weights. Their states are under the entry `states`.
            extra: further entries beside the standard ones, e.g. random number states; texts in
                them are kept without secrets.
            is_best: mark it as the best so far. Such a save is not skipped: it waits for the one in
                progress, as does that of a step divisible by `keep_every_n_steps`.

        Returns:
            The path of the file, in background mode before it exists; "" if nothing is saved:
            `enabled` is false, the disk failed, or another save is in progress.

        Raises:
            SettingError: `extra` uses a standard key, or a part has no name or no state.
            TypeError: the state holds objects that cannot be loaded safely.
        """
        live = LiveState(
            step, model, optimizer, loss_history, config, extra or {}, is_best, states or {}
        )
        step = live.step
        if not self.enabled:
            return ""
        started = time.perf_counter()
        if self.busy and not (is_best or self._schedule.is_kept_for_good(step)):
            self._schedule.skip(step)
            return ""
        self.wait()
        with_copy = self.background and not self._failures.lacks_memory
        save = self._take(live, started, with_copy=with_copy)
        if save is None:
            return ""
        self._begin(save)
        self._schedule.begin()
        if with_copy:
            save.blocked_s += time.perf_counter() - started
        elif not self._wait_for(save):
            return ""
        return str(self._store.path(step))

    def save_last(self, live: LiveState) -> bool:
        """Save the state at the end of training, unless it is durable; return whether it is then.

        It waits for the save in progress, at most `exit_deadline_s`, then saves without a copy of
        the state. If the disk is full, older checkpoints make room for it: the oldest first, the
        best one last, the newest intact one never. `problem` is the reason if the state could not
        be saved. Exceptions are those of `save_checkpoint`.
        """
        if not self.enabled:
            return False
        if not self._close():
            deadline = f"exit_deadline_s={self.exit_deadline_s:g}"
            self._failures.problem = f"the storage did not finish within {deadline}; raise it"
            return False
        while self.steps_at_risk(live.step) > 0:
            save = self._take(live, time.perf_counter(), with_copy=False)
            if save is None:
                return False
            self._begin(save)
            if not self._wait_for(save) and not (self._failures.is_full and self._make_room()):
                return False
        return True

    def record_refusal(self, step: int, error: OSError) -> None:
        """Record that the storage has refused shards of `step`, which the caller has written."""
        if self.enabled:
            self._fail(step, error, with_copy=False)

    def fence(self) -> None:
        """Return once the state of the save in progress has been copied, so that it may change."""
        self._finish_copy(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until no save is in progress, at most `timeout_s`; return whether that is so.

        Raises:
            Exception: an error of the writer that is no failure of the storage.
        """
        started = time.perf_counter()
        self._finish_copy(timeout_s)
        if timeout_s is not None:
            timeout_s = max(0.0, timeout_s - (time.perf_counter() - started))
        return self._writer.wait(timeout_s)

    def close(self) -> bool:
        """Wait for the save in progress, at most `exit_deadline_s`; return whether all is durable.

        `problem` is the reason if the newest state is not durable. Saving works afterwards.
        """
        return self._close() and not self.problem

    def _close(self) -> bool:
        if self.wait(self.exit_deadline_s):
            return True
        saving.discard(self)  # so that the end of the process does not wait once more
        message = "the save in progress was not durable within exit_deadline_s=%g; step %d is"
        log.error(message, self.exit_deadline_s, self.durable_step)
        return False

    def metrics(self) -> dict[str, float]:
        """Return the cost of the newest durable save under metric names; empty before the first."""
        if not self.reports:
            return {}
        return self.reports[-1].metrics(with_compression=self.compression is not None)

    def mark_best(self, step: int) -> None:
        """Let `checkpoint_best.pt` point to the checkpoint of `step`.

        Raises:
            UserError: there is no such checkpoint.
        """
        step = whole_step(step)
        if not (self.enabled and self.keep_best):
            return
        self.wait()
        path = self.paths.checkpoint_file(step)
        if not path.is_file():
            raise UserError(f"cannot mark step {step} as best: {path} does not exist")
        self._writer.run(lambda: self._store.mark_best(step))

    def removable_checkpoints(self) -> list[Path]:
        """Return the files that `cleanup_old_checkpoints` would remove, without their sidecars.

        It removes none of them if one of the newest is broken.
        """
        return self._store.excess()

    def cleanup_old_checkpoints(self) -> None:
        """Remove checkpoints beyond retention, and temporary files of killed writers.

        Nothing is removed before the `keep_last_n` newest have been read and found intact.
        """
        if self.enabled:
            self._writer.run(self._store.prune)

    def _make_room(self) -> bool:
        """Remove a checkpoint for the sake of the last one; return whether there was one."""
        removed: list[bool] = []
        self._writer.run(lambda: removed.append(self._store.make_room()))
        return any(removed)

    def _take(self, live: LiveState, started: float, *, with_copy: bool) -> Save | None:
        """Return a save of the state of this moment, or None if there is no memory for it."""
        save = Save(live.step, live.is_best, started, self._write)
        try:
            self._capture.take(live, save, with_copy=with_copy)
        except (OSError, MemoryError, RuntimeError) as error:
            self._fail(live.step, error, with_copy=with_copy)
            return None
        return save

    def _begin(self, save: Save) -> None:
        saving.add(self)
        self._writer.start(save)

    def _wait_for(self, save: Save) -> bool:
        """Return once `save`, which has no copy, has ended; whether it is durable."""
        try:
            self._writer.wait()
        finally:
            # After an exception from a signal handler: the caller may change the state, which is
            # being written.
            if self._writer.work is save:
                self._writer.wait(self.exit_deadline_s)
        return save.is_durable

    def _finish_copy(self, timeout_s: float | None) -> None:
        save = self._writer.work
        if isinstance(save, Save):
            save.finish_copy(timeout_s)

    def _write(self, save: Save) -> None:
        """Make a save durable, and remove what it replaces. Runs in the writer's thread."""
        from spectral_exp.monitoring.checkpoint.staging import StateChangedError

        cpu_s = time.thread_time()
        try:
            written = self._store.write(save, self.before_write, self.before_commit)
        except StateChangedError as error:
            self._failures.add_change(save.step, save.state.name_of(error.tensor))
            if save.staged is not None:
                # The next save follows soon, and is copied before the call returns.
                self._capture.copies_at_once = True
                self._schedule.postpone(save.step)
            return
        except (OSError, MemoryError, RuntimeError) as error:
            self._fail(save.step, error, with_copy=save.staged is not None)
            return
        finally:
            saving.discard(self)
        report = save.complete(size_bytes=written.size_bytes, state_bytes=written.state_bytes)
        self.durable_step = save.step
        self.reports.append(report)
        self._schedule.record_save(report.blocked_s + time.thread_time() - cpu_s, report.durable_s)
        self._failures.clear(save.step)
        self._store.prune()
        if self.on_durable is not None:
            self.on_durable(save.step)

    def _fail(self, step: int, error: Exception, *, with_copy: bool) -> None:
        """Count a save that storage or memory refused; raise an error of any other kind."""
        self._failures.add(step, error, with_copy=with_copy)
        self._schedule.record_failure()
        if self._failures.lacks_memory:
            self._capture.release_memory()
