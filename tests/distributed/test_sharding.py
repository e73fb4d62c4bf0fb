"""Sharded training against one process, with real processes over gloo."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from spectral_exp.distributed.full_state import (
    divide_model_state,
    divide_optimizer_state,
    gather_state,
    split_state,
)
from spectral_exp.distributed.owners import ReplicatedOwners, ShardedOwners
from spectral_exp.distributed.sharding import (
    clip_gradients,
    complete_gradients,
    set_gradient_sync,
    shard_model,
)
from spectral_exp.models.gpt import GPT
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.reader import read_checkpoint
from spectral_exp.monitoring.checkpoint.shards import SHARDS_ENTRY, write_shards
from spectral_exp.optim import build_adamw, build_rgd
from spectral_exp.optim.rgd import RGD
from spectral_exp.runs.layout import RunPaths
from tests.distributed.ranks import backward, small_model, spawn

CPU = torch.device("cpu")
STEPS = 3

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Build] = {
    "adamw": lambda groups: build_adamw(groups, 1e-2),
    "rgd": lambda groups: build_rgd(groups, 1e-2, warmup_steps=3, resonance_strength=0.6),
    "rgd_tables": lambda groups: build_rgd(
        groups, 1e-2, warmup_steps=0, gate_embeddings="channels", gate_every=2
    ),
    "rgd_all": lambda groups: build_rgd(groups, 1e-2, warmup_steps=0, gate_embeddings="both"),
    "rgd_muon": lambda groups: build_rgd(groups, 1e-2, warmup_steps=3, direction="muon"),
    "rgd_muon_0": lambda groups: build_rgd(groups, 1e-2, resonance_strength=0.0, direction="muon"),
}


def take_step(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    step: int,
    n_micro_batches: int,
    grad_clip: float,
    *,
    exact: bool = False,
) -> list[float]:
    """Take one step with the micro-batches of this process; return their losses and the norm."""
    optimizer.zero_grad()
    sharded, size, rank = dist.is_initialized(), 1, 0
    if sharded:
        size, rank = dist.get_world_size(), dist.get_rank()
    losses = []
    own = range(rank, n_micro_batches, size)
    for micro_step in own:
        if sharded:
            set_gradient_sync(model, micro_step == own[-1])
        losses += backward(model, step, [micro_step], n_micro_batches)
    parameters = list(model.parameters())
    if sharded:
        complete_gradients(model)
        norm = clip_gradients(parameters, grad_clip, exact=exact)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()
    return [*losses, norm.item()]


def build(name: str, kind: str = "") -> tuple[GPT, torch.optim.Optimizer]:
    model = build_model(kind)
    return model, OPTIMIZERS[name](model.parameter_groups())


def build_model(kind: str) -> GPT:
    return small_model(tie_weights=kind == "tied", is_odd=kind == "odd")


def build_sharded(
    name: str, kind: str = "", *, exact: bool = False
) -> tuple[GPT, torch.optim.Optimizer]:
    model = build_model(kind)
    shard_model(model, model.blocks, CPU, exact=exact)
    optimizer = OPTIMIZERS[name](model.parameter_groups())
    if isinstance(optimizer, RGD):
        optimizer.owners = ShardedOwners()
    return model, optimizer


def train(name: str, n_micro_batches: int, grad_clip: float, kind: str) -> dict[str, Any]:
    """What one process arrives at."""
    model, optimizer = build(name, kind)
    numbers, states = [], []
    for step in range(1, STEPS + 1):
        numbers.append(take_step(model, optimizer, step, n_micro_batches, grad_clip))
        states.append(copy.deepcopy((model.state_dict(), optimizer.state_dict())))
    resonance = resonance_of(optimizer) if isinstance(optimizer, RGD) else None
    return {"numbers": numbers, "states": states, "resonance": resonance}


def assert_state(found: Any, expected: Any, tolerance: float = 0.0, where: str = "") -> None:
    """Compare nested states; with a tolerance of 0, bit for bit."""
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape, where
        assert found.dtype == expected.dtype, where
        if tolerance == 0.0:
            assert torch.equal(found, expected), where
        else:
            torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance, msg=where)
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_state(found[key], expected[key], tolerance, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_state(one, other, tolerance, f"{where}[{i}]")
    else:
        assert found == expected, where


def compare(
    folder: Path, name: str, n_micro_batches: int, grad_clip: float, kind: str,
    *, exact: bool, tolerance: float,
) -> None:  # fmt: skip
    """Train sharded and compare each step with one process."""
    expected = torch.load(folder / file_name(name, n_micro_batches, grad_clip, kind))
    model, optimizer = build_sharded(name, kind, exact=exact)
    rank, size = dist.get_rank(), dist.get_world_size()
    for step in range(1, STEPS + 1):
        *losses, norm = take_step(model, optimizer, step, n_micro_batches, grad_clip, exact=exact)
        *all_losses, expected_norm = expected["numbers"][step - 1]
        if tolerance == 0.0:
            assert losses == all_losses[rank::size]
        assert losses == pytest.approx(all_losses[rank::size], abs=1e-5)
        assert norm == (
            expected_norm if exact and tolerance == 0.0 else pytest.approx(expected_norm, rel=1e-5)
        )
        gathered = gather_state(model, optimizer)
        if gathered is not None:
            weights, moments = expected["states"][step - 1]
            assert_state(gathered[0].state_dict(), weights, tolerance, f"{name} step {step}")
            found = gathered[1].state_dict()
            assert found["param_groups"] == moments["param_groups"]
            assert_state(found["state"], moments["state"], tolerance, f"{name} step {step}")
    if isinstance(optimizer, RGD):
        assert resonance_of(optimizer) == pytest.approx(expected["resonance"], rel=1e-5)


def resonance_of(optimizer: RGD) -> float | None:
    resonance = optimizer.metrics().get("resonance")
    return None if resonance is None else resonance.item()


def file_name(name: str, n_micro_batches: int, grad_clip: float, kind: str) -> str:
    return f"{name}-{n_micro_batches}-{grad_clip}-{kind}.pt"


def two_ranks(rank: int, folder: Path) -> None:
    for name in OPTIMIZERS:
        compare(
            folder, name, 2, math.inf, "tied" if name == "rgd" else "", exact=False, tolerance=0.0
        )
    compare(folder, "rgd", 2, 0.05, "", exact=True, tolerance=0.0)
    compare(folder, "rgd", 2, 0.05, "", exact=False, tolerance=1e-5)
    check_checkpoint(rank, folder)
    check_bf16(rank)
    check_replicated(folder)


def four_ranks(rank: int, folder: Path) -> None:
    compare(folder, "rgd", 4, 0.05, "", exact=True, tolerance=0.0)
    compare(folder, "rgd_all", 4, 0.05, "odd", exact=False, tolerance=1e-5)
    compare(folder, "rgd_muon", 4, 0.05, "", exact=True, tolerance=0.0)
    check_loading(folder, "rgd", 4)


def check_checkpoint(rank: int, folder: Path) -> None:
    """An ordinary checkpoint is written by rank 0, and continues on the same ranks bit for bit."""
    model, optimizer = build_sharded("rgd")
    for step in (1, 2):
        take_step(model, optimizer, step, 4, math.inf)
    gathered = gather_state(model, optimizer)
    if gathered is not None:
        CheckpointManager(folder / "run").save_checkpoint(2, *gathered, [1.0, 2.0], {})
    manager = CheckpointManager(folder / "sharded")
    split = split_state(model, optimizer)
    index = write_shards(manager.paths, 2, split.rows, split.members)
    if rank == 0:
        extra = {SHARDS_ENTRY: index}
        manager.save_checkpoint(2, split.model, split.optimizer, [1.0, 2.0], {}, extra=extra)
    dist.barrier()
    take_step(model, optimizer, 3, 4, math.inf)
    after = gather_state(model, optimizer)
    for run in ("run", "sharded"):
        other, other_optimizer = load(folder / run, "rgd")
        take_step(other, other_optimizer, 3, 4, math.inf)
        resumed = gather_state(other, other_optimizer)
        if after is not None and resumed is not None:
            for i in range(2):
                assert_state(resumed[i].state_dict(), after[i].state_dict())
            torch.save(after[0].state_dict(), folder / "after.pt")


def load(run: Path, name: str) -> tuple[GPT, torch.optim.Optimizer]:
    """A sharded model and its optimizer with the state of the newest checkpoint."""
    saved = read_checkpoint(RunPaths(run).checkpoint_file(2), mapped=True)
    model, optimizer = build_sharded(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    CheckpointManager.load_weights(model, divide_model_state(saved["model_state_dict"], model))
    optimizer.load_state_dict(divide_optimizer_state(saved["optimizer_state_dict"], optimizer))
    return model, optimizer


def check_loading(folder: Path, name: str, n_micro_batches: int) -> None:
    """The checkpoint of two ranks continues on any other number of them."""
    for run in ("run", "sharded"):
        model, optimizer = load(folder / run, name)
        take_step(model, optimizer, 3, n_micro_batches, math.inf)
        gathered = gather_state(model, optimizer)
        if gathered is not None:
            assert_state(gathered[0].state_dict(), torch.load(folder / "after.pt"), 1e-5)


def check_bf16(rank: int) -> None:
    """Autocast computes what it computes in one process."""
    model, _ = build_sharded("adamw")
    expected = small_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = backward(model, 1, [rank], 2)
        expected_losses = backward(expected, 1, [0, 1], 2)
    assert losses == expected_losses[rank : rank + 1]
    complete_gradients(model)
    for (name, parameter), other in zip(
        model.named_parameters(), expected.parameters(), strict=True
    ):
        gradient = parameter.grad
        assert gradient is not None
        whole = gradient.full_tensor() if parameter.ndim else gradient  # type: ignore[attr-defined]
        assert other.grad is not None
        assert torch.equal(whole, other.grad), name


def check_replicated(folder: Path) -> None:
    """With whole matrices on all processes, owners give the bits of one process."""
    for name in ("rgd", "rgd_tables", "rgd_all", "rgd_muon", "rgd_muon_0"):
        found, expected = build(name), build(name)
        assert isinstance(found[1], RGD)
        found[1].owners = ReplicatedOwners()
        for step in range(1, STEPS + 1):
            for model, optimizer in (found, expected):
                optimizer.zero_grad()
                backward(model, step, [0, 1], 2)
                optimizer.step()
        for i in range(2):
            assert_state(found[i].state_dict(), expected[i].state_dict())
        assert isinstance(expected[1], RGD)
        assert found[1].metrics() == expected[1].metrics()


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_training_equals_one_process(tmp_path: Path) -> None:
    runs = [
        *((name, 2, math.inf, "tied" if name == "rgd" else "") for name in OPTIMIZERS),
        ("rgd", 2, 0.05, ""),
        ("rgd", 4, 0.05, ""),
        ("rgd_all", 4, 0.05, "odd"),
        ("rgd_muon", 4, 0.05, ""),
    ]
    for run in runs:
        torch.save(train(*run), tmp_path / file_name(*run))
    spawn(2, two_ranks, tmp_path)
    check_one_process_continues(tmp_path)
    spawn(4, four_ranks, tmp_path)


def check_one_process_continues(folder: Path) -> None:
    """A checkpoint of several processes is an ordinary one."""
    for run in ("run", "sharded"):
        saved = CheckpointManager(folder / run).load_latest_checkpoint()
        assert saved is not None
        model, optimizer = build("rgd")
        model.load_state_dict(saved["model_state_dict"])
        optimizer.load_state_dict(saved["optimizer_state_dict"])
        take_step(model, optimizer, 3, 4, math.inf)
        assert_state(model.state_dict(), torch.load(folder / "after.pt"), 1e-5)
