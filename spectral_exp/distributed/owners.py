"""Matrix updates of an optimizer, each computed by the process that owns the matrix.

Both public classes are the `MatrixOwners` of `spectral_exp.optim`. Owners are assigned by cost, the
same on all processes, and a batch of matrices that one process would compute in one call has one
owner. So the results are the bits of one process.

Letters: N matrices of one shape, R rows of each, r rows that a process holds, W processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from spectral_exp.distributed.shards import local_part, row_range

_ALIGNMENT_BYTES = 16


class Update(Protocol):
    """What an optimizer requests; see `spectral_exp.optim.matrix_updates.MatrixUpdate`."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The N matrices, which have the whole shape."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Parts of stacks, each (N, r, ...)."""

    @property
    def compute(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Whole stacks -> the update and N numbers."""

    @property
    def is_rowwise(self) -> bool:
        """Whether rows are independent."""


class _Owners:
    """The processes of a group.

    Args:
        group: all processes; None for the default group.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self._rank, self._size = dist.get_rank(), dist.get_world_size()


class ReplicatedOwners(_Owners):
    """Every process holds all matrices, as with data parallelism. Owners broadcast updates."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return `tensor`."""
        return tensor

    def compute(self, updates: Iterable[Update]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the results of `updates`, which are equal on all processes, in their order."""
        updates = list(updates)
        owners = assign_owners([_cost(update) for update in updates], self._size)
        own = {
            i: update.compute(*update.inputs)
            for i, update in enumerate(updates)
            if owners[i] == self._rank
        }
        results: dict[int, list[Tensor]] = {}
        for owner in range(self._size):
            owned = [i for i in range(len(updates)) if owners[i] == owner]
            if not owned:
                continue
            forms = [form for i in owned for form in _result_forms(updates[i])]
            device = updates[owned[0]].inputs[0].device
            if owner == self._rank:
                message = _pack([part for i in owned for part in own.pop(i)], forms, device)
            else:
                message = _empty(forms, device)
            dist.broadcast(message, src=owner, group=self._group)
            parts = _unpack(message, forms)
            results |= {i: parts[2 * at : 2 * at + 2] for at, i in enumerate(owned)}
        for i in range(len(updates)):
            rows, numbers = results.pop(i)
            yield rows, numbers


class ShardedOwners(_Owners):
    """Every process holds some rows of each matrix, as with `fully_shard`.

    The rows of a matrix go to its owner, and those of its update come back, each in one
    `all_to_all_single` for all matrices.
    """

    def local(self, tensor: Tensor) -> Tensor:
        """Return the rows of a sharded tensor that this process holds; others unchanged."""
        return local_part(tensor)

    def compute(self, updates: Iterable[Update]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the results of `updates`, one for the same matrices on all processes, in order."""
        updates = list(updates)
        whole = [update for update in updates if not update.is_rowwise]
        owned = iter(self._compute_whole(whole)) if whole else iter(())
        for update in updates:
            yield self._compute_rows(update) if update.is_rowwise else next(owned)

    def _compute_whole(self, updates: Sequence[Update]) -> list[tuple[Tensor, Tensor]]:
        owners = assign_owners([_cost(update) for update in updates], self._size)
        by_owner = [
            [update for update, owner in zip(updates, owners, strict=True) if owner == rank]
            for rank in range(self._size)
        ]
        device = updates[0].inputs[0].device
        own = by_owner[self._rank]
        inputs = [
            [_Rows(rows, _n_rows(update)) for update in owned for rows in update.inputs]
            for owned in by_owner
        ]
        stacks = _gather_stacks(inputs, self._group)
        results = [update.compute(*(next(stacks) for _ in update.inputs)) for update in own]
        parts_to_send: list[list[Tensor]] = [[] for _ in range(self._size)]
        for update, (rows, numbers) in zip(own, results, strict=True):
            for rank, parts in enumerate(parts_to_send):
                of_rank = slice(*row_range(_n_rows(update), rank, self._size))
                parts += [rows[:, of_rank], numbers]
        forms_to_receive = [
            [form for update in owned for form in _result_forms(update)] for owned in by_owner
        ]
        returned = _exchange(parts_to_send, forms_to_receive, device, self._group)
        parts_of = [iter(parts) for parts in returned]
        return [(next(parts_of[owner]), next(parts_of[owner])) for owner in owners]

    def _compute_rows(self, update: Update) -> tuple[Tensor, Tensor]:
        """Compute the rows of this process; the numbers are means over the rows of all."""
        first = update.inputs[0]
        rows, numbers = first, first.new_zeros(len(first), dtype=_number_type(first))
        if first.shape[1] > 0:
            rows, numbers = update.compute(*update.inputs)
        numbers = numbers * (first.shape[1] / _n_rows(update))
        dist.all_reduce(numbers, group=self._group)
        return rows, numbers


def whole_norms(tensors: Sequence[DTensor], group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the norm of each sharded tensor (N), computed by one process from all its rows."""
    if not tensors:
        return torch.empty(0)
    size = dist.get_world_size()
    owners = assign_owners([tensor.numel() for tensor in tensors], size)
    by_owner = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(size)]
    inputs = [
        [_Rows(tensors[i].to_local()[None], len(tensors[i])) for i in owned] for owned in by_owner
    ]
    stacks = _gather_stacks(inputs, group)
    local = tensors[0].to_local()
    norms = torch.zeros(len(tensors), dtype=local.dtype, device=local.device)
    for i, stack in zip(by_owner[dist.get_rank()], stacks, strict=True):
        norms[i] = torch.linalg.vector_norm(stack[0])
    dist.all_reduce(norms, group=group)
    return norms


def assign_owners(costs: Sequence[float], size: int) -> list[int]:
    """Return the process for each piece of work, so that all processes have about as much.

    The most expensive piece goes first, each to the process that has the least so far; equal ones
    in their order.
    """
    loads = [0.0] * size
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += costs[i]
    return owners


def _n_rows(update: Update) -> int:
    """Return the rows of each of its whole matrices."""
    return update.parameters[0].shape[0]


def _cost(update: Update) -> float:
    """Operations of a transform, up to a factor."""
    first = update.parameters[0]
    numbers = len(update.parameters) * first.numel()
    return numbers * math.log2(first.numel() + 1)


# --- messages -------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """What this process holds (N, r, ...) of a stack with `n_rows` rows in each matrix."""

    part: Tensor
    n_rows: int

    def form(self, rank: int, size: int) -> _Form:
        """Return the form of what `rank` holds."""
        start, stop = row_range(self.n_rows, rank, size)
        shape = torch.Size([len(self.part), stop - start, *self.part.shape[2:]])
        return _Form(self.part.dtype, shape)


def _gather_stacks(
    by_owner: Sequence[Sequence[_Rows]], group: dist.ProcessGroup | None
) -> Iterator[Tensor]:
    """Send rows of `by_owner[rank]` to each rank; return the whole stacks for this process."""
    rank, size = dist.get_rank(), len(by_owner)
    device = next(rows.part.device for owned in by_owner for rows in owned)
    received = _exchange(
        [[rows.part for rows in owned] for owned in by_owner],
        [[rows.form(source, size) for rows in by_owner[rank]] for source in range(size)],
        device,
        group,
    )
    # Not a generator function: also a process that owns nothing must send.
    return (torch.cat(parts, dim=1) for parts in zip(*received, strict=True))


def _exchange(
    parts: Sequence[Sequence[Tensor]],
    forms: Sequence[Sequence[_Form]],
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> list[list[Tensor]]:
    """Send `parts[rank]` to each rank, and return what each has sent, of `forms[rank]`."""
    own_forms = [[_Form(part.dtype, part.shape) for part in to_rank] for to_rank in parts]
    sent_bytes = [sum(form.padded_bytes for form in to_rank) for to_rank in own_forms]
    sent = _pack(list(chain(*parts)), list(chain(*own_forms)), device)
    received_bytes = [sum(form.padded_bytes for form in from_rank) for from_rank in forms]
    received = torch.empty(sum(received_bytes), dtype=torch.uint8, device=device)
    dist.all_to_all_single(received, sent, received_bytes, sent_bytes, group=group)
    pieces = torch.split(received, received_bytes)
    return [_unpack(piece, of_rank) for piece, of_rank in zip(pieces, forms, strict=True)]


class _Form(NamedTuple):
    """Type and shape of a tensor in a message."""

    dtype: torch.dtype
    shape: torch.Size

    @property
    def padded_bytes(self) -> int:
        size = self.shape.numel() * self.dtype.itemsize
        return size + -size % _ALIGNMENT_BYTES


def _result_forms(update: Update) -> list[_Form]:
    """The forms of what this process gets of an update: its rows, and the numbers."""
    first = update.inputs[0]
    return [_Form(first.dtype, first.shape), _Form(_number_type(first), first.shape[:1])]


def _number_type(matrices: Tensor) -> torch.dtype:
    """The type of the numbers of an update; half precisions are computed in float32."""
    return torch.float64 if matrices.dtype == torch.float64 else torch.float32


def _empty(forms: Sequence[_Form], device: torch.device) -> Tensor:
    n_bytes = sum(form.padded_bytes for form in forms)
    return torch.empty(n_bytes, dtype=torch.uint8, device=device)


def _pack(parts: Sequence[Tensor], forms: Sequence[_Form], device: torch.device) -> Tensor:
    """Return tensors of `forms` as one message of bytes."""
    message = _empty(forms, device)
    for place, part in zip(_unpack(message, forms), parts, strict=True):
        place.copy_(part)
    return message


def _unpack(message: Tensor, forms: Sequence[_Form]) -> list[Tensor]:
    """Return views of the tensors of `forms` in a message."""
    views = []
    start = 0
    for form in forms:
        n_bytes = form.shape.numel() * form.dtype.itemsize
        views.append(message[start : start + n_bytes].view(form.dtype).view(form.shape))
        start += form.padded_bytes
    return views
