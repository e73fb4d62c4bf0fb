"""A kept copy of the state, so that it can be written while training goes on."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from spectral_exp.core.worker import BackgroundThread, Latch
from spectral_exp.monitoring.checkpoint.archive import Image, flat_bytes, lay_out_storages
from spectral_exp.monitoring.checkpoint.portable import portable_state
from spectral_exp.monitoring.checkpoint.zip_layout import Record
from spectral_exp.monitoring.torch_private import change_count, storage_id

_PAGE = 4096
_PIECE_BYTES = 8 << 20
_SAMPLE_BYTES = 64

_Bytes = npt.NDArray[np.uint8]


class StagingArena:
    """Memory for one copy of the state, allocated once and used again for every save."""

    def __init__(self) -> None:
        self.memory: _Bytes = np.empty(0, np.uint8)
        self.helper = BackgroundThread("checkpoint copier", is_optional=True)
        """Copies beside the writer's thread while the one that trains waits."""
        self._owner: object = None
        self._pinned = False

    def reserve(self, storages: Sequence[torch.UntypedStorage]) -> list[Record]:
        """Allocate the memory for a copy of `storages`, and return their places in it.

        These are as in the archive that begins with them. Memory that is large enough is kept.
        """
        records = lay_out_storages([storage.nbytes() for storage in storages])
        needed = records[-1].end if records else 0
        pinned = any(storage.device.type == "cuda" for storage in storages)
        if needed <= self.memory.size and pinned <= self._pinned:
            return records
        # The old memory goes before the new one comes: there is never more than one copy.
        self.memory, self._owner, self._pinned = np.empty(0, np.uint8), None, False
        needed += needed // 64  # a little room, for states that grow
        if pinned:
            tensor = torch.empty(needed, dtype=torch.uint8, pin_memory=True)
            self.memory = tensor.numpy()
            self._owner = tensor
        else:
            area = mmap.mmap(-1, needed)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                area.madvise(mmap.MADV_HUGEPAGE)
            self.memory = np.frombuffer(area, np.uint8)
        self._pinned = pinned
        # Memory costs most when it is touched for the first time.
        self.memory[::_PAGE] = 0
        return records


class StateChangedError(Exception):
    """A tensor was changed before its copy was complete.

    Args:
        tensor: the one that was changed, as it was given to be watched.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__("the state was changed before it was copied")
        self.tensor = tensor


class Watch:
    """Detects changes of tensors in place.

    Torch counts the changes that it makes, except for those by fused optimizers, through `.data`
    and through numpy. Therefore the first bytes of weights on the CPU are compared too: a change of
    a whole tensor shows in them.

    Args:
        tensors: to watch.
        n_weights: how many of them, from the first on, are weights.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], n_weights: int = 0) -> None:
        self._tensors = tensors
        self._n_weights = n_weights
        self._before = self._facts()

    def check(self) -> None:
        """Raise StateChangedError if one of the tensors has been changed."""
        for tensor, now, before in zip(self._tensors, self._facts(), self._before, strict=True):
            if now != before:
                raise StateChangedError(tensor)

    def _facts(self) -> list[tuple[object, object]]:
        """Torch's count of changes of every tensor, and the first bytes of weights."""
        samples = [_first_bytes(tensor) for tensor in self._tensors[: self._n_weights]]
        versions = [change_count(tensor) for tensor in self._tensors]
        return list(itertools.zip_longest(versions, samples, fillvalue=b""))


