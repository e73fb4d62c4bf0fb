"""Torch's checkpoint format, written by ourselves: a zip archive whose pickle names the tensors' bytes.

`torch.save` holds the interpreter lock while it writes, takes its checksums in a pass of its own and can only read live
tensors. Here the bytes come from wherever they were copied to, and the result is the same: a plain `.pt` file for
`torch.load(..., weights_only=True)`, a valid archive for `unzip -t`.

Source: zip as in PKWARE's APPNOTE.TXT (4.3.7, 4.3.12, zip64 in 4.3.14 to 4.5.3), records as torch's serialization
names them.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from spectral_exp.monitoring.checksum import crc32

_FOLDER = "archive"
_STORAGE_ALIGNMENT = 64
_PAGE = 4096
_DATE_1980 = 0x21
_MAX_32, _MAX_16 = 0xFFFFFFFF, 0xFFFF
_PADDING_ID = 0x4246
_ZIP64_ID = 1
_FORMAT_VERSION = b"3\n"
_NO_STORAGE = frozenset({int, str, tuple, float, bool, dict, list, type(None), OrderedDict, torch.Tensor})


class Sink(Protocol):
    """Where an archive goes."""

    def reserve(self, n_bytes: int) -> None:
        """Called once, before the first byte, with the size of the whole archive."""

    def write(self, data: memoryview | bytes, checksum: int | None = None) -> None:
        """Append bytes, and their CRC-32 where it is known."""


@dataclass
class _Record:
    """One file in the archive; `data` may be large."""

    name: bytes
    data: memoryview | bytes
    offset: int
    """Where its header begins."""
    padding: int
    """Bytes that move the data to an aligned place."""

    @classmethod
    def at(cls, offset: int, name: bytes, data: memoryview | bytes) -> _Record:
        """The record that begins at `offset`."""
        alignment = _PAGE if len(data) >= 16 * _PAGE else _STORAGE_ALIGNMENT
        unaligned = offset + 30 + len(name) + 20 * (len(data) >= _zip64_from()) + 4
        return cls(name, data, offset, -unaligned % alignment)

    @property
    def end(self) -> int:
        """Where its data ends, and the next record begins."""
        size = len(self.data)
        return self.offset + 30 + len(self.name) + 20 * (size >= _zip64_from()) + 4 + self.padding + size

    def local_header(self, checksum: int) -> bytes:
        """What stands before the data."""
        size = len(self.data)
        large = size >= _zip64_from()
        extra = struct.pack("<HHQQ", _ZIP64_ID, 16, size, size) if large else b""
        extra += struct.pack("<HH", _PADDING_ID, self.padding) + bytes(self.padding)
        shown = _MAX_32 if large else size
        fixed = struct.pack(
            "<IHHHHHIIIHH",
            0x04034B50, 45 if large else 20, 0, 0, 0, _DATE_1980, checksum, shown, shown, len(self.name), len(extra),
        )  # fmt: skip
        return fixed + self.name + extra

    def directory_entry(self, checksum: int) -> bytes:
        """Its entry in the directory at the end of the archive."""
        size = len(self.data)
        large, far = size >= _zip64_from(), self.offset >= _zip64_from()
        numbers = [size, size] * large + [self.offset] * far
        extra = struct.pack(f"<HH{len(numbers)}Q", _ZIP64_ID, 8 * len(numbers), *numbers) if numbers else b""
        version, shown = 45 if numbers else 20, _MAX_32 if large else size
        fixed = struct.pack(
            "<IHHHHHHIIIHHHHHII",
            0x02014B50, version, version, 0, 0, 0, _DATE_1980, checksum, shown, shown,
            len(self.name), len(extra), 0, 0, 0, 0, _MAX_32 if far else self.offset,
        )  # fmt: skip
        return fixed + self.name + extra


def _zip64_from() -> int:
    """The first size or offset that needs the longer fields."""
    return _MAX_32


def write_archive(sink: Sink, state: Any, staged: Mapping[int, memoryview]) -> None:
    """Write `state` as one checkpoint archive.

    Args:
        sink: takes the bytes in order.
        state: containers, numbers, strings and tensors.
        staged: bytes to write for a storage, by `storage_id`; those of other storages are read where they are.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(state)
    parts: list[tuple[str, memoryview | bytes]] = [
        (f"data/{key}", staged.get(storage_id(storage)) or storage_view(storage))
        for key, storage in enumerate(pickler.storages)
    ]
    parts += [("data.pkl", buffer.getvalue()), ("byteorder", sys.byteorder.encode()), ("version", _FORMAT_VERSION)]
    records: list[_Record] = []
    end = 0
    for name, data in parts:
        records.append(_Record.at(end, f"{_FOLDER}/{name}".encode(), data))
        end = records[-1].end
    sink.reserve(end + len(_directory(records, [0] * len(records), end)))
    checksums = []
    # Small pieces go together: what is done for each piece takes longer than they do.
    small = bytearray()
    for record in records:
        checksums.append(crc32(record.data))
        small += record.local_header(checksums[-1])
        if len(record.data) < 16 * _PAGE:
            small += record.data
        else:
            sink.write(bytes(small))
            small.clear()
            sink.write(record.data, checksums[-1])
    sink.write(bytes(small) + _directory(records, checksums, end))


