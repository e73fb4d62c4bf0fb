"""Failed saves: their count, the newest problem, and one warning for each row."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from spectral_exp.core.errors import UserError

log = logging.getLogger(__name__)

# Torch has no class of its own for a lack of CPU memory; the last words are oneDNN's.
_LACK_OF_MEMORY = ("allocate memory", "out of memory", "could not create a primitive")


class SaveFailures:
    """Counts failed saves and logs the first of each row with its remedy.

    Args:
        folder: of the checkpoints, for messages.

    Attributes:
        count: failed saves so far.
        problem: cause and remedy of the newest failure; empty once a later save is durable.
        is_full: whether the newest save failed because the disk is full.
        lacks_memory: whether there was no memory for a copy of the state; from then on it is
            written without one.
    """

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.problem = ""
        self.is_full = False
        self.lacks_memory = False
        self._folder = folder
        self._failing: set[str] = set()

    def add(self, step: int, error: Exception, *, with_copy: bool) -> None:
        """Count a save that storage or memory refused; raise an error of any other kind."""
        refused = refusal(error)
        if refused is None:
            raise error
        self.count += 1
        self.is_full = refused.errno in {errno.ENOSPC, errno.EDQUOT}
        self.problem = self._explain(refused)
        consequence = ""
        if refused.errno == errno.ENOMEM:
            self.lacks_memory = True
            if with_copy:
                consequence = (
                    ". From now on training waits while a checkpoint is written, which needs no"
                    " copy"
                )
        self.warn_once(
            "save", f"checkpoint of step {step} not saved, training goes on", refused, consequence
        )

    def add_change(self, step: int, name: str) -> None:
        """Count the save of `step`, whose tensor `name` was changed before it was copied."""
        self.count += 1
        self.problem = f"{name} was changed before it was copied; call fence() before changing it"
        log.error(
            "checkpoint of step %d not saved: %s was changed before it was copied; call fence() "
            "before changing weights or optimizer state. From now on they are copied before "
            "save_checkpoint returns",
            step, name,
        )  # fmt: skip

    def clear(self, step: int) -> None:
        """Record that the save of `step` is durable."""
        self.problem, self.is_full = "", False
        if "save" in self._failing:
            log.warning("checkpoints are being saved again, from step %d on", step)
            self._failing.discard("save")

    def warn_once(
        self, activity: str, effect: str, error: OSError | UserError, consequence: str = ""
    ) -> None:
        """Log the first failure of a row; the next ones would only repeat it."""
        if activity not in self._failing:
            cause = self._explain(error) if isinstance(error, OSError) else str(error)
            log.warning("%s: %s%s; it is tried again", effect, cause, consequence)
        self._failing.add(activity)

    def end_row(self, activity: str) -> None:
        """Record that `activity` has succeeded; its next failure is logged again."""
        self._failing.discard(activity)

    def _explain(self, error: OSError) -> str:
        """The cause, its place and the remedy."""
        place = "" if error.errno == errno.ENOMEM else f" ({self._folder})"
        return f"{error.strerror or error}{place}; {remedy(error)}"


def refusal(error: Exception) -> OSError | None:
    """Return the OSError for what storage or machine refused.

    None if `error` is of another kind.
    """
    if isinstance(error, OSError):
        return error
    message = str(error)
    if isinstance(error, MemoryError) or any(words in message for words in _LACK_OF_MEMORY):
        return OSError(errno.ENOMEM, "not enough memory")
    if isinstance(error, RuntimeError) and "can't start new thread" in message:
        return OSError(errno.EAGAIN, "cannot start a thread")
    return None


def remedy(error: OSError) -> str:
    """Return what a user can do about storage, or memory, that refuses."""
    if error.errno == errno.ENOMEM:
        return "free memory"
    if error.errno == errno.EAGAIN:
        return "raise the limit on processes (ulimit -u)"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "raise the limit on open files (ulimit -n)"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (ulimit -f), or free space on the disk"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free space on the disk, or keep fewer checkpoints (keep_last_n)"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make the folder writable"
    return "check the disk"
