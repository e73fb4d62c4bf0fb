"""Messages about steps of a run that are not saved, or only in one place."""

from __future__ import annotations

from spectral_exp.core.wording import format_count
from spectral_exp.monitoring import Backup, CheckpointManager
from spectral_exp.runs.layout import RunPaths


def describe_lost_steps(checkpoint: CheckpointManager, step: int) -> str:
    """Return which steps up to the last `step` are not saved, and the remedy."""
    durable = checkpoint.durable_step
    lost = f"steps {durable + 1} to {step} are" if durable + 1 < step else f"step {step} is"
    effect = f"it continues after step {durable}" if durable else "it starts anew"
    return (
        f"the last {lost} not saved: {checkpoint.problem}, then give the same command again: "
        f"{effect}"
    )


def describe_steps_at_risk(checkpoint: CheckpointManager, step: int) -> str:
    """Return how many steps up to `step` are in no durable checkpoint, and the remedy."""
    at_risk = checkpoint.steps_at_risk(step)
    return (
        f"no checkpoint has become durable for {format_count(at_risk, 'step')} "
        f"(monitoring.checkpoint.max_steps_at_risk={checkpoint.max_steps_at_risk}); "
        f"repair the storage of {checkpoint.paths.checkpoints}, then give the same command again"
    )


def describe_missing_backup(backup: Backup, paths: RunPaths, step: int) -> str:
    """Return which steps up to the last `step` the backup lacks, and the remedy."""
    stored = backup.stored_step
    newest = "nothing" if stored is None else f"step {stored}"
    return (
        f"the backup is not complete: step {step} and the results are only in {paths.root}, and "
        f"{backup.url} has {newest}; give the same command again to continue the backup"
    )