class Staged:
    """A state on its way into an arena, which no other copy may be using.

    The writer's thread copies (`copy`); the thread that trains waits (`finish`), and may be
    interrupted meanwhile.

    Args:
        arena: takes the copy.
        urgent: copied before the constructor returns, into memory of their own: they are few.
        rest: called once for the storages to copy meanwhile.
        watched: the tensors of these storages, which must not be changed before they are copied.
        n_weights: how many of them, from the first on, are weights.
        at_once: copy the rest before the constructor returns as well.
    """

    def __init__(
        self,
        arena: StagingArena,
        urgent: Sequence[torch.UntypedStorage],
        rest: Callable[[], Sequence[torch.UntypedStorage]],
        watched: Sequence[torch.Tensor] = (),
        n_weights: int = 0,
        *,
        at_once: bool = False,
    ) -> None:
        self.is_free = False
        """Whether the calling thread may change the state now."""
        self._copies = {storage_id(storage): _own_copy(storage) for storage in urgent}
        self._arena = arena
        self._rest = rest
        self._events: list[torch.cuda.Event] = []
        self._storages: Sequence[torch.UntypedStorage] = ()
        self._records: Sequence[Record] = ()
        self._pieces: deque[list[tuple[int, int, int]]] = deque()
        self._left = 0
        self._lock = (
            threading.Lock()
        )  # of the threads that copy; one that may be interrupted never takes it
        self._all_copied = Latch()
        self._planned = Latch()
        self._ended = Latch()
        self._error: StateChangedError | None = None
        self._must_plan = True
        on_gpu = [tensor for tensor in watched if not tensor.is_cpu]
        # What runs on a GPU may overwrite the state unless it is launched behind the copies.
        if at_once or on_gpu:
            self._plan()
        if at_once:
            self._copy_at_once()
            watched, on_gpu = (), []
        self._watch = Watch(watched, n_weights)
        self._watch_gpu = Watch(on_gpu)

    def copy(self) -> Image:
        """Copy, and return the copy when every byte of it is there; the next one overwrites it.

        For the writer's thread, once.

        Raises:
            StateChangedError: something was changed meanwhile.
        """
        try:
            if self._must_plan:
                self._plan()
            self._planned.set()
            if self._left:
                self._copy_pieces()
                self._all_copied.wait()
            self._check(self._watch)
        finally:
            if not self._planned.is_set:
                self._planned.set()
            self._ended.set()
        for event in self._events:
            event.synchronize()
        self._check(self._watch_gpu)
        if self._error is not None:
            raise self._error
        keys = {storage_id(storage): key for key, storage in enumerate(self._storages)}
        return Image(self._arena.memory.data, self._records, keys, self._copies)

    def finish(self, timeout_s: float | None = None) -> bool:
        """Wait until the state may change, at most `timeout_s`; return whether it may. For any
        thread.

        On a GPU the copies go on, and later work on that GPU waits for them.
        """
        if self.is_free:
            return True
        start_s = time.monotonic()
        if not self._planned.wait(timeout_s):
            return False
        # Two threads copy faster than one, and this one has nothing else to do.
        helper = self._arena.helper
        if len(self._pieces) > 1 and not helper.busy:
            helper.start(self._copy_pieces)
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - start_s))
        if not self._ended.wait(left_s):
            return False
        self._make_gpus_wait()
        self._check(self._watch_gpu)
        self.is_free = True
        return True

    def _check(self, watch: Watch) -> None:
        """Remember a change, unless `finish` has allowed it."""
        try:
            watch.check()
        except StateChangedError as error:
            # Looked at last: the state is changed only after `finish` has allowed it.
            if not self.is_free:
                self._error = error

    def _plan(self) -> None:
        """Give every storage its place, and launch the copies from GPUs."""
        # Kept alive, because copies are found by the address of their storage.
        self._storages = [
            storage for storage in self._rest() if storage_id(storage) not in self._copies
        ]
        self._records = self._arena.reserve(self._storages)
        memory = self._arena.memory
        to = memory.ctypes.data
        on_gpu: list[tuple[_Bytes, torch.UntypedStorage]] = []
        on_cpu: list[tuple[int, int, int]] = []
        for storage, record in zip(self._storages, self._records, strict=True):
            if storage.device.type == "cpu":
                on_cpu.append((to + record.start, storage.data_ptr(), record.size))
            else:
                on_gpu.append((memory[record.start : record.end], storage))
        self._pieces.extend(_pieces(on_cpu))
        self._left = len(self._pieces)
        self._begin_on_gpu(on_gpu)
        self._must_plan = False

    def _copy_at_once(self) -> None:
        """Copy storages on the CPU, and make later GPU work wait for the copies from GPUs."""
        for piece in self._pieces:
            _copy(piece)
        self._pieces.clear()
        self._left = 0
        self._make_gpus_wait()
        self.is_free = True

    def _copy_pieces(self) -> None:
        """Copy pieces until none is left.

        In the writer's thread and in its helper's, which no signal interrupts.
        """
        while True:
            try:
                piece = self._pieces.popleft()
            except IndexError:
                return
            _copy(piece)
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._all_copied.set()

    def _make_gpus_wait(self) -> None:
        for event in self._events:
            torch.cuda.current_stream(event.device).wait_event(event)

    def _begin_on_gpu(self, pairs: Sequence[tuple[_Bytes, torch.UntypedStorage]]) -> None:
        """Launch the copies from GPUs on separate streams, behind the work launched so far."""
        for place, storage in pairs:
            if (
                storage.device.type != "cuda"
            ):  # an accelerator without streams of ours: copied at once
                place[:] = flat_bytes(storage).cpu().numpy()
        for device in sorted(
            {storage.device for _, storage in pairs if storage.device.type == "cuda"}, key=str
        ):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for place, storage in pairs:
                    if storage.device == device:
                        source = flat_bytes(storage)
                        torch.from_numpy(place).copy_(source, non_blocking=True)
                        source.record_stream(stream)
                self._events.append(stream.record_event())


