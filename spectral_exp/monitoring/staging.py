"""A kept copy of the state, so that it can be written while training goes on."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from spectral_exp.monitoring.archive import Image, flat_bytes, lay_out_storages, storage_id
from spectral_exp.monitoring.zip_layout import Record

_PAGE = 4096
_PIECE_BYTES = 8 << 20

_Bytes = npt.NDArray[np.uint8]


class StagingArena:
    """Memory for one copy of the state, taken once, touched before it is needed and used again for every save."""

    def __init__(self) -> None:
        self.memory: _Bytes = np.empty(0, np.uint8)
        self._owner: object = None
        self._pinned = False

    def reserve(self, storages: Sequence[torch.UntypedStorage]) -> list[Record]:
        """Take, and touch, the memory that a copy of `storages` needs, and return their places in it.

        These are as in the archive that begins with them. Memory that is large enough is kept.
        """
        records = lay_out_storages([storage.nbytes() for storage in storages])
        needed = records[-1].end if records else 0
        pinned = any(storage.device.type == "cuda" for storage in storages)
        if needed <= self.memory.size and pinned <= self._pinned:
            return records
        # The old memory goes before the new one comes: there is never more than one copy.
        self.memory, self._owner = np.empty(0, np.uint8), None
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


class Staged:
    """A state on its way into an arena, which no other copy may be using.

    Args:
        arena: takes the copy.
        urgent: copied before the constructor returns, into memory of their own: they are few.
        rest: called once, by whichever thread is first, for the storages to copy meanwhile.
    """

    def __init__(
        self,
        arena: StagingArena,
        urgent: Sequence[torch.UntypedStorage],
        rest: Callable[[], Sequence[torch.UntypedStorage]],
    ) -> None:
        self._copies = {storage_id(storage): _own_copy(storage) for storage in urgent}
        self._arena = arena
        self._rest = rest
        self._events: list[torch.cuda.Event] = []
        self._storages: Sequence[torch.UntypedStorage] = ()
        self._records: Sequence[Record] = ()
        self._pieces: deque[list[tuple[int, int, int]]] = deque()
        self._lock = threading.Lock()
        self._planned = False
        self._left = 0
        self._copied = threading.Event()

    def plan(self) -> None:
        """Give every storage its place, and launch the copies from GPUs; does nothing the second time.

        What runs on a GPU may overwrite the state unless it is launched behind the copies: call it at once there.
        """
        with self._lock:
            if self._planned:
                return
            # Kept, because what is copied is known by its address.
            self._storages = [storage for storage in self._rest() if storage_id(storage) not in self._copies]
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
            self._begin_on_gpu(on_gpu)
            self._left = len(self._pieces)
            if not self._left:
                self._copied.set()
            self._planned = True

    def finish(self) -> None:
        """Take part in the copying and return when everything has been read; also called by several threads at once.

        On a GPU the copies go on, but what is launched from now on waits for them there.
        """
        self.plan()
        while True:
            try:
                piece = self._pieces.popleft()
            except IndexError:
                break
            for to, source, size in piece:
                ctypes.memmove(to, source, size)
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._copied.set()
        self._copied.wait()
        for event in self._events:
            torch.cuda.current_stream(event.device).wait_event(event)

    def synchronize(self) -> Image:
        """Return the copy when every byte of it is there, those of GPUs too; the next one overwrites it."""
        self.finish()
        for event in self._events:
            event.synchronize()
        keys = {storage_id(storage): key for key, storage in enumerate(self._storages)}
        return Image(self._arena.memory.data, self._records, keys, self._copies)

    def _begin_on_gpu(self, pairs: Sequence[tuple[_Bytes, torch.UntypedStorage]]) -> None:
        """Launch the copies from GPUs on streams of their own, behind what has been computed so far."""
        for place, storage in pairs:
            if storage.device.type != "cuda":  # an accelerator without streams of ours: copied at once
                place[:] = flat_bytes(storage).cpu().numpy()
        for device in sorted({storage.device for _, storage in pairs if storage.device.type == "cuda"}, key=str):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for place, storage in pairs:
                    if storage.device == device:
                        source = flat_bytes(storage)
                        torch.from_numpy(place).copy_(source, non_blocking=True)
                        source.record_stream(stream)
                self._events.append(stream.record_event())


def storages_of(tensors: Iterable[torch.Tensor]) -> list[torch.UntypedStorage]:
    """The storages of tensors, each once; those that are hidden in sparse and quantized ones are left out."""
    found = {}
    for tensor in tensors:
        if tensor.layout == torch.strided and not tensor.is_quantized:
            storage = tensor.untyped_storage()
            found[storage_id(storage)] = storage
    return list(found.values())


def _own_copy(storage: torch.UntypedStorage) -> memoryview:
    source = flat_bytes(storage)
    copy = source.clone() if source.device.type == "cpu" else source.cpu()
    return copy.numpy().data


def _pieces(copies: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Copies (to, from, bytes) as lists of about the same size: small ones together, large ones in parts."""
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
