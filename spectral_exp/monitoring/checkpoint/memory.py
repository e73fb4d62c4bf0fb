"""The memory that a checkpoint may take."""

from __future__ import annotations


def available_memory() -> int | None:
    """Return how many bytes of memory are free; None if that is unknown."""
    import psutil

    try:
        return int(psutil.virtual_memory().available + psutil.swap_memory().free)
    except (OSError, RuntimeError):
        return None
