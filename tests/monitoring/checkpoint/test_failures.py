"""Messages for failed saves: cause and remedy, to which a message can add an instruction."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.failures import SaveFailures
from spectral_exp.monitoring.checkpoint.state import LiveState


def test_a_lack_of_memory_names_no_folder_and_a_remedy(caplog: pytest.LogCaptureFixture) -> None:
    failures = SaveFailures(Path("run/checkpoints"))
    failures.add(3, MemoryError(), with_copy=False)
    assert failures.problem == "not enough memory; free memory"
    assert failures.lacks_memory
    assert caplog.messages == [
        "checkpoint of step 3 not saved, training goes on: not enough memory; free memory; it is"
        " tried again"
    ]


def test_without_memory_for_a_copy_the_consequence_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = SaveFailures(Path("run/checkpoints"))
    failures.add(3, RuntimeError("DefaultCPUAllocator: can't allocate memory"), with_copy=True)
    failures.add(4, MemoryError(), with_copy=True)
    assert (failures.count, failures.problem) == (2, "not enough memory; free memory")
    (message,) = caplog.messages
    assert "From now on training waits while a checkpoint is written" in message


def test_other_failures_name_the_folder_and_other_errors_are_raised() -> None:
    failures = SaveFailures(Path("run/checkpoints"))
    failures.add(1, OSError(errno.EDQUOT, "Disk quota exceeded"), with_copy=False)
    assert failures.is_full
    assert failures.problem.startswith("Disk quota exceeded (run/checkpoints); free space")
    with pytest.raises(RuntimeError, match="a defect"):
        failures.add(2, RuntimeError("a defect"), with_copy=False)
    assert failures.count == 1
    failures.clear(3)
    assert (failures.problem, failures.is_full) == ("", False)


def test_a_last_save_without_memory_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    class Hungry(nn.Linear):
        """A model whose state takes more memory than there is."""

        def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {"weight": torch.empty(1 << 60, dtype=torch.uint8)}

    manager = CheckpointManager(tmp_path)
    model = Hungry(2, 2)
    assert not manager.save_last(LiveState(5, model, torch.optim.SGD(model.parameters()), [], {}))
    assert manager.problem == "not enough memory; free memory"
    assert not list(tmp_path.rglob("*.pt*"))
