"""The launcher raises the error of the first process."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from spectral_exp.core.errors import Interrupted, JobError, RunError, UserError
from spectral_exp.distributed.ending import receive_ending, send_ending
from spectral_exp.sweeps.job import Outcome, SweepJob


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (JobError("run: in use", "busy"), ("busy", "run: in use", 2)),
        (JobError("run: loss", "diverged"), ("diverged", "run: loss", 1)),
        (JobError("run: disk"), ("failed", "run: disk", 1)),
        (UserError("seed=x"), ("mistake", "seed=x", 2)),
        (RunError("rank 1 failed"), ("failed", "rank 1 failed", 1)),
    ],
)
def test_an_error_is_raised_again(error: Exception, expected: tuple[str, str, int]) -> None:
    store = HashStore()
    assert receive_ending(store) is None
    assert send_ending(store, error)
    found = receive_ending(store)
    assert isinstance(found, JobError)
    assert (found.ending, found.message, found.exit_code) == expected


def test_a_lost_last_save_is_reported_as_such() -> None:
    store = HashStore()
    assert send_ending(store, Interrupted(15, "the last step is not saved"))
    found = receive_ending(store)
    assert isinstance(found, Interrupted)
    assert (found.signal_number, found.exit_code) == (15, 1)

    def train(config: object) -> None:
        raise found

    job = SweepJob(train, {}, driver=("another host", 1))
    assert job._run(None, "wave") == Outcome("wave", "unsaved", "the last step is not saved")  # type: ignore[arg-type]


def test_a_defect_keeps_its_traceback() -> None:
    store = HashStore()
    assert not send_ending(store, KeyError("x"))
    assert receive_ending(store) is None
