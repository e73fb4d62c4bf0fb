"""What process 0 needs, and what all save, of a model that is divided among processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spectral_exp.core.clock import Clock
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.shards import SHARDS_ENTRY, write_shards
from spectral_exp.monitoring.checkpoint.state import LiveState
from spectral_exp.runs.layout import RunPaths


class DividedState:
    """The state of a model and its optimizer, of which each process may hold a part only.

    For a whole model nothing is to be done. Otherwise all processes call each method together.

    Args:
        ranks: the processes.
        checkpoint: of this process.
        clock: records the time.
    """

    def __init__(self, ranks: Ranks, checkpoint: CheckpointManager, clock: Clock) -> None:
        self._ranks, self._checkpoint, self._clock = ranks, checkpoint, clock

    @property
    def saves_shards(self) -> bool:
        """Whether every process writes what it holds."""
        return self._ranks.is_sharded and self._checkpoint.format == "sharded"

    def collect(self, *, moments: bool = False, gradients: bool = False) -> None:
        """Bring the whole copies of process 0 up to date; see `Ranks.collect`."""
        if not self._ranks.is_sharded:
            return
        self._checkpoint.fence()
        with self._clock.measure("collection"):
            self._ranks.collect(moments=moments, gradients=gradients)

    def is_at_risk(self, step: int) -> bool:
        """Return whether shards of the last `step` are still to be saved."""
        if not self.saves_shards:
            return False
        is_missing = self._checkpoint.enabled and self._checkpoint.steps_at_risk(step) > 0
        return self._ranks.decide(is_missing)[0]

    def save_shards(self, live: LiveState, root: Path) -> None:
        """Save what each process holds.

        Args:
            live: the state after a step; model and optimizer are replaced by those that are
                divided.
            root: the run directory.
        """
        # What it removes must not be what is being written.
        self._checkpoint.wait()
        split = self._ranks.split()
        assert split is not None
        try:
            index = write_shards(RunPaths(root), live.step, split.rows, split.members)
        except OSError as error:
            self._checkpoint.record_refusal(live.step, error)
            return
        extra = {**live.extra, SHARDS_ENTRY: index}
        divided = replace(live, model=split.model, optimizer=split.optimizer, extra=extra)
        self._checkpoint.save_checkpoint(**vars(divided))
