"""Whatever changes while a state is copied: a checkpoint holds the state of its call exactly, or
there is none."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import save, staging
from tests.monitoring.checkpoint.test_background_checkpoint import assert_same


class Adversary:
    """Two networks with an optimizer each, averaged weights, and every way to change them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: Any = nn.ModuleDict({"G": nn.Linear(6, 6), "D": nn.Linear(6, 6)})
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "G": torch.optim.AdamW(self.model["G"].parameters(), fused=True),
            "D": torch.optim.SGD(self.model["D"].parameters(), lr=0.1, momentum=0.9),
        }
        self.numbers = [0.0]
        self.step_all()

    @property
    def weights(self) -> list[torch.Tensor]:
        return list(self.model.parameters())

    def extra(self) -> dict[str, Any]:
        return {"D": self.optimizers["D"].state_dict(), "numbers": self.numbers}

    def state(self) -> Any:
        held = [self.model.state_dict(), self.optimizers["G"].state_dict(), self.extra()]
        return copy.deepcopy(held)

    # Guarded: optimizers wait by themselves, and the rest was read at the call.

    def step_all(self) -> None:
        for network, optimizer in self.optimizers.items():
            for parameter in self.model[network].parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    def step_one(self) -> None:
        self.model["D"].weight.grad = torch.randn(6, 6)
        self.optimizers["D"].step()

    def change_numbers(self) -> None:
        self.numbers.append(len(self.numbers))
        self.optimizers["G"].param_groups[0]["lr"] *= 0.5
        for entry in self.optimizers["G"].state.values():
            entry["note"] = [len(self.numbers)]

    def replace_data(self) -> None:
        for weight in self.weights:
            weight.data = torch.randn_like(weight)

    def replace_and_restore_data(self) -> None:
        kept = [weight.data for weight in self.weights]
        self.replace_data()
        for weight, data in zip(self.weights, kept, strict=True):
            weight.data = data

    def swap_tensors(self) -> None:
        weight = self.model["G"].weight
        torch.utils.swap_tensors(weight, nn.Parameter(torch.randn_like(weight)))  # type: ignore[no-untyped-call]
        self.optimizers["G"].param_groups[0]["params"][0] = weight

    # Not guarded: noticed.

    @torch.no_grad()
    def add(self) -> None:
        self.model["G"].weight[0, 0] += 1

    @torch.no_grad()
    def copy_foreach(self) -> None:
        torch._foreach_copy_(self.weights, [torch.randn_like(weight) for weight in self.weights])

    def load(self) -> None:
        self.model.load_state_dict(
            {name: value + 1 for name, value in self.model.state_dict().items()}
        )

    def change_moments(self) -> None:
        next(iter(self.optimizers["G"].state.values()))["exp_avg"].zero_()

    def copy_data(self) -> None:
        for weight in self.weights:
            weight.data.copy_(torch.randn_like(weight))

    def clip_data(self) -> None:
        for weight in self.weights:
            weight.data.clamp_(-1, 1).mul_(0.9)

    def change_by_numpy(self) -> None:
        self.model["D"].weight.detach().numpy()[:] += 1

    def fill_storage(self) -> None:
        self.model["D"].weight.untyped_storage().fill_(len(self.numbers))
        self.numbers.append(0.0)


GUARDED: list[Callable[[Adversary], None]] = [
    Adversary.step_all,
    Adversary.step_one,
    Adversary.change_numbers,
    Adversary.replace_data,
    Adversary.replace_and_restore_data,
    Adversary.swap_tensors,
]
NOTICED: list[Callable[[Adversary], None]] = [
    Adversary.add,
    Adversary.copy_foreach,
    Adversary.load,
    Adversary.change_moments,
    Adversary.copy_data,
    Adversary.clip_data,
    Adversary.change_by_numpy,
    Adversary.fill_storage,
]