def storage_id(storage: torch.UntypedStorage) -> int:
    """What tells a storage from every other one that is alive."""
    return int(storage._cdata)


def storage_view(storage: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage where they are; those of another device are copied to the CPU."""
    return flat_bytes(storage).cpu().numpy().data


def flat_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as a tensor of bytes, on its own device and without a copy."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class _StorageReference(NamedTuple):
    """Stands for a storage inside the pickle."""

    kind: type
    key: int
    n_elements: int


class _Pickler(pickle.Pickler):
    """Writes a number wherever a storage stands, and remembers which."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=2)
        self.storages: list[torch.UntypedStorage] = []
        self._keys: dict[int, int] = {}

    def reducer_override(self, value: Any) -> Any:
        # What torch and Python would do for these, without their detours: a third of the time.
        if type(value) is OrderedDict and not value and not vars(value):
            return OrderedDict, ()
        if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_quantized:
            return NotImplemented
        kind = _storage_class(value.dtype)
        if kind is None or value.is_conj() or value.is_neg():
            return NotImplemented
        storage = value.untyped_storage()
        reference = _StorageReference(kind, self._key(storage), storage.nbytes() // value.element_size())
        place = (value.storage_offset(), tuple(value.shape), value.stride())
        return torch._utils._rebuild_tensor_v2, (reference, *place, False, OrderedDict())

    def persistent_id(self, value: Any) -> Any:
        # Asked of every object in the state, of which most are these.
        if type(value) in _NO_STORAGE:
            return None
        # Marked as the CPU's, whatever device it came from, so that it loads anywhere.
        if type(value) is _StorageReference:
            return ("storage", value.kind, str(value.key), "cpu", value.n_elements)
        if isinstance(value, torch.storage.TypedStorage):
            kind = _storage_class(value.dtype) or torch.UntypedStorage
            return ("storage", kind, str(self._key(value._untyped_storage)), "cpu", value._size())  # type: ignore[no-untyped-call]
        if isinstance(value, torch.UntypedStorage):
            return ("storage", torch.UntypedStorage, str(self._key(value)), "cpu", value.nbytes())
        return None

    def _key(self, storage: torch.UntypedStorage) -> int:
        key = self._keys.setdefault(storage_id(storage), len(self._keys))
        if key == len(self.storages):
            self.storages.append(storage)
        return key


@functools.cache
def _storage_class(dtype: torch.dtype) -> type | None:
    """The class that stands for a dtype in the format; None for newer dtypes, which are written in another way."""
    empty = torch.empty(0, dtype=dtype).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=empty, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]
    try:
        kind: type = getattr(torch, typed._pickle_storage_type())  # type: ignore[no-untyped-call]
    except KeyError:
        return None
    return kind


def _directory(records: Sequence[_Record], checksums: Sequence[int], offset: int) -> bytes:
    """The directory that ends the archive and begins at `offset`."""
    entries = b"".join(map(_Record.directory_entry, records, checksums))
    count, size = len(records), len(entries)
    zip64 = b""
    if large := count >= _MAX_16 or max(size, offset) >= _zip64_from():
        zip64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, offset)
        zip64 += struct.pack("<IIQI", 0x07064B50, 0, offset + size, 1)
    fields = (_MAX_16, _MAX_16, _MAX_32, _MAX_32) if large else (count, count, size, offset)
    return entries + zip64 + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, *fields, 0)