def synchronize_gpus(tensors: Iterable[torch.Tensor]) -> None:
    """Wait for all work on the GPUs of `tensors`, so that any thread may read them."""
    for device in sorted({tensor.device for tensor in tensors if tensor.is_cuda}, key=str):
        torch.cuda.synchronize(device)


def storages_of(tensors: Iterable[torch.Tensor]) -> list[torch.UntypedStorage]:
    """The storages of tensors, each once.

    Those that are hidden in sparse and quantized ones are left out.
    """
    found = {}
    for tensor in tensors:
        if tensor.layout == torch.strided and not tensor.is_quantized:
            storage = tensor.untyped_storage()
            found[storage_id(storage)] = storage
    return list(found.values())


def storages_of_state(state: object) -> list[torch.UntypedStorage]:
    """The storages that a checkpoint of a nested `state` copies."""
    tensors: list[torch.Tensor] = []
    portable_state(state, "state", tensors)
    return storages_of(tensors)


def _first_bytes(tensor: torch.Tensor) -> bytes:
    """The first bytes of a tensor on the CPU."""
    is_plain = type(tensor) is torch.Tensor and tensor.is_cpu and tensor.layout is torch.strided
    if not is_plain or not tensor.is_contiguous():
        return b""
    return ctypes.string_at(tensor.data_ptr(), min(tensor.nbytes, _SAMPLE_BYTES))


def _copy(piece: list[tuple[int, int, int]]) -> None:
    for to, source, size in piece:
        ctypes.memmove(to, source, size)


def _own_copy(storage: torch.UntypedStorage) -> memoryview:
    source = flat_bytes(storage)
    copy = source.clone() if source.device.type == "cpu" else source.cpu()
    return copy.numpy().data


def _pieces(copies: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Join small copies (to, from, bytes) and split large ones into lists of similar size."""
    together: list[tuple[int, int, int]] = []
    n_bytes = 0
    for to, source, size in copies:
        for at in range(0, size, _PIECE_BYTES):
            together.append((to + at, source + at, min(size - at, _PIECE_BYTES)))
            n_bytes += together[-1][2]
            if n_bytes >= _PIECE_BYTES:
                yield together
                together, n_bytes = [], 0
    if together:
        yield together
