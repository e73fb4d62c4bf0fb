"""Keeping the memory that a training step frees, for the next step.

A step makes and drops the same tensors every time. glibc hands large ones back to the kernel at
once, and the kernel clears every page anew when it is touched again: that can cost more than the
arithmetic on them.
"""

from __future__ import annotations

import ctypes
import sys

# From <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make this process keep freed memory; return whether its C library can (glibc on Linux).

    Between steps the process holds on to the most that it has needed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Large blocks come from the heap, whose end is never given back.
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