@pytest.fixture
def late_copies() -> Iterator[None]:
    """Let the copying begin only when it is waited for, however small the state."""
    gate = threading.Event()
    copy_piece, finish, stage = staging._copy, staging.Staged.finish, staging.Staged.__init__

    def wait_and_copy(piece: Any) -> None:
        assert threading.current_thread() is threading.main_thread() or gate.wait(30)
        copy_piece(piece)

    def open_and_finish(staged: staging.Staged, timeout_s: float | None = None) -> bool:
        gate.set()
        return finish(staged, timeout_s)

    def close_and_stage(*arguments: Any, **options: Any) -> None:
        gate.clear()
        stage(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "_SMALL_BYTES", 0)
        patch.setattr(staging, "_copy", wait_and_copy)
        patch.setattr(staging.Staged, "finish", open_and_finish)
        patch.setattr(staging.Staged, "__init__", close_and_stage)
        yield


def assert_holds(manager: CheckpointManager, step: int, expected: Any) -> None:
    found = manager.load_checkpoint(step)
    assert found is not None
    weights, moments, extra = expected
    assert_same(dict(found["model_state_dict"]), dict(weights))
    assert_same(found["optimizer_state_dict"], moments)
    assert_same({"D": found["D"], "numbers": found["numbers"]}, extra)


@pytest.mark.usefixtures("late_copies")
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*GUARDED, *NOTICED, None]), max_size=3), min_size=1, max_size=4
    )
)
def test_every_checkpoint_is_of_one_moment(
    rounds: list[list[Callable[[Adversary], None] | None]],
) -> None:
    adversary = Adversary()
    with tempfile.TemporaryDirectory() as root:
        manager = CheckpointManager(root, 1, keep_last_n=50, background=True)
        copied_at_once = False
        for step, changes in enumerate(rounds, 1):
            expected, refused, copied = adversary.state(), False, copied_at_once
            assert manager.save_checkpoint(
                step, adversary.model, adversary.optimizers["G"], [], {}, extra=adversary.extra()
            )
            for change in changes:
                if change is None:
                    manager.fence()
                else:
                    change(adversary)
                refused |= change in NOTICED and not copied
                copied |= change in (None, Adversary.step_all, Adversary.step_one)
            manager.wait()
            # What has taken the place of a tensor may be changed without harm.
            is_saved = manager.load_checkpoint(step) is not None
            assert is_saved or refused
            copied_at_once |= not is_saved
            if is_saved:
                assert_holds(manager, step, expected)
        assert manager.failures <= 1


@pytest.mark.usefixtures("late_copies")
@pytest.mark.parametrize("change", NOTICED)
def test_a_refused_save_is_an_error_and_the_next_one_is_not_refused(
    tmp_path: Any, change: Callable[[Adversary], None], caplog: pytest.LogCaptureFixture
) -> None:
    adversary = Adversary()
    manager = CheckpointManager(tmp_path, 10, background=True)
    expected: Any = None
    for step in range(9, 13):
        if manager.should_checkpoint(step):
            expected = adversary.state()
            manager.save_checkpoint(
                step, adversary.model, adversary.optimizers["G"], [], {}, extra=adversary.extra()
            )
        change(adversary)
        manager.wait()
    assert (manager.failures, manager.durable_step) == (1, 11)  # due at 10, and made up for at once
    assert_holds(manager, 11, expected)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "checkpoint of step 10 not saved" in caplog.text
    assert "call fence() before" in caplog.text


@pytest.mark.usefixtures("late_copies")
def test_a_fence_allows_every_change(tmp_path: Any) -> None:
    adversary = Adversary()
    manager = CheckpointManager(tmp_path, 1, keep_last_n=50, background=True)
    expected: dict[int, Any] = {}
    for step, change in enumerate([*GUARDED, *NOTICED], 1):
        expected[step] = adversary.state()
        manager.save_checkpoint(
            step, adversary.model, adversary.optimizers["G"], [], {}, extra=adversary.extra()
        )
        manager.fence()
        change(adversary)
        manager.wait()
    assert manager.failures == 0
    for step, state in expected.items():
        assert_holds(manager, step, state)
