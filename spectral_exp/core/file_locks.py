"""Locks on open files, which the operating system releases when the file is closed."""

from __future__ import annotations

try:
    import fcntl as fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def try_lock(descriptor: int, *, alone: bool = True) -> bool:
    """Lock an open file without waiting, `alone` or shared; return whether nobody prevents it.

    A file system without locks prevents nothing.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
