"""How a run of several processes ended: sent by process 0, and raised again by the launcher."""

from __future__ import annotations

import json

from torch.distributed import Store  # type: ignore[attr-defined]

from spectral_exp.core.errors import Interrupted, JobError, RunError, UserError

_KEY = "ending"


def send_ending(store: Store, error: BaseException) -> bool:
    """Send the error that ends process 0; return whether the launcher will raise it.

    False for a defect, which needs a traceback, and if the launcher has ended.
    """
    if isinstance(error, Interrupted):
        fields = {"signal": error.signal_number, "message": error.problem}
    elif isinstance(error, JobError):
        fields = {"ending": error.ending, "message": error.message}
    elif isinstance(error, UserError):
        fields = {"ending": "mistake", "message": str(error)}
    elif isinstance(error, RunError):
        fields = {"ending": "failed", "message": str(error)}
    else:
        return False
    try:
        store.set(_KEY, json.dumps(fields))
    except RuntimeError:
        return False
    return True


def receive_ending(store: Store) -> Interrupted | JobError | None:
    """Return the error that process 0 has sent, or None."""
    if not store.check([_KEY]):
        return None
    fields = json.loads(store.get(_KEY))
    if "signal" in fields:
        return Interrupted(fields["signal"], fields["message"])
    return JobError(fields["message"], fields["ending"])
