"""The state of sharded models and optimizers in checkpoints.

`gather_state` makes an ordinary checkpoint of it: one tensor at a time is whole on the device, and
rank 0 gets all of them in the memory of its CPU. `split_state` takes what each process holds as it
is, for states that no machine can hold. The `divide_...` functions load both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from spectral_exp.distributed.divided import DividedTensor, stand_in
from spectral_exp.distributed.shards import row_range


class GatheredModel(nn.Module):
    """Stands for a sharded model in a checkpoint: it has the whole state and nothing else.

    Args:
        state: as `state_dict` of the model returns it, with plain tensors.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__()
        self._state = state

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the whole state."""
        return self._state


class GatheredOptimizer:
    """Stands for the optimizer of a sharded model in a checkpoint.

    Args:
        state: as `state_dict` of the optimizer returns it, with plain tensors.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state."""
        return self._state


def gather_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[GatheredModel, GatheredOptimizer] | None:
    """Return the whole state of both in the memory of rank 0, or None on other ranks.

    All processes call it together. The tensors of the result share no memory with the model.
    """
    keeps = dist.get_rank() == 0
    weights = _gather(model.state_dict(keep_vars=True), keeps)
    moments = _gather(optimizer.state_dict(), keeps)
    return (GatheredModel(weights), GatheredOptimizer(moments)) if keeps else None


@torch.no_grad()
def collect_weights(model: nn.Module, copy: nn.Module | None) -> None:
    """Copy parameters and buffers of a sharded model into a whole one, `copy`, if there is one.

    All processes call it together.
    """
    state = model.state_dict()
    own = {} if copy is None else copy.state_dict()
    for name, value in state.items():
        whole = _whole(value)
        if copy is not None:
            own[name].copy_(whole)


def collect_optimizer(optimizer: torch.optim.Optimizer, copy: torch.optim.Optimizer | None) -> None:
    """Give the state of an optimizer of sharded parameters to that of the whole ones, `copy`."""
    state = _gather(optimizer.state_dict(), copy is not None)
    if copy is not None:
        copy.load_state_dict(state)


@torch.no_grad()
def collect_gradients(model: nn.Module, copy: nn.Module | None) -> None:
    """Give the gradients of a sharded model to a whole one, `copy`, if there is one."""
    wholes = dict(copy.named_parameters()) if copy is not None else {}
    for name, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else _whole(parameter.grad)
        if copy is not None:
            wholes[name].grad = None if gradient is None else gradient.to("cpu", copy=True)


class GroupMembers:
    """This process among those of the default group, which exchanges numbers on the CPU.

    Attributes:
        rank: of this process.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return the numbers that each process has passed, in the order of ranks."""
        own = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(found, own)
        return [values.tolist() for values in found]


class SplitState(NamedTuple):
    """The state of a sharded model and its optimizer as one process holds it.

    Attributes:
        model: its state, with stand-ins for divided tensors.
        optimizer: its state, with stand-ins too.
        rows: the rows of divided tensors that this process holds, by entry of the checkpoint.
        members: the processes that hold the other rows.
    """

    model: GatheredModel
    optimizer: GatheredOptimizer
    rows: dict[str, dict[Any, Any]]
    members: GroupMembers


def split_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> SplitState:
    """Return the state as this process holds it; the rows share memory with the model."""
    weights = model.state_dict()
    moments = optimizer.state_dict()
    states = moments["state"]
    rows: dict[str, dict[Any, Any]] = {
        "model_state_dict": _rows(weights),
        "optimizer_state_dict": {number: _rows(entries) for number, entries in states.items()},
    }
    stood_in = {number: _with_stand_ins(entries) for number, entries in states.items()}
    return SplitState(
        GatheredModel(_with_stand_ins(weights)),
        GatheredOptimizer({**moments, "state": stood_in}),
        rows,
        GroupMembers(),
    )


def _rows(state: Mapping[str, Any]) -> dict[str, Tensor]:
    divided = {name: value for name, value in state.items() if isinstance(value, DTensor)}
    return {name: value.to_local().detach() for name, value in divided.items()}


def _with_stand_ins(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    result = OrderedDict(
        (name, stand_in(value.shape) if isinstance(value, DTensor) else value)
        for name, value in state.items()
    )
    _copy_versions(state, result)
    return result


def divide_model_state(state: Mapping[str, Any], model: nn.Module) -> OrderedDict[str, Any]:
    """Return the state of a whole model as this process holds it of the sharded `model`.

    Args:
        state: what a checkpoint holds, mapped from a file or in memory; names that the model lacks
            stay as they are, for `load_state_dict` to report.
        model: the sharded model.
    """
    own = model.state_dict()
    divided = OrderedDict((name, _divide(value, own.get(name))) for name, value in state.items())
    _copy_versions(state, divided)
    return divided


def divide_optimizer_state(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return the state of a whole optimizer as this process holds it of the sharded `optimizer`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))
    divided = {
        number: {name: _divide(value, by_number.get(number)) for name, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": divided}


@torch.no_grad()
def _gather(state: Any, keeps: bool) -> Any:
    """Return nested `state` with whole tensors on the CPU if `keeps`, else an empty one."""
    known: dict[int, Tensor] = {}  # tied weights are gathered and kept once

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in known:
                known[id(value)] = whole(value)
            return known[id(value)]
        if isinstance(value, OrderedDict):
            ordered = OrderedDict((key, convert(item)) for key, item in value.items())
            _copy_versions(value, ordered)
            return ordered
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(convert(item) for item in value)
        return value

    def whole(value: Tensor) -> Tensor:
        full = _whole(value)
        plain = torch.empty(0)
        if keeps:
            plain = full.to("cpu", copy=full is value)
        if isinstance(value, nn.Parameter):
            return nn.Parameter(plain, requires_grad=False)
        return plain

    return convert(state)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _copy_versions(state: Mapping[str, Any], copy: OrderedDict[str, Any]) -> None:
    """Let `copy` keep the versions of module layouts that a `state_dict` has."""
    if (versions := getattr(state, "_metadata", None)) is not None:
        copy._metadata = versions  # type: ignore[attr-defined]


def _divide(value: Any, like: Any) -> Any:
    """Return the rows of a whole or divided tensor that this process holds if `like` is divided."""
    if not isinstance(like, DTensor) or getattr(value, "shape", None) != like.shape:
        return value
    if isinstance(value, DividedTensor):
        mesh = like.device_mesh
        n_rows, rank, size = value.shape[0], mesh.get_local_rank(), mesh.size()
        rows = value.rows(*row_range(n_rows, rank, size)).to(like.device)
        return DTensor.from_local(
            rows, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    if not isinstance(value, Tensor):
        return value
    divided = distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    # A tensor of its own, instead of a view of a mapped file.
    return divided.clone()
