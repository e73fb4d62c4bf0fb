"""Whether one process can repeat the last bits of a run that several have trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_trained_together(record: Mapping[str, Any]) -> bool:
    """Return whether several processes have trained a run together."""
    return any(attempt.get("processes", 1) > 1 for attempt in record["attempts"])


def order_of_addition(record: Mapping[str, Any]) -> str:
    """Return why one process cannot repeat the last bits of a run; "" if it can.

    Several processes may add the gradients of micro-batches in another order.
    """
    count = record["config"]["training"].get("grad_accum_steps", 1)
    for attempt in record["attempts"]:
        if not _has_bits_of_one_process(attempt, count):
            return (
                f"{attempt['processes']} processes have added the gradients of {count} "
                "micro-batches in another order than one process does; train with "
                "distributed.exact=true and distributed.strategy=ddp for equal bits"
            )
    return ""


def _has_bits_of_one_process(attempt: Mapping[str, Any], count: int) -> bool:
    """Return whether an attempt with `count` micro-batches in a step computed as one process."""
    size, is_exact = attempt.get("processes", 1), attempt.get("exact") is True
    if size == 1:
        return True
    if attempt.get("strategy") == "fsdp":
        # Without `exact` the norms of gradients are rounded in another way, with any order.
        return is_exact and size == count
    # CPU processes add in the order of ranks. The sum of two does not depend on their order.
    is_ordered = size == 2 or set(attempt.get("devices", ())) == {"cpu"}
    return is_exact or (size == count and is_ordered)
