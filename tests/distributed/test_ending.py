"""How several processes end: the launcher raises the error of the first one, and none of them
finalizes its interpreter, which threads of gloo may still need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from spectral_exp.core.errors import Interrupted, JobError, RunError, UserError
from spectral_exp.distributed.ending import receive_ending, send_ending
from spectral_exp.sweeps.job import Outcome, SweepJob
from tests.conftest import ROOT


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


LAST_WORDS = """
import atexit, sys
class Late:
    def __del__(self):
        print("finalized", flush=True)
late = Late()
atexit.register(print, "at exit")
print("buffered", end=" ")
"""
TRAIN = "from spectral_exp.train import main; sys.exit(main(None))"


def last_words(statement: str, **variables: str) -> tuple[int, str]:
    """Return the exit code of a process and what it prints at its end."""
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS + statement],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_one_of_several_processes_ends_without_finalizing_its_interpreter() -> None:
    statement = "from spectral_exp.distributed.world import end_process; end_process(7)"
    assert last_words(statement) == (7, "buffered at exit\n")
    # Neither command begins: one lacks MASTER_ADDR, and the other gets an environment that
    # contradicts itself.
    assert last_words(TRAIN, WORLD_SIZE="2", RANK="1") == (2, "buffered at exit\n")
    assert last_words(TRAIN, WORLD_SIZE="2", RANK="5") == (2, "buffered at exit\nfinalized\n")


def test_the_end_of_a_process_survives_closed_streams() -> None:
    statement = "from spectral_exp.distributed.world import end_process; sys.stdout.close(); "
    assert last_words(statement + "sys.stderr = None; end_process(7)") == (7, "buffered ")
