"""Errors of a machine that refuses storage or memory, in one line for the user."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from spectral_exp.core.foreign_text import printable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_FAILING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "ENXIO",
        "ENODEV",
        "EACCES",
        "EPERM",
        "ETIMEDOUT",
        "ENOTCONN",
        "ESTALE",
        "EREMOTEIO",
        "EHOSTDOWN",
    )
    if hasattr(errno, name)
)


def describe_refusal(error: Exception, run_dir: Path | None = None) -> str:
    """Return one line if the machine refused storage or memory; "" for any other error.

    An OSError on a file in `run_dir` always counts, because the folder may have been removed.
    """
    from spectral_exp.monitoring.checkpoint.failures import refusal

    refused = refusal(error)
    if refused is None:
        return ""
    if refused.errno == errno.ENOMEM:
        reason = printable(str(error), 200)
        return (
            f"not enough memory ({reason}); free memory, or train smaller batches, then give the "
            "same command again"
        )
    is_inside = run_dir is not None and str(refused.filename).startswith(f"{run_dir}{os.sep}")
    if refused.errno not in _FULL | _FAILING and not is_inside:
        return ""
    file = f" ({refused.filename})" if refused.filename else ""
    remedy = "free space on" if refused.errno in _FULL else "check"
    return f"{refused.strerror}{file}; {remedy} the disk, then give the same command again"
