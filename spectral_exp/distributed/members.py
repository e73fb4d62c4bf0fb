"""Exchange of a few numbers among all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


class GroupMembers:
    """This process among those of the default group, which exchanges numbers on the CPU.

    Attributes:
        rank: of this process.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return the numbers that each process has passed, in the order of ranks."""
        own = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(found, own)
        return [values.tolist() for values in found]
