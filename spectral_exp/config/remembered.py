"""What this user has named on this machine, and a recorded run may therefore name again.

A list is a file of lines in the folder of the user's state. It counts only if the user owns it and
nobody else can write it.
"""

from __future__ import annotations

import logging
import os
import stat

from spectral_exp.core.user_state import state_folder

log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20


def recall(name: str) -> set[str]:
    """Return the lines of the list `name`; none if another user can write it."""
    try:
        with (state_folder() / name).open(encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            others = stat.S_IWGRP | stat.S_IWOTH
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & others):
                return set()
            return set(file.read(_MAX_BYTES).splitlines())
    except OSError:
        return set()


def remember(name: str, line: str) -> None:
    """Add a line to the list `name`, unless it is there."""
    if len(line.splitlines()) != 1 or line in recall(name):
        return
    try:
        file = state_folder() / name
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(
            file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        with os.fdopen(descriptor, "a", encoding="utf-8") as lines:
            lines.write(f"{line}\n")
    except OSError as error:
        # The user has to name it again to continue the run.
        log.debug("cannot add %s to %s: %s", line, name, error)
