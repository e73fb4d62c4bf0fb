"""One of several processes that train together: `GroupRanks`, by torch.distributed and DDP."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from spectral_exp.core.checksum import crc32
from spectral_exp.core.errors import RunError
from spectral_exp.distributed.interfaces import choose_interface
from spectral_exp.distributed.ranks import Parts, Ranks
from spectral_exp.distributed.rendezvous import Rendezvous, describe_members
from spectral_exp.distributed.settings import DistributedSettings

# The newer and the older name of the same argument.
_SYNC_BUFFERS = ("forward_sync_buffers", "broadcast_buffers")
_CHUNK = 2**22  # numbers per message when gradients are added in order


class GroupRanks(Ranks):
    """One of several processes that train together.

    Losses, gradients and decisions are the same in all processes, so that each of them makes the
    same steps.

    Args:
        rendezvous: where the processes meet.
        settings: of training on several processes.
        device: the device of this process.

    Raises:
        RunError: not all processes can be reached.
    """

    def __init__(
        self, rendezvous: Rendezvous, settings: DistributedSettings, device: torch.device
    ) -> None:
        super().__init__(device)
        self.world = rendezvous.world
        self._rendezvous = rendezvous
        self._settings = settings
        self._ddp: DistributedDataParallel | None = None
        self._parameters: list[nn.Parameter] = []
        self._totals: list[Tensor | None] = []
        self._agreed_signal: int | None = None
        self._main_waits = False
        self._last_bucket_s = 0.0
        self._exchanged_use = [0.0, 0.0]
        self._agreed_s: float | None = None
        self._facts = self._join()

    def _join(self) -> dict[str, Any]:
        """Create the process groups; return the facts about the processes."""
        rendezvous, world = self._rendezvous, self.world
        rendezvous.put(f"device/{world.rank}", str(self._device))
        rendezvous.meet("ready", self._settings.init_timeout_s)
        choose_interface(rendezvous)
        devices = [rendezvous.get(f"device/{rank}") for rank in range(world.size)]
        members = rendezvous.members()
        places = {(m["host"], device) for m, device in zip(members, devices, strict=True)}
        uses_nccl = self._device.type == "cuda" and len(places) == world.size
        timeout = timedelta(seconds=self._settings.step_timeout_s)
        with self.translate_errors():
            if not dist.is_initialized():
                dist.init_process_group(
                    "gloo",
                    store=rendezvous.store,
                    rank=world.rank,
                    world_size=world.size,
                    timeout=timeout,
                )
            self._group = None
            if uses_nccl:
                torch.cuda.set_device(self._device)
                self._group = dist.new_group(backend="nccl", timeout=timeout)
        return {
            **describe_members(members),
            "devices": devices,
            "backend": "nccl" if uses_nccl else "gloo",
            "strategy": self._settings.strategy,
            "exact": self._settings.exact,
        }

    def share_updates(self, optimizer: torch.optim.Optimizer) -> None:
        """Let each matrix update of `optimizer` be computed by one process only."""
        from spectral_exp.distributed.owners import ReplicatedOwners

        optimizer.owners = ReplicatedOwners(self._group)  # type: ignore[attr-defined]

    # --- the computation of a step ---------------------------------------------------------------

    def wrap(self, compute: nn.Module, model: nn.Module) -> nn.Module:
        """Return the module to train with, see `Ranks.wrap`; the weights become those of rank 0."""
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if self._settings.exact:
            self._totals = [None] * len(self._parameters)
            with self.translate_errors(), torch.no_grad():
                for value in (*model.parameters(), *model.buffers()):
                    dist.broadcast(value, 0, group=self._group)
            return compute
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {next(name for name in _SYNC_BUFFERS if name in known): False}
        with self.translate_errors():
            self._ddp = DistributedDataParallel(
                compute, process_group=self._group, gradient_as_bucket_view=True, **options
            )
        # A function without annotations, which DDP would compare with its own types.
        self._ddp.register_comm_hook(None, lambda state, bucket: self._add_bucket(bucket))
        return self._ddp

    def micro_batches(self, count: int) -> range:
        """Return every `size`-th micro-batch, beginning with the rank of this process."""
        return range(self.world.rank, count, self.world.size)

    def gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Return a context that adds the gradients of all processes, at the last backward pass."""
        if self._ddp is None:
            return self._gradients_in_order(is_last)
        return self._timed_gradients() if is_last else self._ddp.no_sync()

    @contextmanager
    def _timed_gradients(self) -> Iterator[None]:
        yield
        # What follows the last local gradient is waiting.
        self.communication_s += time.perf_counter() - self._last_bucket_s

    def _add_bucket(self, bucket: Any) -> Future[Tensor]:
        """Add a bucket of gradients over all processes, without the division of DDP.

        The objective of each micro-batch has been divided by their number already.
        """
        self._last_bucket_s = time.perf_counter()
        buffer: Tensor = bucket.buffer()
        if self.world.size > 2 and buffer.device.type == "cpu":
            return self._add_in_rank_order(buffer)
        work = dist.all_reduce(buffer, group=self._group, async_op=True)
        future: Future[list[Tensor]] = work.get_future()
        return future.then(lambda done: done.value()[0])

    def _add_in_rank_order(self, buffer: Tensor) -> Future[Tensor]:
        """Add a bucket over all processes in the order of ranks; each adds one part of it.

        The order in which `all_reduce` adds a number depends on its place in the bucket, and DDP
        arranges the buckets anew after the first step of a process. So a run that is continued
        would differ from one that is not.
        """
        size = self.world.size
        sent = torch.nn.functional.pad(buffer, (0, -buffer.numel() % size))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group)
        own, *others = received.view(size, -1)
        for part in others:
            own += part
        dist.all_gather_into_tensor(sent, own, group=self._group)
        done: Future[Tensor] = Future()
        done.set_result(buffer.copy_(sent[: buffer.numel()]))
        return done

    @contextmanager
    def _gradients_in_order(self, is_last: bool) -> Iterator[None]:
        """Add gradients in the order of micro-batches, as one process does."""
        yield
        start_s = time.perf_counter()
        for first, last in self._chunks():
            self._add_chunk(first, last)
        if is_last:
            for i, parameter in enumerate(self._parameters):
                parameter.grad, self._totals[i] = self._totals[i], None
        self.communication_s += time.perf_counter() - start_s

    def _add_chunk(self, first: int, last: int) -> None:
        parameters = [
            (i, p) for i, p in enumerate(self._parameters[first:last], first) if p.grad is not None
        ]
        if not parameters:
            return
        own = torch.cat([p.grad.flatten() for _, p in parameters if p.grad is not None])
        gathered = [torch.empty_like(own) for _ in range(self.world.size)]
        dist.all_gather(gathered, own, group=self._group)
        sizes = [p.numel() for _, p in parameters]
        for flat in gathered:
            for (i, p), gradient in zip(parameters, torch.split(flat, sizes), strict=True):
                assert p.grad is not None
                total = self._totals[i]
                if total is None:
                    self._totals[i] = torch.empty_like(p.grad).copy_(gradient.view_as(p))
                else:
                    total.add_(gradient.view_as(p))
        for _, p in parameters:
            p.grad = None

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of parameters of one type with about `_CHUNK` numbers each."""
        first, size = 0, 0
        for i, parameter in enumerate(self._parameters):
            is_other = parameter.dtype != self._parameters[first].dtype
            if i > first and (is_other or size + parameter.numel() > _CHUNK):
                yield first, i
                first, size = i, 0
            size += parameter.numel()
        yield first, len(self._parameters)

    # --- agreement -------------------------------------------------------------------------------

    @property
    def stop_signal(self) -> int | None:
        """The signal that any process had received when the last step was exchanged."""
        return self._agreed_signal

    def exchange(self, step: int, parts: Sequence[Parts], count: int) -> Sequence[Parts]:
        """Return the parts of the losses of all micro-batches, and exchange signals and use.

        Every number has a place that one process writes and that is zero in the others, so the sum
        over all processes is exact. On a CPU this is one operation; on an accelerator the losses
        stay there. The last two places are the sums of `add_use`.
        """
        start_s = time.perf_counter()
        # The signal of each process, `main_may_wait` and `budget_s` of process 0, and `add_use`.
        size = self.world.size
        flags = [0.0] * (size + 2) + self._own_use
        self._own_use = [0.0, 0.0]
        if self.stop is not None and self.stop.signal_number is not None:
            flags[self.world.rank] = float(self.stop.signal_number)
        if self.world.is_main:
            flags[size : size + 2] = float(self.main_may_wait(step)), self.budget_s()
        exchange = self._exchange_numbers if self._device.type == "cpu" else self._exchange_tensors
        shared, flags = exchange(parts, count, flags)
        self._agreed_signal = next((int(n) for n in flags[:size] if n), None)
        self._main_waits, self._agreed_s = bool(flags[size]), flags[size + 1]
        self._add_exchanged_use(flags[size + 2 :])
        self.communication_s += time.perf_counter() - start_s
        return shared

    def _exchange_numbers(
        self, parts: Sequence[Parts], count: int, flags: Sequence[float]
    ) -> tuple[list[Parts], list[float]]:
        """Exchange losses and flags as one vector. Numbers cost less time than small tensors."""
        dtypes = {name: part.dtype for name, part in parts[0].items()}
        width = len(dtypes)
        numbers = [0.0] * (count * width)
        for own, micro_batch in zip(parts, self.micro_batches(count), strict=True):
            first = micro_batch * width
            numbers[first : first + width] = [own[name].item() for name in dtypes]
        vector = torch.tensor([*numbers, *flags], dtype=torch.float64)
        # Gathered and added here, they take less time than in a reduction.
        gathered = [torch.empty_like(vector) for _ in range(self.world.size)]
        dist.all_gather(gathered, vector)
        summed = iter(torch.stack(gathered).sum(dim=0).tolist())
        shared: list[Parts] = [
            {name: torch.tensor(next(summed), dtype=dtype) for name, dtype in dtypes.items()}
            for _ in range(count)
        ]
        return shared, list(summed)

    def _exchange_tensors(
        self, parts: Sequence[Parts], count: int, flags: Sequence[float]
    ) -> tuple[list[Parts], list[float]]:
        """Exchange losses on their device, and flags on the CPU."""
        dtypes = {name: part.dtype for name, part in parts[0].items()}
        table = torch.zeros(count, len(dtypes), dtype=torch.float64, device=self._device)
        for own, micro_batch in zip(parts, self.micro_batches(count), strict=True):
            table[micro_batch] = torch.stack([own[name].detach().double() for name in dtypes])
        dist.all_reduce(table, group=self._group)
        vector = torch.tensor(flags, dtype=torch.float64)
        dist.all_reduce(vector)
        shared: list[Parts] = [
            {name: row[i].to(dtype) for i, (name, dtype) in enumerate(dtypes.items())}
            for row in table
        ]
        return shared, vector.tolist()

    def take_use(self) -> list[float]:
        """Return the seconds of all processes that were exchanged since the last call."""
        use, self._exchanged_use = self._exchanged_use, [0.0, 0.0]
        return use

    def _add_exchanged_use(self, use: Sequence[float]) -> None:
        self._exchanged_use = [a + b for a, b in zip(self._exchanged_use, use, strict=True)]

    def agreed_s(self, own_s: float) -> float:
        """Return the used seconds of the budget, see `Ranks.agreed_s`."""
        return own_s if self._agreed_s is None else self._agreed_s

    def batches_here(self, index: int) -> bool:
        """Return whether this process evaluates validation batch `index`."""
        return index % self.world.size == self.world.rank

    def add_rows(self, table: Tensor) -> Tensor:
        """Return the sum of `table` over all processes, which fill different rows of it."""
        dist.all_reduce(table)
        return table

    @contextmanager
    def waiting_for_main(self, step: int) -> Iterator[None]:
        """Let process 0 wait for long after `step` if it has announced that in the exchange."""
        yield
        if not self._main_waits:
            return
        if self.world.is_main:
            self._rendezvous.put(f"waited/{step}", True)
        else:
            self._rendezvous.wait_without_limit(f"waited/{step}")

    def from_main(self, number: int) -> int:
        """Return `number` of process 0."""
        value = torch.tensor([number], dtype=torch.int64)
        dist.broadcast(value, 0)
        return int(value.item())

    def refuse_different_weights(self, step: int, model: nn.Module) -> None:
        """Raise a RunError if the parameters of the processes differ after `step`."""
        checksums = torch.zeros(self.world.size, dtype=torch.int64)
        checksums[self.world.rank] = _checksum(model)
        dist.all_reduce(checksums)
        for rank, checksum in enumerate(checksums.tolist()):
            if checksum != checksums[0]:
                raise RunError(
                    f"the parameters of rank {rank} differ from those of rank 0 after step {step}; "
                    "all processes need equal processors and packages; give the same command again "
                    "to continue from the newest checkpoint, or train on one process"
                )

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the error of a collective operation into that of the process that has failed."""
        try:
            yield
        except RuntimeError as error:
            if not is_collective_error(error):
                raise
            raise self._rendezvous.cause(error) from error

    def leave(self) -> None:
        """Wait until all processes have finished together, and exchange the last `add_use`."""
        use = torch.tensor(self._own_use, dtype=torch.float64)
        # All steps are done, so that it does not matter if another process has ended already.
        with contextlib.suppress(RuntimeError):
            dist.all_reduce(use)
        self._add_exchanged_use(use.tolist())
        self._own_use = [0.0, 0.0]

    def describe(self) -> dict[str, Any]:
        """Return the record of the processes: number, hosts, devices, backend and strategy."""
        return self._facts


def is_collective_error(error: RuntimeError) -> bool:
    """Return whether a collective operation failed, most likely because of another process."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def close_group() -> None:
    """End the process group of this process, if there is one."""
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # after the failure of another process
            dist.destroy_process_group()


def _checksum(model: nn.Module) -> int:
    """Return a CRC-32 of all parameters."""
    checksum = 0
    for parameter in model.parameters():
        flat = parameter.detach().contiguous().flatten().view(torch.uint8)
        checksum = crc32(flat.cpu().numpy(), checksum)
    return checksum
