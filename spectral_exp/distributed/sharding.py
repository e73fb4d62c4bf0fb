"""A model whose parameters, gradients and optimizer states are divided among processes.

`shard_model` divides them by FSDP2 (`torch.distributed.fsdp.fully_shard`): each process holds some
rows of every parameter, and a block is whole only while it computes. Parameters of no dimension
cannot be divided. They are on all processes, and `complete_gradients` adds up their gradients.

A gradient is the sum over all processes, as if one process had added up all micro-batches. With two
processes and one micro-batch each it has the bits of one process. With more, `exact` adds in the
order of ranks, and so gives the bits of one process with one micro-batch per rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from spectral_exp.distributed.owners import whole_norms
from spectral_exp.distributed.shards import local_part


def shard_model(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    device: torch.device,
    *,
    exact: bool = False,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Divide the parameters of `model`, which are equal on all processes, among them.

    Args:
        model: changed in place; names of parameters stay.
        blocks: its parts that are made whole one after the other.
        device: of the parameters.
        exact: whether gradients are added in the order of ranks.
        group: all processes; None for the default group.
    """
    if group is None:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    else:
        mesh = DeviceMesh.from_group(group, device.type)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(_whole_parameters(model)))
    for part in sharded_parts(model):
        part.set_force_sum_reduction_for_comms(True)
        part.set_gradient_divide_factor(1.0)
        if exact:
            part.set_custom_reduce_scatter(_OrderedReduceScatter())  # type: ignore[arg-type]


def sharded_parts(model: nn.Module) -> list[FSDPModule]:
    """Return the model and its blocks, as far as they are sharded."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def set_gradient_sync(model: nn.Module, is_last_micro_batch: bool) -> None:
    """Add gradients up over processes in the next backward only if it is the last of a step."""
    root = sharded_parts(model)[0]
    root.set_requires_gradient_sync(is_last_micro_batch)
    root.set_is_last_backward(is_last_micro_batch)


def complete_gradients(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Add up the gradients of parameters that are whole on all processes, in the order of ranks."""
    gradients = [p.grad for p in _whole_parameters(model) if p.grad is not None]
    if not gradients:
        return
    own = torch.stack([gradient.detach() for gradient in gradients])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own, group=group)
    for gradient, total in zip(gradients, _sum_in_order(parts), strict=True):
        gradient.copy_(total)


@torch.no_grad()
def clip_gradients(
    parameters: Sequence[Tensor],
    max_norm: float,
    *,
    exact: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Scale gradients down to a norm of at most `max_norm` over all of them; return the norm.

    This is `torch.nn.utils.clip_grad_norm_` for sharded parameters.

    Args:
        parameters: the same on all processes, sharded or not.
        max_norm: > 0; infinite only measures.
        exact: compute the norm of each parameter from the whole gradient, which one process gets.
            This has the bits of one process, and sends every gradient once more.
        group: all processes; None for the default group.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    local = [local_part(gradient) for gradient in gradients]
    norms = _exact_norms(gradients, group) if exact else _norms(gradients, local, group)
    total: Tensor = torch.linalg.vector_norm(norms)
    # As torch's function: without a branch, which would wait for a GPU.
    coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    if math.isfinite(max_norm):
        torch._foreach_mul_(local, coefficient)
    return total


def _norms(
    gradients: Sequence[Tensor], local: Sequence[Tensor], group: dist.ProcessGroup | None
) -> Tensor:
    """Return the norms of gradients, from the squares that each process holds."""
    squares = torch.stack([part.detach().double().square().sum() for part in local])
    divided = [isinstance(gradient, DTensor) for gradient in gradients]
    if dist.get_rank() > 0:  # those of whole parameters count once
        squares *= torch.tensor(divided, device=squares.device)
    dist.all_reduce(squares, group=group)
    return squares.sqrt().to(local[0].dtype)


def _exact_norms(gradients: Sequence[Tensor], group: dist.ProcessGroup | None) -> Tensor:
    """Return the norms of gradients, each computed by one process as it is alone."""
    divided = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    norms = iter(whole_norms(divided, group))
    return torch.stack(
        [
            next(norms) if isinstance(gradient, DTensor) else torch.linalg.vector_norm(gradient)
            for gradient in gradients
        ]
    )


def _whole_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that stay whole on all processes."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 0]


class _OrderedReduceScatter:
    """Adds the gradients of all processes in the order of ranks; called by FSDP2."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for gradients."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Set `output_tensor` to the sum of the parts of `input_tensor` meant for this process."""
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        output_tensor.copy_(_sum_in_order(received.view(group.size(), -1)))


def _sum_in_order(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    total = first.clone()
    for part in others:
        total += part
    return total
