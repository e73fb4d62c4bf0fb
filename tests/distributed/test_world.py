"""Where a process stands among others, and what is refused before any of them starts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.config.build import check
from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.device import resolve_device
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.distributed.settings import DistributedSettings, refuse_indivisible
from spectral_exp.distributed.world import (
    SINGLE,
    Address,
    World,
    address_from_environment,
    world_from_environment,
)
from spectral_exp.training.evaluation import Evaluation, evaluate
from tests.conftest import NO_PLOTS, TINY, compose

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29600",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "3",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "3", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_STEP_NODELIST": "no[001-002,7]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3",
}  # fmt: skip


def test_worlds_of_torchrun_and_srun() -> None:
    assert world_from_environment(TORCHRUN) == World(5, 8, 1, 4, 1, 2)
    assert address_from_environment(TORCHRUN) == Address("host", 29600, True, 3)
    assert world_from_environment(SRUN) == World(4, 5, 0, 1, 2, 3)
    assert address_from_environment(SRUN) == Address("10.0.0.1", 20000 + 31 * 12 + 3, False)
    assert (
        address_from_environment({**SRUN, "SLURM_STEP_NODELIST": "localhost"}).host == "localhost"
    )


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script, not a task of srun
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_one_process_is_alone(variables: dict[str, str]) -> None:
    assert world_from_environment(variables) == SINGLE
    assert SINGLE.is_main


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK= must be a number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "rank 2 of 2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, "local rank 1 of 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "0"}, "local rank 0 of 0"),
    ],
)
def test_a_contradictory_environment_is_refused(variables: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        world_from_environment(variables)


def test_without_an_address_the_variables_are_named() -> None:
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        address_from_environment({"WORLD_SIZE": "2", "RANK": "0"})


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 32))
def test_indivisible_steps_are_refused_with_settings_that_fit(
    size: int, count: int, batch_size: int
) -> None:
    if count % size == 0:
        refuse_indivisible(size, count, batch_size)
        return
    with pytest.raises(SettingError, match=f"grad_accum_steps={count} must be") as caught:
        refuse_indivisible(size, count, batch_size)
    advice = dict(word.split("=") for word in caught.value.remedy.split() if "=" in word)
    if not advice:
        assert (count * batch_size) % size
        return
    new_count = int(advice["training.grad_accum_steps"])
    new_batch_size = int(advice["training.batch_size"])
    assert new_count * new_batch_size == count * batch_size
    refuse_indivisible(size, new_count, new_batch_size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nproc", 0),
        ("strategy", "zero"),
        ("step_timeout_s", 0.0),
        ("init_timeout_s", math.inf),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name}="):
        DistributedSettings(**{name: value})


def test_mistakes_of_several_processes_are_reported_together() -> None:
    config = compose("+experiment=classic", *TINY, NO_PLOTS, "device=cuda:0", "distributed.nproc=3")
    problems = "\n".join(check(config, None, world=World(size=2, local_size=2)))
    assert "distributed.nproc=3 must be 2" in problems
    assert "training.grad_accum_steps=1 must be a multiple of 2" in problems
    assert "device=cuda:0 must be auto" in problems


def test_each_process_gets_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = [resolve_device("auto", World(r, 3, r, 3)) for r in range(3)]
    assert devices == [torch.device("cuda", i) for i in (0, 1, 0)]
    assert resolve_device("cpu", World(1, 3, 1, 3)) == torch.device("cpu")


def test_a_command_line_crosses_process_borders() -> None:
    command = CommandLine.parse(["+experiment=wave", "seed=3", "--config-name", "config"])
    assert CommandLine.from_json(command.to_json()) == command


class EverySecond(Ranks):
    """One of two processes, which evaluates its batches and notes their sums."""

    def __init__(self, rank: int, tables: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._rank, self._tables = rank, tables

    def batches_here(self, index: int) -> bool:
        return index % 2 == self._rank

    def add_rows(self, table: torch.Tensor) -> torch.Tensor:
        self._tables[self._rank] = table
        return sum(self._tables.values(), torch.zeros_like(table))


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(0, 2**16))
def test_shared_validation_is_exact(batches: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = torch.nn.Embedding(11, 11)
    windows = [
        (torch.randint(11, (2, 5)), torch.randint(11, (2, 5)), torch.tensor([5 + i, 6]))
        for i in range(batches)
    ]
    tables: dict[int, torch.Tensor] = {}

    def result(ranks: Ranks | None) -> Evaluation:
        return evaluate(model, windows, torch.device("cpu"), ranks=ranks)

    result(EverySecond(0, tables))
    assert result(EverySecond(1, tables)) == result(None)
