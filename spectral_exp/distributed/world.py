"""Which of several processes this one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """The place of this process among those that train one model together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_size: number of processes on this machine.
        node: number of this machine, from 0.
        nodes: number of machines.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process owns the run directory."""
        return self.rank == 0


SINGLE = World()
"""One process alone."""
