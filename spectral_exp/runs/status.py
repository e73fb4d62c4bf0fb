"""The ends of a run, as `results.json` and checkpoints record them."""

from __future__ import annotations

from typing import Literal

Status = Literal[
    "completed", "stopped_early", "pruned", "interrupted", "not_saved", "failed", "diverged"
]
"""The possible ends of a run."""

FINISHED: tuple[Status, ...] = ("completed", "stopped_early")
"""The run was trained to its end; others do not count in comparisons."""

DONE: tuple[Status, ...] = (*FINISHED, "pruned")
"""The run needs no further training."""

BROKEN: tuple[Status, ...] = ("failed", "diverged")
"""An error has ended the run."""
