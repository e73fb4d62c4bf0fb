"""Moments as runs record them: local time with its offset from UTC, in ISO 8601."""

from __future__ import annotations

import math
from datetime import datetime


def timestamp() -> str:
    """The present second, for example `2026-03-01T14:30:22+01:00`."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def seconds_since_epoch(recorded: object) -> float:
    """The moment that a record names; NaN if it names none.

    Runs recorded without an offset are taken to be of this machine's time zone.
    """
    try:
        return datetime.fromisoformat(str(recorded)).timestamp()
    except (ValueError, OverflowError, OSError):
        return math.nan
