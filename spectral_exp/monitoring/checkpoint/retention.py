"""Which checkpoints to keep."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def removable(
    newest_first: Sequence[int], *, keep_last_n: int, keep_every_n_steps: int | None, pointed: Collection[int | None]
) -> list[int]:
    """The steps whose checkpoints may go, given that all the others stay.

    Args:
        newest_first: steps with a checkpoint, the most recently made first.
        keep_last_n: how many of the newest to keep, >= 1.
        keep_every_n_steps: keep those of steps divisible by it too.
        pointed: steps which are kept for another reason, the best and the latest.
    """
    return [
        step
        for step in newest_first[keep_last_n:]
        if step not in pointed and not (keep_every_n_steps and step % keep_every_n_steps == 0)
    ]
