"""The checkpoint folder of a run: the order of its files, the latest, the best, and retention.

Two facts in the sidecars make the folder independent of links and times of modification, which a
copy loses: the number of each save (`serial`) and the best step so far (`best_step`).
`checkpoint_latest.pt` and `checkpoint_best.pt` are links, or text files with a name if the file
system refuses links. A copy may have turned them into whole checkpoints, which are recognized by
size and checksum.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectral_exp.core import files, json_files
from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.monitoring.checkpoint import shards
from spectral_exp.monitoring.checkpoint.policy import removable
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, FileIdentity
from spectral_exp.runs import layout
from spectral_exp.runs.lock import is_running_elsewhere

log = logging.getLogger(__name__)

_POINTER_BYTES = 1024


@dataclass(frozen=True)
class Lineage:
    """The facts that a save adds to the history of its folder.

    Attributes:
        serial: number of the save, counted over all attempts at the run.
        best_step: the best step so far; None if none is known.
    """

    serial: int
    best_step: int | None


class CheckpointFolder:
    """Finds, links, prunes and moves away the checkpoints of one run.

    Args:
        paths: of the run.
        keep_best: whether there is a best checkpoint to link and to keep.
        enabled: when false, nothing is ever changed.
    """

    def __init__(self, paths: layout.RunPaths, *, keep_best: bool, enabled: bool) -> None:
        self._paths = paths
        self._keep_best = keep_best
        self._enabled = enabled
        self._lineage: Lineage | None = None
        self._sidecars: dict[Path, tuple[FileIdentity, dict[str, Any]]] = {}
        self._copies: dict[Path, tuple[FileIdentity, int | None]] = {}
        self._verified: dict[Path, FileIdentity] = {}

    # --- order ------------------------------------------------------------------------------------

    def newest_first(self) -> list[int]:
        """Return the steps with a checkpoint, the most recently saved first.

        The first is that of `checkpoint_latest.pt`, or its successor if the writer was killed
        before the link moved. A run that went back to an earlier step has an abandoned branch,
        which comes last.

        Raises:
            OSError: the folder or a link in it cannot be read.
        """
        linked = self.linked_step(
            self._paths.latest_link
        )  # first: what it names is in the list then
        steps = self._steps()[::-1]
        serials = {
            step: serial for step in steps if (serial := self._fact(step, "serial")) is not None
        }
        if len(serials) == len(steps):
            steps.sort(key=lambda step: (serials[step], step), reverse=True)
        latest = self._latest(linked, steps, serials)
        behind = steps[steps.index(latest) :] if latest in steps else steps
        branch: list[int] = []
        for step in behind:  # going back in time, the steps of one branch fall
            if not branch or step < branch[-1]:
                branch.append(step)
        return branch + [step for step in steps if step not in branch]

    def best_step(self) -> int | None:
        """Return the best step by the newest sidecar, else by its link, or None."""
        if not self._keep_best:
            return None
        if self._lineage is not None and self._exists(self._lineage.best_step):
            return self._lineage.best_step
        for step in self.newest_first():
            if self._exists(recorded := self._fact(step, "best_step")):
                return recorded
        return self.linked_step(self._paths.best_link)

    def best_file(self) -> Path | None:
        """Return the checkpoint of `best_step`, or a whole copy of it in place of the link."""
        step = self.best_step()
        if step is not None:
            return self._paths.checkpoint_file(step)
        return self._lone_copy(self._paths.best_link) if self._keep_best else None

    def latest_file(self) -> Path | None:
        """Return a whole checkpoint in place of the link, or, usually, None."""
        return self._lone_copy(self._paths.latest_link)

    def linked_step(self, link: Path) -> int | None:
        """The step of the existing checkpoint that `link` stands for, or None.

        Raises:
            OSError: the link exists and cannot be read.
        """
        try:
            facts = link.lstat()
            if link.is_symlink():
                name = str(link.readlink())
            elif facts.st_size <= _POINTER_BYTES:
                name = link.read_bytes().partition(b"\n")[0].decode(errors="replace")
            else:
                return self._step_of_copy(link)
        except FileNotFoundError:
            return None
        step = self._paths.checkpoint_step(Path(name))
        return step if step is not None and self._paths.checkpoint_file(step).is_file() else None

    def _exists(self, step: int | None) -> bool:
        return step is not None and self._paths.checkpoint_file(step).is_file()

    def _steps(self) -> list[int]:
        try:
            return self._paths.checkpoint_steps()
        except UserError as error:
            if isinstance(
                error.__cause__, OSError
            ):  # savers and loaders answer it in different ways
                raise error.__cause__ from error
            raise

    def _latest(
        self, linked: int | None, steps: Sequence[int], serials: dict[int, int]
    ) -> int | None:
        """The step of the latest checkpoint, given the one that its link names."""
        if linked is None or linked not in serials:
            return linked
        since = _modification_time_ns(self._paths.latest_link)
        for step in steps:
            follows = serials.get(step) == serials[linked] + 1
            if follows and _modification_time_ns(self._paths.checkpoint_file(step)) > since:
                return step
        return linked

    def _fact(self, step: int, name: str) -> int | None:
        """A number in the sidecar of a step, or None."""
        path = self._paths.checkpoint_file(step)
        file = checkpoint_file.sidecar_file(path)
        try:
            identity = checkpoint_reader.identity_of(file)
            known = self._sidecars.get(file)
            if known is None or known[0] != identity:
                known = self._sidecars[file] = identity, checkpoint_file.load_sidecar(path) or {}
        except FileNotFoundError:
            return None
        value: int | None = known[1].get(name)
        return value

    def _step_of_copy(self, link: Path) -> int | None:
        """Return the step whose checkpoint equals the file in place of `link`."""
        identity = checkpoint_reader.identity_of(link)
        known = self._copies.get(link)
        if known is None or known[0] != identity:
            known = self._copies[link] = identity, self._find_original(link)
        return (
            known[1]
            if known[1] is not None and self._paths.checkpoint_file(known[1]).is_file()
            else None
        )

    def _find_original(self, link: Path) -> int | None:
        checksum = None
        for step in self._steps():
            path = self._paths.checkpoint_file(step)
            if _size(path) != _size(link):
                continue
            checksum = checksum or f"{file_crc32(link, 1):08x}"
            if self._checksum(path) == checksum:
                return step
        return None

    def _checksum(self, path: Path) -> str | None:
        """The checksum of a checkpoint by its sidecar, else of its bytes; None if it has gone."""
        try:
            sidecar = checkpoint_file.load_sidecar(path)
            return str(sidecar["crc32"]) if sidecar else f"{file_crc32(path, 1):08x}"
        except FileNotFoundError:
            return None

    def _lone_copy(self, link: Path) -> Path | None:
        return link if self._is_copy(link) and self.linked_step(link) is None else None

    def _is_copy(self, link: Path) -> bool:
        """Whether a file too large to name another one stands in the place of a link."""
        return not link.is_symlink() and link.is_file() and _size(link) > _POINTER_BYTES

    # --- changes ----------------------------------------------------------------------------------

    def next_lineage(self, step: int, is_best: bool) -> Lineage:
        """Return the entries of the sidecar of the next save, of `step`.

        An older sidecar that fails is left out.
        """
        if self._lineage is None:
            self._lineage = Lineage(max(self._serials(), default=0), None)
        if is_best and self._keep_best:
            return Lineage(self._lineage.serial + 1, step)
        try:
            best = self.best_step()
            if best == step:  # overwritten, by a save that is not the best
                best = self._best_beside(step)
        except OSError:
            best = self._lineage.best_step
        return Lineage(self._lineage.serial + 1, best)

    def _best_beside(self, step: int) -> int | None:
        """Return the step last recorded as the best one beside `step`, if it has a checkpoint."""
        recorded = (self._fact(known, "best_step") for known in self.newest_first())
        others = (best for best in recorded if best is not None and best != step)
        return next((best for best in others if self._paths.checkpoint_file(best).is_file()), None)

    def _serials(self) -> Iterator[int]:
        for step in self._steps():
            with contextlib.suppress(OSError):
                if (serial := self._fact(step, "serial")) is not None:
                    yield serial

    def record(self, path: Path, lineage: Lineage) -> None:
        """Let the links name the new checkpoint `path`.

        Raises:
            OSError: the storage refuses it.
        """
        self._lineage = lineage
        for other in self._forms(path):
            if other != path:  # the same step saved with another compression
                _remove(other)
        files.replace_symlink(self._paths.latest_link, path)
        if lineage.best_step is not None:
            self._link_best(self._paths.checkpoint_step(path))

    def mark_best(self, step: int) -> None:
        """Record `step` as the best one, in the newest sidecar, and link it. Raises OSError."""
        newest = self.newest_first()[0]
        if self._lineage is not None:
            self._lineage = Lineage(self._lineage.serial, step)
        path = self._paths.checkpoint_file(newest)
        sidecar = checkpoint_file.load_sidecar(path)
        if sidecar is not None and sidecar.get("best_step") != step:
            json_files.write_json_atomic(
                checkpoint_file.sidecar_file(path), sidecar | {"best_step": step}
            )
        self._link_best(step)

    def excess(self, keep_last_n: int, keep_every_n_steps: int | None) -> list[int]:
        """The steps whose checkpoints are beyond retention."""
        kept = {self.linked_step(self._paths.latest_link), self.best_step()}
        return removable(
            self.newest_first(),
            keep_last_n=keep_last_n,
            keep_every_n_steps=keep_every_n_steps,
            pointed=kept,
        )

    def prune(self, keep_last_n: int, keep_every_n_steps: int | None, max_threads: int) -> None:
        """Remove the checkpoints beyond retention, if the `keep_last_n` newest are intact.

        Raises:
            OSError: the storage refuses it.
            UserError: one of the newest cannot be read.
        """
        files.remove_temporary_files(self._paths.checkpoints)
        for unused in shards.unused_folders(self._paths):
            shutil.rmtree(unused)
        excess = self.excess(keep_last_n, keep_every_n_steps)
        newest = self.newest_first()[:keep_last_n] if excess else []
        if [step for step in newest if not self._is_sound(step, max_threads)]:
            return  # the older ones take the place of a broken one
        for step in excess:
            self.remove(step)

    def remove_least(self, keep_every_n_steps: int | None, max_threads: int) -> int | None:
        """Remove the least useful checkpoint to make room, and return its step, or None.

        The oldest goes first, then those kept by `keep_every_n_steps`, then the best; never the
        newest intact one.

        Raises:
            OSError: the storage refuses it.
            UserError: one of them cannot be read.
        """
        newest_first = self.newest_first()
        intact = next((step for step in newest_first if self._is_sound(step, max_threads)), None)
        best, every = self.best_step(), keep_every_n_steps
        others = [step for step in reversed(newest_first) if step != intact]
        others.sort(
            key=lambda step: 2 if step == best else int(every is not None and step % every == 0)
        )
        if intact is None or not others:
            return None
        self.remove(others[0])
        return others[0]

    def remove(self, step: int) -> None:
        """Remove the checkpoint of `step`."""
        for path in self._forms(self._paths.checkpoint_file(step)):
            _remove(path)
            self._verified.pop(path, None)
        shards.remove_folders(self._paths, step)

    def move_away(self, path: Path, error: BrokenCheckpointError) -> None:
        """Rename a broken checkpoint to `.corrupt`, so that it is kept but not loaded again.

        It keeps its name if this object only reads, or if another process owns the run.
        """
        reason = str(error).partition("\n")[0] or type(error).__name__
        if not self._enabled or is_running_elsewhere(self._paths.root):
            log.warning("checkpoint %s is broken (%s)", path, reason)
            return
        aside = path.with_name(path.name + layout.CORRUPT_SUFFIX)
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}{layout.CORRUPT_SUFFIX}{number}")
        try:
            path.rename(aside)
            sidecar = checkpoint_file.sidecar_file(path)
            if sidecar.exists():
                sidecar.rename(checkpoint_file.sidecar_file(aside))
        except OSError as refusal:
            log.warning(
                "checkpoint %s is broken (%s) and stays there: %s", path, reason, refusal.strerror
            )
        else:
            log.warning("checkpoint %s is broken (%s); moved to %s", path, reason, aside.name)

    def has_broken(self) -> bool:
        """Whether the folder holds `.corrupt` checkpoints."""
        return any(self._paths.checkpoints.glob(f"checkpoint_*{layout.CORRUPT_SUFFIX}*"))

    def _link_best(self, new: int | None) -> None:
        """Let `checkpoint_best.pt` name the best step; `new` is the step just saved."""
        step = self.best_step()
        link = self._paths.best_link
        if step is None or (step != new and self._lone_copy(link) is not None):
            return
        if self._is_copy(link) or self.linked_step(link) != step:
            files.replace_symlink(link, self._paths.checkpoint_file(step))

    def _is_sound(self, step: int, max_threads: int) -> bool:
        """Whether the checkpoint of `step` is intact.

        Each file is read once, a broken one renamed.
        """
        path = self._paths.checkpoint_file(step)
        try:
            identity = checkpoint_reader.identity_of(path)
            if self._verified.get(path) != identity:
                checkpoint_reader.verify(path, max_threads)
                self._verified[path] = identity
        except BrokenCheckpointError as error:
            self.move_away(path, error)
            return False
        return True

    def _forms(self, path: Path) -> Collection[Path]:
        """The two names that the checkpoint of one step may have."""
        plain = path.with_name(path.name.removesuffix(layout.COMPRESSED_SUFFIX))
        return plain, plain.with_name(plain.name + layout.COMPRESSED_SUFFIX)


def _remove(path: Path) -> None:
    # The sidecar last: a checkpoint without one is unverified, a sidecar alone is nothing.
    path.unlink(missing_ok=True)
    checkpoint_file.sidecar_file(path).unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes of a file; 0 for one that has gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modification_time_ns(path: Path) -> int:
    """Return the modification time in ns, of a link itself; 0 if the file has gone."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0
